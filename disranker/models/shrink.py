"""Smaller encoders out of larger ones, as a start for students: some of the layers, the vocabulary in use, or both.

Nothing is learnt here.  Layers are taken as they are: the first ones, ones that are spaced evenly as for DistilBERT
(Sanh et al. 2019, arXiv 1910.01108), or those that are named; without the others the scores are other ones, so the
result is to be trained.  A cut vocabulary leaves the scores of all texts that it was cut for as they are.

Shapes: V tokens of the vocabulary, H hidden width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from disranker.config.shrink import ShrinkConfig
from disranker.models.build import check_encoder, load_tokenizer, resolve_name
from disranker.models.bundle import FACTS_NAME, load_bundle, read_facts
from disranker.models.encoder_folder import save_encoder
from disranker.models.ranker import Ranker
from disranker.models.verify import save_verified
from disranker.schema import Pair
from disranker.settings import provenance
from disranker.text.encode import PairEncoder
from disranker.text.wordpiece import cut_vocabulary, pieces_in_use

_TOKEN_IDS = ("pad", "bos", "eos", "unk", "cls", "sep", "mask")
_PROBES = [
    Pair("red shoes", "running shoes", "light"),
    Pair("winter", "", "warm and waterproof boots"),
    Pair("?", "!", ""),
]


def shrink(config: ShrinkConfig, texts: Iterable[str]) -> list[str]:
    """Write the smaller encoder; lines on what became of layers, vocabulary and parameters.

    `texts` are those that the vocabulary is cut for, read once, where the settings ask for that.

    Raises:
        ValueError: the model is no encoder, has no layers that can be taken apart, not so many, or no WordPiece
            vocabulary to cut.
    """
    saved = AutoConfig.from_pretrained(**resolve_name(config.model))
    check_encoder(saved, config.model)
    encoder: PairEncoder | None = None
    not_saved: set[str] = set()
    if _is_ranker_bundle(config.model):
        stock, encoder, facts = load_bundle(config.model, dtype="float32")
        tokenizer = encoder.tokenizer
        origin = {"bundle": config.model, "fingerprint": facts["fingerprint"]}
    else:
        stock, not_saved = _load(config.model, saved.architectures or [])
        tokenizer, origin = load_tokenizer(config.model), {"model": config.model}
    stock.eval()
    before, num_before, num_tokens = depth(stock), stock.num_parameters(), len(tokenizer)

    layers = choose_layers(config.layers, config.num_layers, before)
    if config.layers is not None:
        keep_layers(stock, layers)
    if config.vocabulary:
        kept = pieces_in_use(tokenizer, texts)
        tokenizer = cut_vocabulary(tokenizer, kept)
        keep_tokens(stock, kept)
    _check_opens(stock, config.model)

    about = {"shrunk": {**origin, "layers": layers, "tokens": len(tokenizer)}, "provenance": provenance()}
    if encoder is not None:
        encoder.tokenizer = tokenizer
        save_verified(config.out, Ranker(stock), encoder, about, _PROBES, dtype="float32")
    else:
        weights = {name: tensor for name, tensor in stock.state_dict().items() if name not in not_saved}
        save_encoder(config.out, stock, weights, tokenizer, {"kind": "shrunk-encoder", **about})
    return [
        f"layers     {', '.join(map(str, layers))} of {before}",
        f"tokens     {len(tokenizer):,} of {num_tokens:,}",
        f"parameters {stock.num_parameters():,} of {num_before:,}",
    ]


def choose_layers(rule: str | Sequence[int] | None, num_layers: int | None, num_there: int) -> list[int]:
    """The layers that stay, counted from 0: all for None; `num_layers` of them for first and spaced; or those named.

    Spaced layers are round(i (L - 1) / (K - 1)) for i = 0 … K - 1, the first and the last of L among them: of 12 layers
    6 are 0, 2, 4, 7, 9, 11, as DistilBERT took them; one layer is the first.

    Raises:
        ValueError: there are not so many.
    """
    if rule is None:
        return list(range(num_there))
    if isinstance(rule, str):
        assert num_layers is not None
        if num_layers > num_there:
            raise ValueError(f"num_layers is {num_layers}, and the model has {num_there} layers")
        last = num_there - 1 if rule == "spaced" else num_layers - 1
        return [round(at * last / max(1, num_layers - 1)) for at in range(num_layers)]
    if max(rule) >= num_there:
        raise ValueError(f"layers names {max(rule)}, and the model has {num_there} layers, 0 to {num_there - 1}")
    return list(rule)


def depth(stock: PreTrainedModel) -> int:
    """How many layers a model has."""
    layers: int = stock.config.num_hidden_layers
    return layers


def keep_layers(stock: PreTrainedModel, kept: Sequence[int]) -> None:
    """Leave these layers in the model, in this order, and say so in its config.

    Raises:
        ValueError: its layers do not stand in one list (those of ALBERT are one layer, run through many times).
    """
    backbone = stock.base_model
    found = [
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList)
        and name.split(".")[-1] in ("layer", "layers")
        and len(module) == depth(stock)
    ]
    if len(found) != 1:
        raise ValueError(f"no way known to take layers out of a {type(stock).__name__}")
    name, layers = found[0]
    backbone.set_submodule(name, nn.ModuleList([layers[at] for at in kept]))
    stock.config.num_hidden_layers = len(kept)
    if getattr(stock.config, "layer_types", None):  # global or local attention, layer by layer
        stock.config.layer_types = [stock.config.layer_types[at] for at in kept]


@torch.no_grad()
def keep_tokens(stock: PreTrainedModel, kept: Sequence[int]) -> None:
    """Leave the embeddings of these tokens: token `kept[i]` has the id i from now on, in the model's config, too."""
    old: Any = stock.get_input_embeddings()
    new_id = {before: after for after, before in enumerate(kept)}
    weight_VH: Tensor = old.weight[list(kept)]
    new = nn.Embedding.from_pretrained(weight_VH, freeze=False, padding_idx=new_id.get(old.padding_idx))
    stock.set_input_embeddings(new)
    stock.config.vocab_size = len(kept)
    for token in _TOKEN_IDS:
        before = getattr(stock.config, f"{token}_token_id", None)
        if before is not None:
            setattr(stock.config, f"{token}_token_id", new_id.get(before))


def _is_ranker_bundle(name: str) -> bool:
    return Path(name, FACTS_NAME).exists() and read_facts(name)["kind"] == "ranker"


def _load(name: str, architectures: Sequence[str]) -> tuple[PreTrainedModel, set[str]]:
    """The model, with its score head if it has one, and the names of weights that it lacks and are drawn at random."""
    is_classifier = any(architecture.endswith("ForSequenceClassification") for architecture in architectures)
    auto_class: Any = AutoModelForSequenceClassification if is_classifier else AutoModel
    stock, info = auto_class.from_pretrained(
        **resolve_name(name), dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    return stock, set(info["missing_keys"])


@torch.inference_mode()
def _check_opens(stock: PreTrainedModel, name: str) -> None:
    """Make sure that a model built from the config, with these weights, is this model.

    Raises:
        ValueError: it is not: ModernBERT's first layer is of another kind than the others and cannot be left out.
    """
    opened = type(stock)(copy.deepcopy(stock.config)).eval()
    opened.load_state_dict(stock.state_dict(), strict=False)
    probe = torch.arange(stock.config.vocab_size)[None, :8]
    ours, theirs = stock(probe)[0], opened(probe)[0]
    if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
        raise ValueError(f"{name} cannot do with these layers alone: keep its first one, layer 0, among them")
