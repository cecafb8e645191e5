"""Pairs to scores: the one scorer that teacher runs, evaluation, parity checks and serving use.

Pairs are encoded, sorted by length, packed into batches of at most so many tokens, and scored without padding; what
comes back is in the order of what went in.  A decoder on CPU reads the beginning that a query's pairs share (prompt and
query) once for all of them, where that saves enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from disranker import dist
from disranker.models.build import count_parameters
from disranker.models.bundle import load_bundle
from disranker.models.packed import Packed, pack, pack_shared
from disranker.models.ranker import Ranker
from disranker.schema import Pair
from disranker.text.encode import PairEncoder, Tokens

DEFAULT_TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 8192}
"""Tokens scored at once where nothing is said.  A CPU's caches hold the activations of few: SmolLM2-135M scores about
a tenth faster with 1,024 to 2,048 tokens than with 8,192."""
MIN_SAVED_SHARE = 0.1
"""Share of all tokens that shared prefixes must save to be used: padding in their attention and masks cost a little.

SmolLM2-135M in fp32 on one AVX2 core, CPU seconds, medians: where 25% of the tokens were saved, 13.5 instead of 17.9;
where 13% were saved, 6.8 instead of 7.3.
"""


class Prefixes(NamedTuple):
    """Which of N sequences begin alike, and for how long."""

    group: NDArray[np.int64]
    """[N] sequences of one group have one prefix"""
    length: NDArray[np.int64]
    """[N] tokens of the prefix; 0 for a sequence that shares none"""


class Scorer:
    """Scores pairs with a ranker; `Scorer.load(path).score(pairs)` is the whole interface."""

    def __init__(self, ranker: Ranker, encoder: PairEncoder, *, tokens_per_batch: int | None = None) -> None:
        self.ranker = ranker
        self.encoder = encoder
        self.tokens_per_batch = tokens_per_batch or DEFAULT_TOKENS_PER_BATCH[dist.device().type]

    @classmethod
    def load(cls, path: str | Path, *, dtype: str = "float32", tokens_per_batch: int | None = None) -> Self:
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
        return self._score(tokens, None)

    def score_and_represent(self, pairs: Sequence[Pair]) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        """[len(pairs)] raw logits, and the [len(pairs), H] hidden states that the head reads them from."""
        width = self.ranker.stock.config.hidden_size
        representations = np.empty((len(pairs), width), dtype=np.float16)
        return self._score(self.encoder.encode([Pair(*pair) for pair in pairs]), representations), representations

    def count_tokens(self, pairs: Sequence[Pair]) -> list[int]:
        """Tokens of each pair as the model reads it."""
        return [len(tokens.ids) for tokens in self.encoder.encode(pairs)]

    def _score(self, tokens: Sequence[Tokens], representations: NDArray[np.float16] | None) -> NDArray[np.float32]:
        """[len(tokens)] raw logits; fills `representations` too if there is a place for them."""
        scores = np.empty(len(tokens), dtype=np.float32)
        prefixes = find_prefixes(tokens) if self._may_share else None
        lengths = np.array([len(one.ids) for one in tokens])
        order = np.argsort(-lengths, kind="stable") if prefixes is None else np.lexsort((lengths, prefixes.group))
        left = order.tolist()
        while left:
            batch = next(token_batches(left, tokens, self.tokens_per_batch, prefixes))
            try:
                found = self._forward(_pack(tokens, batch, prefixes))
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                self._shrink(error, len(batch))
                continue
            scores[batch] = found[0].cpu().numpy()
            if representations is not None:
                representations[batch] = found[1].half().cpu().numpy()
            left = left[len(batch) :]
        return scores

    @property
    def _may_share(self) -> bool:
        """Whether the model can read a prefix once: packed, left to right, every layer without a window."""
        config = self.ranker.stock.config
        windows = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
        plain = not windows and getattr(config, "sliding_window", None) is None
        # On CUDA the variable-length kernel has no such layout.
        return self.ranker.is_decoder and self.ranker.is_packed and plain and dist.device().type == "cpu"

    # Not inference_mode: what ZeRO-3 gathers in it before the first step can have no gradient afterwards.
    @torch.no_grad()
    def _forward(self, packed: Packed) -> tuple[Tensor, Tensor]:
        return self.ranker.score_and_pool(packed.to(dist.device()))

    def _shrink(self, error: Exception, num_pairs: int) -> None:
        """Halve the budget after running out of memory; any other error, or a single pair too large, is raised."""
        out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)
        if not out_of_memory or num_pairs == 1:
            raise error
        self.tokens_per_batch //= 2
        print(f"out of memory: going on with {self.tokens_per_batch} tokens a batch", flush=True)


def find_prefixes(tokens: Sequence[Tokens]) -> Prefixes | None:
    """What pairs of one query share: all tokens up to the document; None where that is too little to pay."""
    groups: dict[bytes, list[int]] = {}
    for index, one in enumerate(tokens):
        # At least one token is left, the one that the score is read at.
        groups.setdefault(one.ids[: min(one.second, len(one.ids) - 1)].tobytes(), []).append(index)
    group, length = np.zeros(len(tokens), dtype=np.int64), np.zeros(len(tokens), dtype=np.int64)
    saved = 0
    for number, members in enumerate(groups.values()):
        group[members] = number
        if len(members) > 1:
            first = tokens[members[0]]
            length[members] = min(first.second, len(first.ids) - 1)
            saved += int(length[members[0]]) * (len(members) - 1)
    pays = saved > MIN_SAVED_SHARE * sum(len(one.ids) for one in tokens)
    return Prefixes(group, length) if pays else None


def token_batches(
    order: Sequence[int], tokens: Sequence[Tokens], budget: int, prefixes: Prefixes | None = None
) -> Iterator[list[int]]:
    """Consecutive pairs of `order` in batches of at most `budget` tokens; a longer pair stands alone."""
    batch: list[int] = []
    filled = 0
    for index in order:
        whole = len(tokens[index].ids)
        follows = prefixes is not None and batch and prefixes.group[index] == prefixes.group[batch[-1]]
        length = whole - int(prefixes.length[index]) if prefixes is not None and follows else whole
        if batch and filled + length > budget:
            yield batch
            batch, filled, length = [], 0, whole
        batch.append(index)
        filled += length
    if batch:
        yield batch


def _pack(tokens: Sequence[Tokens], batch: Sequence[int], prefixes: Prefixes | None) -> Packed:
    sequences = [tokens[index] for index in batch]
    if prefixes is None:
        return pack(sequences)
    runs = groupby(range(len(batch)), key=lambda at: int(prefixes.group[batch[at]]))
    members = [list(run) for _, run in runs]
    return pack_shared(sequences, [(int(prefixes.length[batch[one[0]]]), one) for one in members])
