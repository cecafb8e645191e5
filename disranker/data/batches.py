"""Order and batches of training data: steps filled by tokens, cut evenly over ranks and micro-batches.

Which items make up step n is a function of (seed, epoch) alone, never of the number of ranks or of accumulation, so
that 1 x 8 = 8 x 1 accumulation, two processes equal one, and a resumed run sees what an undisturbed one would.

Shapes: Q groups of a micro-batch, D documents of its largest group.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from disranker.data.sampling import GroupSampler, Sampling
from disranker.data.tokens import TokenTable
from disranker.models.packed import Packed, pack
from disranker.schema import stable_seed

_NO_SAMPLING = Sampling()


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """Q groups, all their documents packed into one row."""

    packed: Packed
    docs_per_query: tuple[int, ...]
    targets_QD: Tensor
    mask_QD: Tensor
    weight: float = 1.0
    """0 for the stand-in that a rank gets when a step has fewer groups than micro-batches."""

    def to(self, device: torch.device) -> GroupBatch:
        """The same batch on another device."""
        tensors = self.targets_QD.to(device), self.mask_QD.to(device)
        return GroupBatch(self.packed.to(device), self.docs_per_query, *tensors, weight=self.weight)


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Packed examples for next-token prediction; `predict_T` is True where the token is to be predicted."""

    packed: Packed
    predict_T: Tensor
    weight: float = 1.0

    def to(self, device: torch.device) -> TextBatch:
        """The same batch on another device."""
        return TextBatch(self.packed.to(device), self.predict_T.to(device), weight=self.weight)


Batch = TypeVar("Batch", covariant=True)


class Items(Protocol[Batch]):
    """What is trained on: items of known length, some of which make a micro-batch."""

    def lengths(self, epoch: int) -> NDArray[np.int64]:
        """Tokens of every item in that epoch."""

    def batch(self, items: Sequence[int], epoch: int, weight: float) -> Batch:
        """The micro-batch of these items."""


class GroupItems:
    """Groups of a token table; which of their documents an epoch sees is drawn by a `GroupSampler`."""

    def __init__(
        self,
        table: TokenTable,
        groups: Sequence[tuple[str, NDArray[np.int64]]],
        targets: NDArray[np.float32],
        *,
        docs_per_query: int,
        seed: int,
        sampling: Sampling = _NO_SAMPLING,
    ) -> None:
        """`groups` are (query_id, rows of the table); `targets[row]` is the label or teacher score of a row."""
        self._table, self._targets = table, targets
        self._sampler = GroupSampler(groups, targets, docs_per_query=docs_per_query, seed=seed, sampling=sampling)

    def lengths(self, epoch: int) -> NDArray[np.int64]:
        """Tokens of every group's sampled documents."""
        lengths = self._table.lengths
        sampler = self._sampler
        return np.array([lengths[sampler.rows(item, epoch)].sum() for item in range(len(sampler))], dtype=np.int64)

    def batch(self, items: Sequence[int], epoch: int, weight: float) -> GroupBatch:
        """Those groups, packed, with their targets in [Q, D]."""
        sampled = [self._sampler.rows(item, epoch) for item in items]
        docs_per_query = tuple(len(rows) for rows in sampled)
        mask_QD = np.arange(max(docs_per_query))[None, :] < np.array(docs_per_query)[:, None]
        targets_QD = np.zeros(mask_QD.shape, dtype=np.float32)
        targets_QD[mask_QD] = self._targets[np.concatenate(sampled)]
        packed = pack([self._table[int(row)] for rows in sampled for row in rows])
        return GroupBatch(packed, docs_per_query, torch.from_numpy(targets_QD), torch.from_numpy(mask_QD), weight)


class TextItems:
    """Examples for next-token prediction: the loss is on the document and the end token, not on the query."""

    def __init__(self, table: TokenTable, rows: NDArray[np.int64]) -> None:
        self._table, self._rows = table, rows

    def lengths(self, epoch: int) -> NDArray[np.int64]:
        """Tokens of every example; the same in every epoch."""
        return self._table.lengths[self._rows]

    def batch(self, items: Sequence[int], epoch: int, weight: float) -> TextBatch:
        """Those examples, packed."""
        packed = pack([self._table[int(self._rows[item])] for item in items])
        return TextBatch(packed, packed.token_type_ids[0].bool(), weight)


class StepPlan(Generic[Batch]):
    """The steps of a run: which items, in which order, cut for one rank."""

    def __init__(
        self,
        items: Items[Batch],
        *,
        tokens_per_step: int,
        accumulation: int,
        process_rank: int,
        world_size: int,
        seed: int,
    ) -> None:
        self._items, self._seed = items, seed
        self._tokens_per_step, self._accumulation = tokens_per_step, accumulation
        self._process_rank, self._world_size = process_rank, world_size

    def num_steps(self, epochs: int) -> int:
        """Steps of that many passes over the data."""
        return sum(len(self._epoch_steps(epoch)) for epoch in range(epochs))

    def steps(self, first_step: int = 0) -> Iterator[Callable[[], list[Batch]]]:
        """From `first_step` on without end: for each step, a function that makes this rank's micro-batches."""
        epoch, skip = 0, first_step
        while True:
            steps = self._epoch_steps(epoch)
            lengths = self._items.lengths(epoch) if skip < len(steps) else None
            for step in steps[skip:]:
                assert lengths is not None
                yield self._maker(step, lengths, epoch)
            skip = max(0, skip - len(steps))
            epoch += 1

    def _maker(self, step: NDArray[np.int64], lengths: NDArray[np.int64], epoch: int) -> Callable[[], list[Batch]]:
        def make() -> list[Batch]:
            parts = split_evenly(step, lengths[step], self._world_size * self._accumulation)
            mine = parts[self._process_rank :: self._world_size]
            # A step with fewer items than micro-batches: repeat its first item with weight 0, for every rank has to
            # take part in every backward pass.
            return [
                self._items.batch(part, epoch, 1.0) if part else self._items.batch([int(step[0])], epoch, 0.0)
                for part in mine
            ]

        return make

    def _epoch_steps(self, epoch: int) -> list[NDArray[np.int64]]:
        lengths = self._items.lengths(epoch)
        order = np.random.default_rng(stable_seed(self._seed, "order", epoch)).permutation(len(lengths))
        return fill_steps(order, lengths, self._tokens_per_step)


def fill_steps(order: NDArray[np.int64], lengths: NDArray[np.int64], tokens_per_step: int) -> list[NDArray[np.int64]]:
    """Cut a sequence of items into steps of about `tokens_per_step` tokens, at least one item each.

    The cut falls where the running total crosses a multiple of the budget, so that steps are equal on average and the
    last one is not a crumb unless the data is.
    """
    if len(order) == 0:
        raise ValueError("there is nothing to train on: no item was read")
    totals = np.cumsum(lengths[order])
    num_steps = max(1, round(float(totals[-1]) / tokens_per_step))
    step_of = np.minimum((totals - 1) * num_steps // totals[-1], num_steps - 1)
    cuts = np.flatnonzero(np.diff(step_of)) + 1
    return np.split(order, cuts)


def split_evenly(items: NDArray[np.int64], lengths: NDArray[np.int64], num_parts: int) -> list[list[int]]:
    """Items into parts of nearly equal tokens: the longest first, each to the part that has least so far."""
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    heap = [(0, part) for part in range(num_parts)]
    for at in np.argsort(-lengths, kind="stable"):
        tokens, part = heapq.heappop(heap)
        parts[part].append(int(items[at]))
        heapq.heappush(heap, (tokens + int(lengths[at]), part))
    return parts
