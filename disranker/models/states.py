"""What can be read of a ranker in one forward besides its scores: pooled states, hidden states, queries, keys, values.

The records are named tuples and dicts, nothing else, because DeepSpeed walks what a model returns and knows those.

Shapes: B sequences, T tokens in all, H hidden width, A attention heads, D head width.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from torch import Tensor


class Attention(NamedTuple):
    """What one layer's attention is computed from, in the order of the packed row."""

    query_TAD: Tensor
    key_TAD: Tensor
    value_TAD: Tensor


class Layers(NamedTuple):
    """States inside a backbone by layer, in the order of the packed row; layer 1 is the first, 0 the embeddings."""

    hidden_TH: dict[int, Tensor]
    """Hidden states behind a layer."""
    attention: dict[int, Attention]
    """What a layer's attention is computed from, positions already in it where the family rotates them in."""


class Outputs(NamedTuple):
    """One forward of a ranker."""

    scores_B: Tensor
    """float32, in the order of the sequences that were packed (query after query)."""
    pooled_BH: Tensor
    """The hidden states that the head reads, in the same order."""
    projected_BH: Tensor | None = None
    """The pooled states in the width of the teacher's; None where nothing is compared with those."""
    layers: Layers | None = None
    """What was asked for of the layers; None where nothing was."""


class AttentionRecorder:
    """Keeps what the attention of some layers is computed from, as packed attention hands it over.

    Layers are told apart by the order in which they run, so a family that runs one layer several times (ALBERT) counts
    each time.  Once closed it records nothing: with gradient checkpointing layers run again in the backward pass.
    """

    def __init__(self, layers: Collection[int]) -> None:
        self._layers = frozenset(layers)
        self._num_seen = 0
        self._is_open = True
        self.attention: dict[int, Attention] = {}

    def record(self, query_TAD: Tensor, key_TAD: Tensor, value_TAD: Tensor) -> None:
        """Take note of the next layer."""
        if self._is_open:
            self._num_seen += 1
            if self._num_seen in self._layers:
                self.attention[self._num_seen] = Attention(query_TAD, key_TAD, value_TAD)

    def close(self) -> dict[int, Attention]:
        """What was recorded, by layer."""
        self._is_open = False
        return self.attention
