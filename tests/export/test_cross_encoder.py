"""A bundle opens in sentence-transformers as it stands, and the small files hold none of the traps of their origin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from disranker.models.bundle import load_bundle, save_bundle
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.schema import Pair
from disranker.text.encode import PairEncoder
from disranker.text.templates import get_template
from disranker.text.vocabulary import train_pair_tokenizer, train_prompt_tokenizer

PAIRS = [
    Pair("rud", "ost", "vel " * 90),
    Pair("rud ost", "", "vel"),
    Pair("ost", "rud", ""),
    Pair("vel", "", ""),
    Pair("汉语", "汉字标题", "汉语"),
    Pair("rud", "?", ""),
]
_WIDTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": _WIDTH,
    "roberta": {**_WIDTH, "type_vocab_size": 1},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "modernbert": {**_WIDTH, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
}


def pair_tokenizer() -> PreTrainedTokenizerBase:
    return train_pair_tokenizer(["rud ost vel", "汉语字标题"] * 3, vocab_size=80)


def save(folder: Path, family: str, tokenizer: PreTrainedTokenizerBase, template: str = "pair") -> Path:
    torch.manual_seed(3)
    shape = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 48}
    config = AutoConfig.for_model(family, **shape, **FAMILIES.get(family, _WIDTH), num_labels=1, initializer_range=0.3)
    ranker = Ranker(AutoModelForSequenceClassification.from_config(config))
    encoder = PairEncoder(tokenizer, get_template(template), max_tokens=32, max_query_tokens=8)
    encoder.encode(PAIRS[1:])  # as training does: the tokenizer is left set to cut at 32
    save_bundle(folder, ranker.model, encoder, {})
    return folder


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


@pytest.mark.parametrize("family", FAMILIES)
def test_cross_encoder_gives_the_scores_of_the_scorer(family: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "student", family, pair_tokenizer())
    expected = Scorer.load(folder).score(PAIRS)
    assert expected.std() > 0.02
    opened = CrossEncoder(str(folder), device="cpu")
    assert opened.tokenizer.model_max_length == 32
    # `predict` as anyone would call it: what comes out is the raw logit, below 0 and above 1 too.
    scores = opened.predict([(pair.query, f"{pair.title} {pair.summary}".strip()) for pair in PAIRS])
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_tokenizer_sends_what_the_stock_model_takes(family: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "student", family, pair_tokenizer())
    stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert ("token_type_ids" in tokenizer.model_input_names) == (family == "bert")
    queries, documents = [p.query for p in PAIRS], [f"{p.title} {p.summary}".strip() for p in PAIRS]
    with torch.inference_mode():
        inputs = tokenizer(queries, documents, padding=True, truncation=True, return_tensors="pt")
        logits = stock(**inputs).logits
    np.testing.assert_allclose(logits[:, 0].numpy(), Scorer.load(folder).score(PAIRS), rtol=0, atol=1e-5)


def test_truncation_and_padding_of_the_origin_are_left_behind(tmp_path: Path) -> None:
    origin = pair_tokenizer()
    origin.backend_tokenizer.enable_truncation(16)
    origin.backend_tokenizer.enable_padding(length=16)
    origin.save_pretrained(tmp_path / "origin")
    assert read(tmp_path / "origin/tokenizer.json")["padding"]["strategy"] == {"Fixed": 16}
    folder = save(tmp_path / "student", "bert", AutoTokenizer.from_pretrained(tmp_path / "origin"))

    content, settings = read(folder / "tokenizer.json"), read(folder / "tokenizer_config.json")
    assert content["truncation"] is None and content["padding"] is None
    assert settings["model_max_length"] == 32
    traps = {"max_length", "stride", "truncation_strategy", "pad_to_multiple_of", "is_local", "local_files_only"}
    assert traps & set(settings) == set()
    # Scored with all 32 tokens, not with 16.
    scores = CrossEncoder(str(folder), device="cpu").predict([(p.query, f"{p.title} {p.summary}") for p in PAIRS[:1]])
    np.testing.assert_allclose(scores, Scorer.load(folder).score(PAIRS[:1]), rtol=0, atol=1e-5)


def test_a_bundle_of_a_bundle_has_the_same_small_files(tmp_path: Path) -> None:
    first = save(tmp_path / "first", "bert", pair_tokenizer())
    model, encoder, _ = load_bundle(first, dtype="float32")
    encoder.encode(PAIRS)
    save_bundle(tmp_path / "second", model, encoder, {})
    names = {path.name for path in first.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "disranker.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    }
    for name in names - {"config.json", "tokenizer.json"}:
        assert (tmp_path / "second" / name).read_bytes() == (first / name).read_bytes(), name
    # transformers adds the decoder when it opens a BERT tokenizer; encoding does not use it.
    one, other = read(first / "tokenizer.json"), read(tmp_path / "second/tokenizer.json")
    assert one | {"decoder": None} == other | {"decoder": None}
    assert [name for name in names if (first / name).stat().st_mode & 0o777 != 0o644] == []


def test_files_that_transformers_no_longer_writes(tmp_path: Path) -> None:
    folder = save(tmp_path / "student", "bert", pair_tokenizer())
    special = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    assert read(folder / "special_tokens_map.json") == {**special, "mask_token": "[MASK]"}
    vocabulary = (folder / "vocab.txt").read_text("utf-8").splitlines()
    ids = AutoTokenizer.from_pretrained(folder).get_vocab()
    assert len(vocabulary) == len(ids) and [ids[token] for token in vocabulary] == list(range(len(ids)))


def test_a_tokenizer_without_a_class_of_its_own_has_a_name_that_older_releases_know(tmp_path: Path) -> None:
    tokenizer = train_prompt_tokenizer(["rud ost vel"] * 3, vocab_size=300)
    folder = save(tmp_path / "teacher", "llama", tokenizer, template="plain")
    settings = read(folder / "tokenizer_config.json")
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "model_input_names" not in settings
    assert not (folder / "vocab.txt").exists()
    reopened = AutoTokenizer.from_pretrained(folder)
    assert reopened("rud ost vel")["input_ids"] == tokenizer("rud ost vel")["input_ids"]
