"""Tiny students with scores that lie well apart, judged pairs of every shape, and how a test exports them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from disranker.export.folder import Export, export_student
from disranker.schema import Judgment, Pair
from disranker.text.encode import PairEncoder
from disranker.text.templates import get_template
from disranker.text.vocabulary import train_pair_tokenizer

MAX_TOKENS = 40
PAIRS = [
    Pair("zor bax", "melu tiv", "zor gon " * 60),  # longer than the budget
    Pair("zor " * 60, "melu", "tiv"),  # the query alone is
    Pair("melu", "", "gon tiv zor"),  # no title
    Pair("gon", "zor tiv", ""),  # no summary
    Pair("bax", "", ""),  # no document
    Pair("", "melu", "bax"),  # no query
    Pair("词典", "中文标题", "这是一个摘要"),
    Pair("tiv", "x", ""),  # one character, and not in the vocabulary
    *[Pair("zor bax", "melu " * (1 + index % 3), "gon tiv " * index) for index in range(16)],
]
# Six queries of four documents; what the pairs say does not matter for how their scores are compared.
JUDGED = [Judgment(f"q{index // 4}", f"d{index}", *pair, label=index % 3) for index, pair in enumerate(PAIRS)]
WIDTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_SPECIAL = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {**WIDTH, **_NO_DROPOUT},
    "roberta": {**WIDTH, **_NO_DROPOUT, "type_vocab_size": 1},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    # A window of 8 tokens: a mask that the tracer froze at the length of its example would show.
    "modernbert": {**WIDTH, **_SPECIAL, "local_attention": 8, "global_attn_every_n_layers": 2},
}
SMALL_FILES = {"config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
FOLDER = SMALL_FILES | {
    "README.md",
    "check.mjs",
    "check.py",
    "disranker.json",
    "export.json",
    "golden.jsonl",
    "model.safetensors",
    "onnx/model.onnx",
}


def build(family: str) -> tuple[PreTrainedModel, PairEncoder]:
    """A tiny student with scores that lie well apart."""
    texts = ["zor bax melu tiv gon", "这是中文词典标题摘要"]
    tokenizer = train_pair_tokenizer(texts * 3, vocab_size=120)
    shape = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 48}
    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **shape, **FAMILIES[family], num_labels=1, initializer_range=0.3)
    encoder = PairEncoder(tokenizer, get_template("pair"), max_tokens=MAX_TOKENS, max_query_tokens=8)
    return AutoModelForSequenceClassification.from_config(config), encoder


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def export(bundle: Path, out: Path, judged: Sequence[Judgment] = JUDGED, **changed: Any) -> Export:
    settings = {"opset": 17, "max_pairs": 100, "max_difference": 1e-5, "accept_drift": False}
    return export_student(bundle, out, judged, **{**settings, "variants": [], "layouts": [], "facts": {}, **changed})


def document(pair: Pair) -> str:
    return f"{pair.title} {pair.summary}".strip()
