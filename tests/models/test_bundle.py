"""Bundles: one pair has one score, whoever opens the folder."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from disranker import dist
from disranker.config.parts import LoraConfig, ModelConfig
from disranker.models.adapters import wrap_lora
from disranker.models.build import build_language_model, build_ranker_model, load_tokenizer
from disranker.models.bundle import default_template, load_bundle, read_facts, save_bundle
from disranker.models.packed import pack
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.text.encode import PairEncoder
from disranker.text.templates import document_text, get_template
from tests.tiny import (
    PAIRS,
    architecture,
    encoder,
    padded,
    pair_tokenizer,
    prompt_tokenizer,
    spread,
    tokenizer_folder,
)

FAMILY_AND_TEMPLATE = [("bert", "pair"), ("modernbert", "pair"), ("llama", "plain"), ("qwen3", "prompt-en")]


def ranker_model(family: str, template: str = "pair") -> PreTrainedModel:
    tokenizer = pair_tokenizer() if template == "pair" else prompt_tokenizer()
    config = ModelConfig(architecture=architecture(family, vocab_size=len(tokenizer)), tokenizer="x", dropout=0.0)
    return spread(build_ranker_model(config, tokenizer, seed=0))


def training_scores(model: Any, encoder: PairEncoder) -> torch.Tensor:
    """The scores of `PAIRS` as the training forward gives them."""
    scores: torch.Tensor = Ranker(model.train())(pack(encoder.encode(PAIRS)))
    assert scores.requires_grad
    return scores.detach()


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A small student bundle."""
    save_bundle(tmp_path / "bert", ranker_model("bert"), encoder("pair"), {})
    return tmp_path / "bert"


# ----------------------------------------------------------------------------------------- one pair, scored four ways


@pytest.mark.parametrize(("family", "template"), FAMILY_AND_TEMPLATE)
def test_training_scorer_and_stock_class_give_one_number(family: str, template: str, tmp_path: Path) -> None:
    model, text = ranker_model(family, template), encoder(template, max_tokens=64)
    trained = training_scores(model, text)
    assert torch.pdist(trained[:, None]).min() > 1e-3
    save_bundle(tmp_path, model, text, {})

    scored = Scorer.load(tmp_path).score(PAIRS)
    np.testing.assert_allclose(scored, trained.numpy(), rtol=0, atol=1e-5)

    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    for side in ("right", "left") if template != "pair" else ("right",):
        inputs = padded(text.encode(PAIRS), stock.config.pad_token_id, side=side)
        if family != "bert":
            del inputs["token_type_ids"]
        with torch.inference_mode():
            theirs = stock(**inputs).logits[:, 0]
        np.testing.assert_allclose(theirs.numpy(), trained.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "template"), [("bert", "pair"), ("llama", "plain")])
def test_a_lora_bundle_is_merged_and_scores_as_the_model_with_adapters(
    family: str, template: str, tmp_path: Path
) -> None:
    model, text = wrap_lora(ranker_model(family, template), LoraConfig(r=2)), encoder(template)
    plain = training_scores(model, text)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    trained = training_scores(model, text)
    assert (trained - plain).abs().min() > 1e-3
    save_bundle(tmp_path, model, text, {})
    np.testing.assert_allclose(Scorer.load(tmp_path).score(PAIRS), trained.numpy(), rtol=0, atol=1e-4)
    # Saving has not merged the model that trains on.
    torch.testing.assert_close(training_scores(model, text), trained)


def test_where_pad_is_the_end_token_a_stock_head_would_skip_it(tmp_path: Path) -> None:
    # The tokenizer as some publish it: pad == eos.
    published = tokenizer_folder(tmp_path / "tokenizer", _with_pad_equal_to_end())
    tokenizer = load_tokenizer(published)
    config = ModelConfig(architecture=architecture("llama", vocab_size=len(tokenizer)), tokenizer=published)
    model = spread(build_ranker_model(config, tokenizer, seed=0))
    text = PairEncoder(tokenizer, get_template("plain"), max_tokens=64, max_query_tokens=16)
    tokens = text.encode(PAIRS)
    assert all(one.ids[-1] == tokenizer.eos_token_id for one in tokens)
    save_bundle(tmp_path / "bundle", model, text, {})
    ours = Scorer.load(tmp_path / "bundle").score(PAIRS)

    inputs = padded(tokens, AutoTokenizer.from_pretrained(tmp_path / "bundle").pad_token_id)
    del inputs["token_type_ids"]
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bundle").eval()
    with torch.inference_mode():
        np.testing.assert_allclose(stock(**inputs).logits[:, 0].numpy(), ours, rtol=0, atol=1e-5)

        # The trap is real: with pad == eos the same weights read the token before the end.
        stock.config.pad_token_id = tokenizer.eos_token_id
        inputs["input_ids"][inputs["attention_mask"] == 0] = tokenizer.eos_token_id
        assert np.abs(stock(**inputs).logits[:, 0].numpy() - ours).min() > 1e-3


def _with_pad_equal_to_end() -> Any:
    from transformers import PreTrainedTokenizerFast

    backend = prompt_tokenizer().backend_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")


def test_a_student_opens_in_sentence_transformers(bert: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    cross_encoder = sentence_transformers.CrossEncoder(str(bert), device="cpu")
    long = [*PAIRS, PAIRS[0]._replace(summary="light red shoes " * 30)]
    theirs = cross_encoder.predict([(pair.query, document_text(pair.title, pair.summary)) for pair in long])
    # The raw logit, cut at the length that training cut at: no sigmoid, no 512 tokens.
    np.testing.assert_allclose(theirs, Scorer.load(bert).score(long), rtol=0, atol=1e-5)


# -------------------------------------------------------------------------------------------------- what a bundle says


def test_facts_of_a_ranker(tmp_path: Path) -> None:
    model = ranker_model("llama", "plain")
    save_bundle(tmp_path, model, encoder("plain", max_tokens=40, max_query_tokens=9), {"metrics": {"PNR": 2.5}})
    facts = read_facts(tmp_path)
    assert len(facts.pop("fingerprint")) == 32
    assert facts.pop("disranker")
    assert facts == {
        "format": 1,
        "kind": "ranker",
        "head": "last-token",
        "template": {"name": "plain", "version": 1},
        "max_tokens": 40,
        "max_query_tokens": 9,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "metrics": {"PNR": 2.5},
    }


def test_what_is_loaded_is_what_was_saved(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "usable_dtype", lambda name: name)
    model, text, facts = load_bundle(bert, dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert (text.template, text.max_tokens, text.max_query_tokens) == (get_template("pair"), 32, 16)
    assert (facts["kind"], facts["head"]) == ("ranker", "cls")
    assert [one.ids.tolist() for one in text.encode(PAIRS)] == [one.ids.tolist() for one in encoder().encode(PAIRS)]


def test_the_files_of_a_bundle_are_for_everyone_to_read(bert: Path) -> None:
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in bert.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "disranker.json"} <= set(modes)
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o444 != 0o444} == {}


def test_files_that_other_software_asks_for(bert: Path) -> None:
    assert json.loads((bert / "special_tokens_map.json").read_text())["cls_token"] == "[CLS]"
    vocabulary = (bert / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert vocabulary == sorted(pair_tokenizer().get_vocab(), key=pair_tokenizer().get_vocab().get)
    assert json.loads((bert / "tokenizer_config.json").read_text())["model_max_length"] == 32
    config = json.loads((bert / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    # Our way through the model is not the reader's: they have no such attention.
    assert "disranker" not in (bert / "config.json").read_text()


@pytest.mark.parametrize(("family", "template"), [("bert", "pair"), ("qwen3", "plain")])
def test_what_vllm_reads_of_a_bundle(family: str, template: str, tmp_path: Path) -> None:
    """Its classifier for an architecture of this name is one linear layer `score`, beside the backbone's own names."""
    model = ranker_model(family, template)
    save_bundle(tmp_path, model, encoder(template), {})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [type(model).__name__]
    # One label, so the scoring interface opens; and no activation on it, neither there nor in classify.
    assert len(config.get("id2label", {"0": "LABEL_0"})) == 1
    assert config["sentence_transformers"]["activation_fn"] == "torch.nn.modules.linear.Identity"
    assert config["problem_type"] == "regression"
    # Encoders get (query, document) as a pair, decoders as one text.
    assert config.get("use_pad_token", True) is (family == "bert")
    # With these it would look for an output layer over the vocabulary.
    assert not {"method", "classifier_from_token", "is_original_qwen3_reranker"} & set(config)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert config["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id
    if family == "qwen3":
        weights = load_file(tmp_path / "model.safetensors")
        assert weights["score.weight"].shape == (1, config["hidden_size"])
        assert all(name == "score.weight" or name.startswith("model.") for name in weights)


def test_the_fingerprint_is_of_all_that_a_score_depends_on(tmp_path: Path) -> None:
    model = ranker_model("llama", "plain")

    def fingerprint(**changed: Any) -> str:
        settings = {"template": "plain", "max_tokens": 32, "max_query_tokens": 16, **changed}
        save_bundle(tmp_path, model, encoder(**settings), {"metrics": str(changed)})
        return str(read_facts(tmp_path)["fingerprint"])

    first = fingerprint()
    others = [fingerprint(template="prompt-en"), fingerprint(max_tokens=31), fingerprint(max_query_tokens=15)]
    assert fingerprint() == first
    with torch.no_grad():
        model.score.weight[0, 0] += 1e-3
    others.append(fingerprint())
    assert len({first, *others}) == 5


@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_bundle_opens_in_stock_classes_and_has_no_score(tied: bool, tmp_path: Path) -> None:
    tokenizer = prompt_tokenizer()
    changed = {"vocab_size": len(tokenizer), "tie_word_embeddings": tied}
    config = ModelConfig(architecture=architecture("llama", **changed), tokenizer="x")
    model = spread(build_language_model(config, tokenizer, seed=0))
    save_bundle(tmp_path, model, encoder("plain"), {})
    facts = read_facts(tmp_path)
    assert facts["kind"] == "language-model"
    assert facts["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())

    # Tied embeddings are one weight in the file, too.
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) is tied
    for (name, left), right in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(left, right), name
    with pytest.raises(ValueError, match="is a language-model bundle, which has no score; train a ranker"):
        load_bundle(tmp_path, dtype="float32")


def test_a_plain_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no bundle: it has no disranker\.json; the training stages write bundles"):
        Scorer.load(tmp_path)


def test_a_template_of_another_release_is_refused(bert: Path) -> None:
    facts = read_facts(bert)
    facts["template"]["version"] = 2
    (bert / "disranker.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="template 'pair' is version 1 here, but version 2 was asked for"):
        Scorer.load(bert)


def test_the_template_of_a_family() -> None:
    assert default_template(ranker_model("bert")) == "pair"
    assert default_template(wrap_lora(ranker_model("llama", "plain"), LoraConfig(r=2))) == "plain"
