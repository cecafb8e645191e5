"""Scoring as other software does it: padded batches of int64 arrays in, logits out, whatever runs the model.

Pairs are encoded by the same `PairEncoder`, sorted by length and padded only to the longest of a batch of nearly equal
lengths; what comes back is in the order of what went in.  What computes the logits is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disranker.schema import Pair
from disranker.text.encode import PairEncoder, Tokens

Inputs = Mapping[str, NDArray[Any]]
"""`input_ids`, `attention_mask` and `token_type_ids`, [batch, longest] int64."""
Forward = Callable[[Inputs], NDArray[Any]]
"""Inputs -> logits, [batch, 1] float32."""

TOKENS_PER_BATCH = 2048
"""Padded tokens: enough to keep the matrix products busy, few enough for their results to stay in the cache."""
_MAX_PADDING = TOKENS_PER_BATCH // 8
"""Padding tokens of a batch; a longer tail of shorter pairs begins a new one."""


class PaddedScorer:
    """Scores pairs with whatever computes logits."""

    def __init__(self, forward: Forward, encoder: PairEncoder) -> None:
        self.encoder = encoder
        self._forward = forward

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """[len(pairs)] raw logits; a pair is (query, title, summary)."""
        return self.score_tokens(self.encoder.encode([Pair(*pair) for pair in pairs]))

    def score_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        """[len(tokens)] raw logits of pairs that are encoded already."""
        scores = np.empty(len(tokens), dtype=np.float32)
        for batch in length_batches([len(pair.ids) for pair in tokens]):
            inputs = pad([tokens[index] for index in batch], self.encoder.tokenizer.pad_token_id)
            scores[batch] = self._forward(inputs)[:, 0]
        return scores

    def fits(self, num_pairs: int, num_tokens: int, longest: int) -> bool:
        """Whether one forward pass takes so many pairs, with so many tokens in all; a single pair always goes."""
        return fits(num_pairs, num_tokens, longest)


def fits(num_pairs: int, num_tokens: int, longest: int) -> bool:
    """Whether so many pairs are a batch: its padded tokens and its padding are bounded."""
    padded = num_pairs * longest
    return padded <= TOKENS_PER_BATCH and padded - num_tokens <= _MAX_PADDING


def length_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches, longest first, as many in each as fit; each batch has a pair."""
    batch: list[int] = []
    longest = filled = 0
    for index in np.argsort([-length for length in lengths], kind="stable").tolist():
        if batch and not fits(len(batch) + 1, filled + lengths[index], longest):
            yield batch
            batch, filled = [], 0
        if not batch:
            longest = lengths[index]
        batch.append(index)
        filled += lengths[index]
    if batch:
        yield batch


def pad(tokens: Sequence[Tokens], pad_token_id: int) -> dict[str, NDArray[Any]]:
    """`input_ids`, `attention_mask` and `token_type_ids`, [batch, longest] int64, as stock tokenizers give them."""
    shape = (len(tokens), max(len(pair.ids) for pair in tokens))
    ids = np.full(shape, pad_token_id, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    types = np.zeros(shape, dtype=np.int64)
    for row, pair in enumerate(tokens):
        length = len(pair.ids)
        ids[row, :length] = pair.ids
        mask[row, :length] = 1
        types[row, pair.second : length] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
