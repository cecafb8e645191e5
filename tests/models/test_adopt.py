"""Published rerankers become bundles by one command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from disranker.cli import main
from disranker.models.bundle import read_facts
from disranker.models.scorer import Scorer
from tests.models.test_heads import TOKENIZER, encoder, next_token_logits, save_language_model
from tests.tiny import PAIRS, classifier, pair_tokenizer
from tests.tiny import encoder as pair_encoder


def test_a_language_model_that_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, out = save_language_model(tmp_path / "llm", "qwen3"), tmp_path / "bundle"
    assert main(["adopt", name, "--head", "yes-no", "--template", "qwen3-reranker", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"wrote {out}: yes-no head, template qwen3-reranker, ")
    logits = next_token_logits(name, encoder("yes-no"), ["yes", "no"])
    np.testing.assert_allclose(Scorer.load(out).score(PAIRS), (logits[:, 0] - logits[:, 1]).numpy(), rtol=0, atol=2e-5)
    facts = read_facts(out)
    assert (facts["adopted"], facts["max_tokens"], facts["max_query_tokens"]) == (name, 512, 64)


def test_labels_of_ones_own(tmp_path: Path) -> None:
    name, out = save_language_model(tmp_path / "llm", "llama"), tmp_path / "bundle"
    labels = ["--label_tokens", "0", "1", "2"]
    assert main(["adopt", name, "--head", "expected-label", *labels, "--out", str(out)]) == 0
    assert read_facts(out)["template"]["name"] == "label-en"
    probs = next_token_logits(name, encoder("expected-label"), ["0", "1", "2"]).softmax(dim=1)
    expected = probs[:, 1] + 2.0 * probs[:, 2]
    np.testing.assert_allclose(Scorer.load(out).score(PAIRS), expected.numpy(), rtol=0, atol=2e-5)


def test_a_published_cross_encoder_keeps_its_head(tmp_path: Path) -> None:
    model = classifier("bert", vocab_size=len(pair_tokenizer()))
    model.save_pretrained(tmp_path / "published")
    pair_tokenizer().save_pretrained(tmp_path / "published")
    arguments = ["adopt", str(tmp_path / "published"), "--out", str(tmp_path / "bundle"), "--max_tokens", "32"]
    assert main(arguments) == 0
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "published").eval()
    with torch.inference_mode():
        rows = [torch.from_numpy(one.ids.astype(np.int64))[None] for one in pair_encoder().encode(PAIRS)]
        types = [
            (torch.arange(row.shape[1]) >= one.second).long()[None]
            for row, one in zip(rows, pair_encoder().encode(PAIRS), strict=True)
        ]
        theirs = [float(stock(row, token_type_ids=kind).logits) for row, kind in zip(rows, types, strict=True)]
    np.testing.assert_allclose(Scorer.load(tmp_path / "bundle").score(PAIRS), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 1, "has no score head that was trained: choose a head that reads its answers"),
        (["--head", "yes-no", "--yes_no_tokens", "ja", "no"], 1, "'ja' must be one token, but this tokenizer splits"),
        (["--head", "yes-no", "--template", "plain"], 1, "plain does not end where an answer begins"),
        (["--head", "yes-no", "--max_tokens", "40"], 1, "max_tokens = 40 leaves no room for text: 'qwen3-reranker'"),
        (["--head", "yes-no", "--label_tokens", "0", "1"], 2, "label_tokens belongs to the head expected-label"),
        (["--head", "yes-no", "--max_tokens", "1"], 2, "greater than or equal to 8"),
    ],
)
def test_what_cannot_be_adopted(
    words: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, out = save_language_model(tmp_path / "llm", "llama"), tmp_path / "bundle"
    assert main(["adopt", name, "--out", str(out), *words]) == code
    assert message in capsys.readouterr().err
    assert not (out / "disranker.json").exists()


def test_a_classifier_of_several_classes_is_no_ranker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    config = classifier("llama", vocab_size=len(TOKENIZER)).config
    config.num_labels = 3
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "published")
    TOKENIZER.save_pretrained(tmp_path / "published")
    assert main(["adopt", str(tmp_path / "published"), "--out", str(tmp_path / "bundle")]) == 1
    assert "is a classifier of 3 labels, and a ranker has one score" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["adopt", str(tmp_path / "none"), "--head", "yes-no", "--out", str(tmp_path / "bundle")]
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("disranker adopt: ")
