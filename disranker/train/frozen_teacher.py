"""A teacher that runs beside its student: frozen, on the same packed row, once a batch however many terms read it.

It must read the very tokens that the student reads; what a teacher said of other tokens is read from a store.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from disranker import dist
from disranker.models.bundle import load_bundle
from disranker.models.packed import Packed
from disranker.models.ranker import Ranker
from disranker.models.states import Layers
from disranker.schema import Pair
from disranker.text.encode import PairEncoder

# Tokenizers of one vocabulary still differ in case, accents, Chinese characters and what is one word.
_PROBES = [
    Pair("Red SHOES", "Running-shoes, size 42½", "light shoes for the road; 3.5 kg (new!)"),
    Pair("café münchen", "Café in München", "naïve façade, crème brûlée"),
    Pair("跑步鞋", "红色跑步鞋2024", "轻便透气，适合长跑。"),
    Pair("", "", "  two  spaces\tand\na line "),
]


class FrozenTeacher:
    """States inside a ranker that nobody trains."""

    def __init__(self, ranker: Ranker, *, hidden_layers: Collection[int], attention_layers: Collection[int]) -> None:
        # Not a part of the student: DeepSpeed is to know nothing of these weights.
        self._ranker = ranker.to(dist.device()).eval().requires_grad_(False)
        self._hidden_layers, self._attention_layers = frozenset(hidden_layers), frozenset(attention_layers)
        self._seen: tuple[Packed, Layers] | None = None

    # Without gradient, but not in inference mode: the loss keeps these tensors for its backward pass.
    @torch.no_grad()
    def layers(self, packed: Packed) -> Layers:
        """The states of a batch; those of the last batch are kept."""
        if self._seen is None or self._seen[0] is not packed:
            self._seen = None  # before the next ones are made, so that one batch is held and not two
            outputs = self._ranker.read(
                packed, hidden_layers=self._hidden_layers, attention_layers=self._attention_layers
            )
            assert outputs.layers is not None
            self._seen = packed, outputs.layers
        return self._seen[1]


def load_teacher(path: Path, encoder: PairEncoder, *, dtype: str) -> Ranker:
    """The ranker of a teacher's bundle, which reads the same tokens as the student's encoder.

    Raises:
        ValueError: the folder is no ranker's bundle, or template, lengths or tokens differ; each difference is named.
    """
    model, its_encoder, _ = load_bundle(path, dtype=dtype)
    differences = _differences(its_encoder, encoder)
    if differences:
        raise ValueError(
            f"hidden-mse and attention-relation compare token by token, but the teacher {path} reads other tokens than "
            f"the student: {'; '.join(differences)}"
        )
    return Ranker(model)


def _differences(teacher: PairEncoder, student: PairEncoder) -> list[str]:
    """What differs between two encoders, in words."""
    pairs = {
        "template": (_template(teacher), _template(student)),
        "text.max_tokens": (teacher.max_tokens, student.max_tokens),
        "text.max_query_tokens": (teacher.max_query_tokens, student.max_query_tokens),
    }
    found = [f"{name} is {theirs} there and {ours} here" for name, (theirs, ours) in pairs.items() if theirs != ours]
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        return [*found, "the tokenizers have other vocabularies"]
    ids = [[tokens.ids.tolist() for tokens in encoder.encode(_PROBES)] for encoder in (teacher, student)]
    if not found and ids[0] != ids[1]:
        at = next(number for number, (theirs, ours) in enumerate(zip(*ids, strict=True)) if theirs != ours)
        found.append(f"the tokenizers split {' '.join(_PROBES[at])!r} differently")
    return found


def _template(encoder: PairEncoder) -> str:
    return f"{encoder.template.name} of version {encoder.template.version}"
