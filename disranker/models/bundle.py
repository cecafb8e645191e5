"""Bundles: a transformers folder plus `disranker.json`, everything that scoring needs.

A teacher bundle opens with stock `AutoModelForSequenceClassification`, a student bundle in sentence-transformers'
`CrossEncoder`, and both with `disranker.models.scorer.Scorer`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from disranker import __version__, dist
from disranker.models.adapters import merged_weights
from disranker.models.build import load_tokenizer, torch_dtype
from disranker.models.card import make_card
from disranker.models.heads import EXPECTED_LABEL, LAST_TOKEN, YES_NO, score_head
from disranker.models.ranker import has_token_types, is_decoder, num_positions, stock_model
from disranker.shards import write_json
from disranker.text.encode import PairEncoder
from disranker.text.templates import PairTemplate, Template, ends_where_the_answer_begins, get_template

if TYPE_CHECKING:
    from peft import PeftModel

    from disranker.config.parts import TextConfig

FACTS_NAME = "disranker.json"
CARD_NAME = "README.md"

CLS = "cls"
DEFAULT_TEMPLATES = {CLS: "pair", LAST_TOKEN: "plain", EXPECTED_LABEL: "label-en", YES_NO: "qwen3-reranker"}
"""Head -> template."""

# What transformers 5 copies into tokenizer_config.json from the folder a tokenizer came from.  FastEmbed cuts at
# `max_length` without a word; the last two are about that folder, not about the tokenizer.
_NOT_TO_SAVE = ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of", "is_local", "local_files_only")


def head_of(model: PreTrainedModel | PeftModel) -> str:
    """How the score is read: cls for encoders; last-token, expected-label or yes-no for decoders."""
    stock = stock_model(model)
    return score_head(stock.config) if is_decoder(stock) else CLS


def default_template(model: PreTrainedModel | PeftModel) -> str:
    """The template when the settings name none."""
    return DEFAULT_TEMPLATES[head_of(model)]


def check_template(template: Template, model: PreTrainedModel | PeftModel) -> None:
    """Make sure that a head which reads the answer stands where the answer begins.

    Raises:
        ValueError: it does not.
    """
    head = head_of(model)
    if head in (EXPECTED_LABEL, YES_NO) and not ends_where_the_answer_begins(template):
        raise ValueError(
            f"text.template {template.name} does not end where an answer begins, which the head {head} reads; "
            f"{DEFAULT_TEMPLATES[head]} does"
        )


def make_encoder(
    tokenizer: PreTrainedTokenizerBase, text: TextConfig, model: PreTrainedModel | PeftModel
) -> PairEncoder:
    """The encoder of a stage's settings.

    Raises:
        ValueError: the model has no positions for so many tokens, or the template is not known or not for its head.
    """
    limit = num_positions(stock_model(model))
    if limit is not None and text.max_tokens > limit:
        raise ValueError(f"text.max_tokens is {text.max_tokens}, but the model has positions for {limit} tokens only")
    template = get_template(text.template or default_template(model))
    check_template(template, model)
    return PairEncoder(tokenizer, template, max_tokens=text.max_tokens, max_query_tokens=text.max_query_tokens)


def save_bundle(
    out: str | Path, model: PreTrainedModel | PeftModel, encoder: PairEncoder, facts: Mapping[str, Any]
) -> None:
    """Write the bundle: weights with LoRA merged, tokenizer, and `facts` (metrics, training, resolved settings).

    Every rank calls this (ZeRO-3 gathers its partitions); rank 0 writes.
    """
    weights = merged_weights(model)
    if dist.is_main():
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        stock = stock_model(model)
        _save_model(folder, stock, weights)
        _save_tokenizer(folder, stock, encoder)
        about = {
            "format": 1,
            "disranker": __version__,
            "kind": "language-model" if hasattr(stock, "lm_head") else "ranker",
            "head": head_of(stock),
            "template": {"name": encoder.template.name, "version": encoder.template.version},
            "max_tokens": encoder.max_tokens,
            "max_query_tokens": encoder.max_query_tokens,
            "num_parameters": sum(weight.numel() for weight in weights.values()),
        }
        about["fingerprint"] = fingerprint(weights, about)
        write_facts(folder, {**about, **facts})
    dist.barrier()


def write_facts(folder: str | Path, facts: Mapping[str, Any]) -> None:
    """Write what a bundle says of itself: the model card for people, then `disranker.json` for programs."""
    model_type = read_json(Path(folder, "config.json"))["model_type"]
    Path(folder, CARD_NAME).write_text(make_card(facts, model_type), encoding="utf-8")
    write_json(Path(folder, FACTS_NAME), facts)


def load_bundle(path: str | Path, *, dtype: str) -> tuple[PreTrainedModel, PairEncoder, dict[str, Any]]:
    """The model (float32 or bfloat16), the encoder and the facts of a ranker bundle.

    Raises:
        ValueError: the folder is no ranker bundle, or its template is not the one of this release.
    """
    facts = read_facts(path)
    if facts["kind"] != "ranker":
        raise ValueError(f"{path} is a {facts['kind']} bundle, which has no score; train a ranker from it first")
    encoder = load_encoder(path, facts)
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch_dtype(dtype), use_safetensors=True)
    return model, encoder, facts


def load_encoder(path: str | Path, facts: Mapping[str, Any]) -> PairEncoder:
    """The encoder of a bundle or an export with these facts; no weights are read.

    Raises:
        ValueError: its template is not the one of this release.
    """
    return PairEncoder(
        load_tokenizer(str(path)),
        get_template(facts["template"]["name"], facts["template"]["version"]),
        max_tokens=facts["max_tokens"],
        max_query_tokens=facts["max_query_tokens"],
    )


def read_facts(path: str | Path) -> dict[str, Any]:
    """What `disranker.json` says of a bundle."""
    file = Path(path, FACTS_NAME)
    if not file.exists():
        raise ValueError(f"{path} is no bundle: it has no {FACTS_NAME}; the training stages write bundles")
    return read_json(file)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def fingerprint(weights: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> str:
    """A hash of everything a score depends on: weights, template and budget of tokens."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([about["template"], about["max_tokens"], about["max_query_tokens"]]).encode())
    for name in sorted(weights):
        weight = weights[name].contiguous()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(weight.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _save_model(folder: Path, stock: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> None:
    stock.config.architectures = [type(stock).__name__]
    if not hasattr(stock, "lm_head"):
        # Without this, CrossEncoder puts a sigmoid on the score.
        stock.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.0.0"}
        if stock.config.num_labels == 1:
            stock.config.problem_type = "regression"  # likewise for vLLM's classify
        if is_decoder(stock):
            stock.config.use_pad_token = False  # vLLM joins query and document to one text, as a prompt is
    stock.save_pretrained(folder, state_dict=dict(weights))
    for file in folder.glob("*.safetensors"):
        # safetensors 0.8 makes files that only their owner can read; a server often runs as someone else.
        file.chmod(0o644)


def _save_tokenizer(folder: Path, stock: PreTrainedModel, encoder: PairEncoder) -> None:
    tokenizer: PreTrainedTokenizerBase = encoder.tokenizer
    is_pair = isinstance(encoder.template, PairTemplate)
    if is_pair:
        # Consumers cut at this length, as training did.
        tokenizer.model_max_length = encoder.max_tokens
    # The last call of the tokenizer leaves its truncation behind, which would be saved as if it were a setting.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    settings = read_json(folder / "tokenizer_config.json")
    for name in _NOT_TO_SAVE:
        settings.pop(name, None)
    if settings["tokenizer_class"] == "TokenizersBackend":
        # The name that transformers 4 knows as well; 5 reads both.
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if is_pair:
        # A BERT tokenizer in front of a DistilBERT would send token types that the model does not take.
        types = ["token_type_ids"] if has_token_types(stock) else []
        settings["model_input_names"] = ["input_ids", *types, "attention_mask"]
    write_json(folder / "tokenizer_config.json", settings)
    # transformers 5 writes neither of these; FlashRank wants the first, slow BERT tokenizers the second.
    write_json(folder / "special_tokens_map.json", {k: str(v) for k, v in tokenizer.special_tokens_map.items()})
    if type(tokenizer.backend_tokenizer.model).__name__ == "WordPiece":
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in vocabulary), encoding="utf-8")
