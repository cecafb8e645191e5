"""Shrunk encoders: the layers that stay are the source's, and a cut vocabulary changes no score of a text in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification

from disranker.config.shrink import ShrinkConfig
from disranker.data.readers import write_records
from disranker.launch import run_stage
from disranker.models.build import load_tokenizer
from disranker.models.bundle import read_facts
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.models.shrink import choose_layers, shrink
from disranker.models.verify import save_verified
from disranker.schema import Click
from tests.tiny import PAIRS, causal_model, classifier, encoder, pair_tokenizer, prompt_tokenizer, sequences, spread

VOCAB = len(pair_tokenizer())


def classifier_folder(folder: Path, family: str = "bert") -> str:
    """A published cross-encoder, with a tokenizer."""
    model = classifier(family, vocab_size=VOCAB, pad_token_id=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower():
                parameter.normal_(1.0, 0.3)  # a norm that does nothing to what was normed before would hide its absence
    model.save_pretrained(folder)
    pair_tokenizer().save_pretrained(folder)
    return str(folder)


def bundle_folder(folder: Path) -> str:
    model = classifier("bert", vocab_size=VOCAB, pad_token_id=0)
    save_verified(folder, Ranker(model), encoder(), {"training": {"steps": 3}}, PAIRS, dtype="float32")
    return str(folder)


def run(model: str, out: Path, texts: list[str] | None = None, **settings: Any) -> list[str]:
    return shrink(ShrinkConfig(model=model, out=str(out), **settings), texts or [])


# --- layers ---


@pytest.mark.parametrize(
    ("rule", "count", "there", "expected"),
    [
        ("spaced", 6, 12, [0, 2, 4, 7, 9, 11]),  # as DistilBERT took them
        ("spaced", 3, 12, [0, 6, 11]),
        ("spaced", 2, 4, [0, 3]),
        ("spaced", 1, 6, [0]),
        ("spaced", 4, 4, [0, 1, 2, 3]),
        ("first", 3, 12, [0, 1, 2]),
        ("first", 1, 1, [0]),
        ([1, 4], None, 6, [1, 4]),
        (None, None, 3, [0, 1, 2]),
    ],
)
def test_which_layers_stay(rule: Any, count: int | None, there: int, expected: list[int]) -> None:
    assert choose_layers(rule, count, there) == expected


def test_more_layers_than_there_are() -> None:
    with pytest.raises(ValueError, match="num_layers is 7, and the model has 6 layers"):
        choose_layers("first", 7, 6)
    with pytest.raises(ValueError, match="layers names 6, and the model has 6 layers, 0 to 5"):
        choose_layers([0, 6], None, 6)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "modernbert", "deberta-v2"])
def test_the_layers_that_stay_are_those_of_the_source(family: str, tmp_path: Path) -> None:
    run(classifier_folder(tmp_path / "whole", family), tmp_path / "small", layers=[0, 2])
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "small"))
    marker = ".layers." if family == "modernbert" else ".layer."
    places = {0: 0, 1: 2}
    inside = {name for name in after if marker in name}
    assert len(inside) > 10
    for name, tensor in after.items():
        source = name
        for there, here in places.items() if name in inside else ():
            if f"{marker}{there}." in name:
                source = name.replace(f"{marker}{there}.", f"{marker}{here}.")
        assert torch.equal(tensor, before[source]), name
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    assert opened.config.num_hidden_layers == 2
    facts = read_facts(tmp_path / "small")
    assert facts["kind"] == "shrunk-encoder" and facts["shrunk"]["layers"] == [0, 2]


def test_the_first_layers_give_the_hidden_states_of_the_source(tmp_path: Path) -> None:
    whole = spread(AutoModel.from_config(classifier("bert", vocab_size=VOCAB, pad_token_id=0).config)).eval()
    whole.save_pretrained(tmp_path / "whole")
    pair_tokenizer().save_pretrained(tmp_path / "whole")
    lines = run(str(tmp_path / "whole"), tmp_path / "small", layers="first", num_layers=2)
    assert lines[0] == "layers     0, 1 of 3"
    small = AutoModel.from_pretrained(tmp_path / "small").eval()
    ids = torch.from_numpy(sequences([9])[0].ids.astype(np.int64))[None]
    with torch.inference_mode():
        states = whole(ids, output_hidden_states=True).hidden_states
        found = small(ids)
    torch.testing.assert_close(found.last_hidden_state, states[2], rtol=0, atol=1e-6)
    assert torch.equal(small.pooler.dense.weight, whole.pooler.dense.weight)


def test_weights_that_the_source_lacks_are_not_made_up(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    config = classifier("bert", vocab_size=VOCAB, pad_token_id=0).config
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "whole")
    pair_tokenizer().save_pretrained(tmp_path / "whole")
    run(str(tmp_path / "whole"), tmp_path / "small", layers="spaced", num_layers=2)
    names = set(load_file(tmp_path / "small" / "model.safetensors"))
    assert names and not any("pooler" in name or "cls" in name for name in names)


def test_what_cannot_be_taken_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no way known to take layers out of a AlbertForSequenceClassification"):
        run(classifier_folder(tmp_path / "albert", "albert"), tmp_path / "out", layers=[0])
    with pytest.raises(ValueError, match="keep its first one, layer 0, among them"):
        run(classifier_folder(tmp_path / "modernbert", "modernbert"), tmp_path / "out", layers=[1, 2])
    causal_model("llama").save_pretrained(tmp_path / "llama")
    prompt_tokenizer().save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match="is a llama, and this is for encoders"):
        run(str(tmp_path / "llama"), tmp_path / "out", layers=[0])
    assert not (tmp_path / "out").exists()


# --- vocabulary ---


def texts_of(pairs: list[Any]) -> list[str]:
    return [text for pair in pairs for text in pair]


def test_a_bundle_scores_texts_in_use_as_before(tmp_path: Path) -> None:
    used, other = PAIRS[:3], PAIRS[4:]
    name = bundle_folder(tmp_path / "bundle")
    lines = run(name, tmp_path / "small", texts_of(used), vocabulary=[Path("x")])
    before, after = Scorer.load(name), Scorer.load(tmp_path / "small")
    assert np.ptp(before.score(used)) > 0.1
    np.testing.assert_allclose(after.score(used), before.score(used), rtol=0, atol=1e-6)
    assert np.isfinite(after.score(other)).all()  # other words are spelt by what remains
    small, whole = read_facts(tmp_path / "small"), read_facts(name)
    num_tokens = small["shrunk"]["tokens"]
    assert num_tokens < VOCAB and lines[1] == f"tokens     {num_tokens:,} of {VOCAB:,}"
    assert small["num_parameters"] == whole["num_parameters"] - 32 * (VOCAB - num_tokens)
    assert small["fingerprint"] != whole["fingerprint"] == small["shrunk"]["fingerprint"]
    assert (small["template"], small["max_tokens"]) == (whole["template"], whole["max_tokens"])
    assert "training" not in small  # it was not this one that was trained
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert (config["vocab_size"], config["pad_token_id"]) == (num_tokens, 0)
    weights = [load_file(folder / "model.safetensors") for folder in (tmp_path / "bundle", tmp_path / "small")]
    assert torch.equal(weights[0]["classifier.weight"], weights[1]["classifier.weight"])


def test_layers_and_vocabulary_at_once(tmp_path: Path) -> None:
    """The same scores as from the layers alone."""
    name = bundle_folder(tmp_path / "bundle")
    run(name, tmp_path / "layers", layers=[0, 2])
    run(name, tmp_path / "both", texts_of(PAIRS[:3]), layers=[0, 2], vocabulary=[Path("x")])
    scores = [Scorer.load(tmp_path / folder).score(PAIRS[:3]) for folder in ("layers", "both")]
    np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=1e-6)


def test_a_decoders_vocabulary_is_refused(tmp_path: Path) -> None:
    model = classifier("roberta", vocab_size=len(prompt_tokenizer()))
    model.save_pretrained(tmp_path / "roberta")
    prompt_tokenizer().save_pretrained(tmp_path / "roberta")
    with pytest.raises(ValueError, match="the vocabulary of a BPE tokenizer cannot be cut"):
        run(str(tmp_path / "roberta"), tmp_path / "out", ["red"], vocabulary=[Path("x")])


# --- the command ---


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, out = bundle_folder(tmp_path / "bundle"), tmp_path / "small"
    clicks, candidates = tmp_path / "clicks.parquet", tmp_path / "candidates.jsonl"
    write_records(clicks, Click, [Click(*PAIRS[0])])
    row = {"query_id": "q", "doc_id": "d", **PAIRS[2]._asdict()}
    candidates.write_text(json.dumps(row) + "\n")
    argv = ["--model", name, "--out", str(out), "--layers", "spaced", "--num_layers", "2"]
    assert run_stage("shrink", [*argv, "--vocabulary", json.dumps([str(clicks), str(candidates)])]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1] == "  layers     0, 2 of 3" and printed[-1] == f"wrote {out}"
    tokenizer = load_tokenizer(str(out))
    for text in texts_of([PAIRS[0], PAIRS[2]]):
        assert tokenizer.tokenize(text) == pair_tokenizer().tokenize(text)
    assert run_stage("shrink", [*argv, "--num_layers", "9"]) == 1
    assert "num_layers is 9, and the model has 3 layers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to cut: give layers or vocabulary"),
        (["--layers", "first"], "layers first needs num_layers, how many of them stay"),
        (["--layers", "[0, 1]", "--num_layers", "2"], "num_layers is for layers first and spaced"),
        (["--layers", "[2, 1]"], "layers [2, 1] must name at least one, in their order and each once"),
        (["--layers", "[]"], "layers [] must name at least one"),
    ],
)
def test_faults_of_the_call(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage("shrink", ["--model", "m", "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
