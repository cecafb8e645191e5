"""What waits to be scored, and the batches it is put into."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from disranker.text.encode import Tokens

Fits = Callable[[int, int, int], bool]
"""Whether one forward pass takes so many pairs: (pairs, tokens of all, tokens of the longest) -> bool."""


@dataclass(slots=True, eq=False)
class Request:
    """A request in the queue; its pairs wait longest first, so that neighbours in a batch are about equally long."""

    tokens: list[Tokens]
    left: list[int]
    """Pairs that no batch has taken yet."""
    arrived: float
    turn: float
    """When it would be done if it were alone: what the queue is sorted by."""
    done: asyncio.Future[None]
    scores: NDArray[np.float32]
    num_scored: int = 0

    def length(self, index: int) -> int:
        """Tokens of a pair."""
        return len(self.tokens[index].ids)


@dataclass(slots=True)
class Batch:
    """Pairs of one request or of several that one forward pass takes."""

    fits: Fits
    parts: list[tuple[Request, list[int]]] = field(default_factory=list)
    num_pairs: int = 0
    num_tokens: int = 0
    longest: int = 0

    @property
    def tokens(self) -> list[Tokens]:
        return [request.tokens[index] for request, indices in self.parts for index in indices]

    def has_room(self, length: int) -> bool:
        """Whether a pair of this length fits, too; into an empty batch every pair does."""
        longest = max(self.longest, length)
        return not self.num_pairs or self.fits(self.num_pairs + 1, self.num_tokens + length, longest)

    def take(self, request: Request) -> None:
        """Take what fits of a request: its longest pairs or, where they are too long for this batch, the next ones."""
        start = 0
        if request.left and not self.has_room(request.length(request.left[0])):
            start = bisect_left(request.left, -self.longest, key=lambda index: -request.length(index))
        end = start
        while end < len(request.left) and self.has_room(length := request.length(request.left[end])):
            self.num_pairs, self.num_tokens = self.num_pairs + 1, self.num_tokens + length
            self.longest = max(self.longest, length)
            end += 1
        if end > start:
            self.parts.append((request, request.left[start:end]))
            del request.left[start:end]


def by_tokens(num_tokens: int) -> Fits:
    """Batches of at most so many tokens, as a packed forward pass takes them."""
    return lambda num_pairs, tokens, longest: tokens <= num_tokens
