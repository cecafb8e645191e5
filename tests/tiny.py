"""Tiny models and tokenizers, built in a moment from configs and word lists; nothing is downloaded.

Weights are drawn with a spread far above the usual 0.02, for with the usual one all pairs of an untrained model score
nearly the same, and no comparison of scores could fail.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from disranker.schema import Pair
from disranker.text.encode import PairEncoder, Tokens
from disranker.text.templates import get_template
from disranker.text.vocabulary import train_pair_tokenizer, train_prompt_tokenizer

VOCAB_SIZE = 100
PAIRS = [
    Pair("red shoes", "running shoes", "light red shoes for running on the road"),
    Pair("red shoes", "blue boots", ""),
    Pair("waterproof boots", "boots for winter", "warm and waterproof boots, made for snow and rain and mud"),
    Pair("跑步鞋", "红色跑步鞋", "轻便透气"),
    Pair("road bike", "", "a bike"),
    Pair("winter", "winter tyres", "tyres"),
]

_SMALL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 1,
    "max_position_embeddings": 64,
}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
_BANDED = {"num_key_value_heads": 2, "sliding_window": 5}

# family -> its transformers config; windows are shorter than the sequences that tests use
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **_SMALL},
    "roberta": {"model_type": "roberta", **_SMALL, "type_vocab_size": 1},
    "xlm-roberta-xl": {"model_type": "xlm-roberta-xl", **_SMALL, "type_vocab_size": 1},
    "electra": {"model_type": "electra", **_SMALL, "embedding_size": 16},
    "albert": {"model_type": "albert", **_SMALL, "embedding_size": 16},
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": VOCAB_SIZE,
        "dim": 32,
        "hidden_dim": 48,
        "n_layers": 3,
        "n_heads": 4,
        "pad_token_id": 1,
    },
    "modernbert": {"model_type": "modernbert", **_SMALL, "local_attention": 6, "global_attn_every_n_layers": 3},
    "llama": {"model_type": "llama", **_SMALL, "num_key_value_heads": 2},
    "qwen2": {"model_type": "qwen2", **_SMALL, **_BANDED, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"model_type": "qwen3", **_SMALL, **_GROUPED},
    "mistral": {"model_type": "mistral", **_SMALL, **_BANDED},
    # below: families that would leak or lose something in a packed row, and therefore run padded
    "deberta-v2": {
        "model_type": "deberta-v2",
        **_SMALL,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16,
        "type_vocab_size": 0,
    },
    "mobilebert": {"model_type": "mobilebert", **_SMALL, "normalization_type": "layer_norm"},
    "gemma2": {"model_type": "gemma2", **_SMALL, **_GROUPED, "sliding_window": 5},
    "gpt_oss": {"model_type": "gpt_oss", **_SMALL, **_GROUPED, "sliding_window": 5, "num_local_experts": 4},
}
# stock transformers makes no classifier of these
LANGUAGE_FAMILIES: dict[str, dict[str, Any]] = {
    **FAMILIES,
    "granite": {"model_type": "granite", **_SMALL, "num_key_value_heads": 2, "logits_scaling": 0.25},
}


def architecture(family: str, **changed: Any) -> dict[str, Any]:
    """A family's config without the token ids, which `build` takes from the tokenizer."""
    return {name: value for name, value in {**FAMILIES[family], **changed}.items() if name != "pad_token_id"}


def classifier(family: str, **changed: Any) -> PreTrainedModel:
    """A stock sequence classifier with one label, in eval mode, with widely spread weights."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**FAMILIES[family], **changed}, num_labels=1)
    return spread(AutoModelForSequenceClassification.from_config(config)).eval()


def causal_model(family: str, **changed: Any) -> PreTrainedModel:
    """A stock causal language model, in eval mode, with widely spread weights."""
    torch.manual_seed(0)
    return spread(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**LANGUAGE_FAMILIES[family], **changed}))
    ).eval()


def spread(model: PreTrainedModel, std: float = 0.3) -> PreTrainedModel:
    """The model with its matrices drawn anew."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, std, generator=generator)
    return model


def sequences(lengths: Sequence[int], seed: int = 0) -> list[Tokens]:
    """Random token ids of these lengths, without special tokens; the document is their second half."""
    random = np.random.default_rng(seed)
    return [
        Tokens(random.integers(4, VOCAB_SIZE, length).astype(np.int32), max(1, length // 2), 0) for length in lengths
    ]


def padded(tokens: Sequence[Tokens], pad_token_id: int, *, side: str = "right") -> dict[str, torch.Tensor]:
    """The arguments with which a stock model reads the same sequences in a padded batch."""
    shape = (len(tokens), max(len(pair.ids) for pair in tokens))
    ids, types, mask = np.full(shape, pad_token_id), np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, pair in enumerate(tokens):
        length = len(pair.ids)
        at = slice(0, length) if side == "right" else slice(shape[1] - length, shape[1])
        ids[row, at], mask[row, at] = pair.ids, 1
        types[row, at] = np.arange(length) >= pair.second
    inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
    return {name: torch.from_numpy(array.astype(np.int64)) for name, array in inputs.items()}


def _texts() -> list[str]:
    return [text for pair in PAIRS for text in pair]


@functools.cache
def pair_tokenizer() -> Tokenizer:
    """A BERT tokenizer learnt from `PAIRS`."""
    return train_pair_tokenizer(_texts(), 120)


@functools.cache
def prompt_tokenizer() -> Tokenizer:
    """A byte-level decoder tokenizer learnt from `PAIRS`."""
    return train_prompt_tokenizer(_texts(), 300)


def encoder(template: str = "pair", *, max_tokens: int = 32, max_query_tokens: int = 16) -> PairEncoder:
    """An encoder with the tiny tokenizer that goes with the template."""
    tokenizer = pair_tokenizer() if template == "pair" else prompt_tokenizer()
    return PairEncoder(tokenizer, get_template(template), max_tokens=max_tokens, max_query_tokens=max_query_tokens)


def tokenizer_folder(folder: Path, tokenizer: Tokenizer) -> str:
    """The name under which that tokenizer can be loaded from disk."""
    tokenizer.save_pretrained(folder)
    return str(folder)
