"""Pairs to scores: the one scorer that teacher runs, evaluation, parity checks and serving use.

Pairs are encoded, sorted by length, packed into batches of at most so many tokens, and scored without padding; what
comes back is in the order of what went in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from disranker import dist
from disranker.models.build import count_parameters
from disranker.models.bundle import load_bundle
from disranker.models.packed import pack
from disranker.models.ranker import Ranker
from disranker.schema import Pair
from disranker.text.encode import PairEncoder, Tokens

DEFAULT_TOKENS_PER_BATCH = 8192


class Scorer:
    """Scores pairs with a ranker; `Scorer.load(path).score(pairs)` is the whole interface."""

    def __init__(
        self, ranker: Ranker, encoder: PairEncoder, *, tokens_per_batch: int = DEFAULT_TOKENS_PER_BATCH
    ) -> None:
        self.ranker = ranker
        self.encoder = encoder
        self.tokens_per_batch = tokens_per_batch

    @classmethod
    def load(
        cls, path: str | Path, *, dtype: str = "float32", tokens_per_batch: int = DEFAULT_TOKENS_PER_BATCH
    ) -> Self:
        """The scorer of a bundle, on this process' device; `dtype` is float32 or bfloat16.

        Raises:
            ValueError: the folder is no bundle of disranker, or its template has changed.
        """
        model, encoder, _ = load_bundle(path, dtype=dtype)
        return cls(Ranker(model).to(dist.device()).eval(), encoder, tokens_per_batch=tokens_per_batch)

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, head included."""
        return count_parameters(self.ranker)[1]

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """[len(pairs)] raw logits; a pair is (query, title, summary)."""
        return self.score_tokens(self.encoder.encode([Pair(*pair) for pair in pairs]))

    def score_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        """[len(tokens)] raw logits of pairs that are encoded already."""
        scores = np.empty(len(tokens), dtype=np.float32)
        left = list(np.argsort([-len(pair.ids) for pair in tokens], kind="stable"))
        while left:
            batch = next(token_batches(left, tokens, self.tokens_per_batch))
            try:
                scores[batch] = self._forward([tokens[index] for index in batch])
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                self._shrink(error, len(batch))
                continue
            left = left[len(batch) :]
        return scores

    @torch.inference_mode()
    def _forward(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self.ranker(pack(tokens).to(dist.device())).cpu().numpy()
        return scores

    def _shrink(self, error: Exception, num_pairs: int) -> None:
        """Halve the budget after running out of memory; any other error, or a single pair too large, is raised."""
        out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)
        if not out_of_memory or num_pairs == 1:
            raise error
        self.tokens_per_batch //= 2
        print(f"out of memory: going on with {self.tokens_per_batch} tokens a batch", flush=True)


def token_batches(order: Sequence[int], tokens: Sequence[Tokens], budget: int) -> Iterator[list[int]]:
    """Consecutive pairs of `order` in batches of at most `budget` tokens; a longer pair stands alone."""
    batch: list[int] = []
    filled = 0
    for index in order:
        length = len(tokens[index].ids)
        if batch and filled + length > budget:
            yield batch
            batch, filled = [], 0
        batch.append(index)
        filled += length
    if batch:
        yield batch
