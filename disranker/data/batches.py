"""Order and batches of training data: steps filled by tokens, cut evenly over ranks and micro-batches.

Which items make up step n is a function of (seed, epoch) alone, never of the number of ranks or of accumulation, so
that 1 x 8 = 8 x 1 accumulation, two processes equal one, and a resumed run sees what an undisturbed one would.

Shapes: Q groups of a micro-batch, D documents of its largest group.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

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
class DistillBatch:
    """Q groups, all their documents packed into one row; some scored by the teacher, some judged, some both.

    B documents in all, query after query, as they were packed; H is the width of the teacher.
    """

    packed: Packed
    docs_per_query: tuple[int, ...]
    mask_QD: Tensor
    """bool: a document is there"""
    teacher_QD: Tensor
    """fp32 standardised teacher score; 0 where `taught_QD` is False"""
    taught_QD: Tensor
    """bool: there, and scored by the teacher"""
    labels_QD: Tensor
    """fp32 label; 0 where `judged_QD` is False"""
    judged_QD: Tensor
    """bool: there, and judged"""
    represented_BH: Tensor | None
    """fp32 pooled states of the teacher, zeros where it has not scored; None where no term reads them"""
    weight: float = 1.0
    """0 for the stand-in that a rank gets when a step has fewer groups than micro-batches."""

    def to(self, device: torch.device) -> DistillBatch:
        """The same batch on another device."""
        represented_BH = self.represented_BH.to(device) if self.represented_BH is not None else None
        return DistillBatch(
            self.packed.to(device),
            self.docs_per_query,
            mask_QD=self.mask_QD.to(device),
            teacher_QD=self.teacher_QD.to(device),
            taught_QD=self.taught_QD.to(device),
            labels_QD=self.labels_QD.to(device),
            judged_QD=self.judged_QD.to(device),
            represented_BH=represented_BH,
            weight=self.weight,
        )


Batch = TypeVar("Batch", covariant=True)
Order = Callable[[int], NDArray[np.int64]]
"""epoch -> its items in their order; an item may be missing or stand there several times"""


class Items(Protocol[Batch]):
    """What is trained on: items of known length, some of which make a micro-batch."""

    def lengths(self, epoch: int) -> NDArray[np.int64]:
        """Tokens of every item in that epoch."""

    def batch(self, items: Sequence[int], epoch: int, weight: float) -> Batch:
        """The micro-batch of these items."""


class Sampler(Protocol):
    """Which rows of a table each group consists of in each epoch."""

    def __len__(self) -> int:
        """Groups."""

    def rows(self, item: int, epoch: int) -> NDArray[np.int64]:
        """The rows of a group in an epoch, one at least."""


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
        """`groups` are (query_id, rows of the table); `targets[row]` is the label of a row."""
        self._table, self._targets = table, targets
        self._sampler = GroupSampler(groups, targets, docs_per_query=docs_per_query, seed=seed, sampling=sampling)

    def lengths(self, epoch: int) -> NDArray[np.int64]:
        """Tokens of every group's sampled documents."""
        return _group_lengths(self._table, self._sampler, epoch)

    def batch(self, items: Sequence[int], epoch: int, weight: float) -> GroupBatch:
        """Those groups, packed, with their targets in [Q, D]."""
        packed, docs_per_query, mask_QD, rows_B = _pack_groups(self._table, self._sampler, items, epoch)
        targets_QD = _by_query(self._targets[rows_B], mask_QD)
        return GroupBatch(packed, docs_per_query, targets_QD, torch.from_numpy(mask_QD), weight)


@dataclass(frozen=True, slots=True)
class Targets:
    """What stage 3 knows of the N rows of a token table."""

    teacher_scores: NDArray[np.float32]
    """[N] standardised; NaN where the teacher has not scored"""
    labels: NDArray[np.float32]
    """[N]; NaN where nobody has judged"""
    representations: Callable[[NDArray[np.int64]], NDArray[np.float16]] | None = None
    """rows that the teacher has scored -> [rows, H] its pooled states; None where no term reads them"""


class DistillItems:
    """Groups of a token table with what is known of their documents; a sampler draws those that an epoch sees."""

    def __init__(self, table: TokenTable, targets: Targets, sampler: Sampler) -> None:
        self._table, self._targets, self._sampler = table, targets, sampler

    def lengths(self, epoch: int) -> NDArray[np.int64]:
        """Tokens of every group's sampled documents."""
        return _group_lengths(self._table, self._sampler, epoch)

    def batch(self, items: Sequence[int], epoch: int, weight: float) -> DistillBatch:
        """Those groups, packed, with scores, labels and states."""
        packed, docs_per_query, mask_QD, rows_B = _pack_groups(self._table, self._sampler, items, epoch)
        scores_B, labels_B = self._targets.teacher_scores[rows_B], self._targets.labels[rows_B]
        taught_B, judged_B = ~np.isnan(scores_B), ~np.isnan(labels_B)
        return DistillBatch(
            packed,
            docs_per_query,
            mask_QD=torch.from_numpy(mask_QD),
            teacher_QD=_by_query(np.where(taught_B, scores_B, np.float32(0.0)), mask_QD),
            taught_QD=_by_query(taught_B, mask_QD),
            labels_QD=_by_query(np.where(judged_B, labels_B, np.float32(0.0)), mask_QD),
            judged_QD=_by_query(judged_B, mask_QD),
            represented_BH=self._represented(rows_B, taught_B),
            weight=weight,
        )

    def _represented(self, rows_B: NDArray[np.int64], taught_B: NDArray[np.bool_]) -> Tensor | None:
        if self._targets.representations is None:
            return None
        states = self._targets.representations(rows_B[taught_B])
        represented_BH = np.zeros((len(rows_B), states.shape[1]), dtype=np.float32)
        represented_BH[taught_B] = states
        return torch.from_numpy(represented_BH)


def _group_lengths(table: TokenTable, sampler: Sampler, epoch: int) -> NDArray[np.int64]:
    lengths = table.lengths
    return np.array([lengths[sampler.rows(item, epoch)].sum() for item in range(len(sampler))], dtype=np.int64)


def _pack_groups(
    table: TokenTable, sampler: Sampler, items: Sequence[int], epoch: int
) -> tuple[Packed, tuple[int, ...], NDArray[np.bool_], NDArray[np.int64]]:
    """The documents of groups packed, how many each has, where they are in [Q, D], and their rows, [B]."""
    sampled = [sampler.rows(item, epoch) for item in items]
    docs_per_query = tuple(len(rows) for rows in sampled)
    mask_QD = np.arange(max(docs_per_query))[None, :] < np.array(docs_per_query)[:, None]
    rows_B = np.concatenate(sampled)
    return pack([table[int(row)] for row in rows_B]), docs_per_query, mask_QD, rows_B


def _by_query(values_B: NDArray[Any], mask_QD: NDArray[np.bool_]) -> Tensor:
    """[B] values, query after query, into [Q, D] where the mask is True; 0 elsewhere."""
    values_QD = np.zeros(mask_QD.shape, dtype=values_B.dtype)
    values_QD[mask_QD] = values_B
    return torch.from_numpy(values_QD)


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
        order: Order | None = None,
    ) -> None:
        """`order` says which items an epoch has, in which order; None: all of them, at random."""
        self._items, self._seed, self._order = items, seed, order
        self._tokens_per_step, self._accumulation = tokens_per_step, accumulation
        self._process_rank, self._world_size = process_rank, world_size
        self._kept: tuple[int, tuple[NDArray[np.int64], list[NDArray[np.int64]]]] | None = None

    def num_steps(self, epochs: int) -> int:
        """Steps of that many passes over the data."""
        # Backwards, so that what is kept in the end is the first epoch, with which training begins.
        return sum(len(self._epoch(epoch)[1]) for epoch in reversed(range(epochs)))

    def most_tokens(self, num_steps: int) -> int:
        """Tokens of the largest micro-batch of any rank in the first `num_steps` steps of an epoch."""
        lengths, steps = self._epoch(0)
        num_parts = self._world_size * self._accumulation
        parts = (part for step in steps[:num_steps] for part in split_evenly(step, lengths[step], num_parts))
        return max(int(lengths[part].sum()) for part in parts if part)

    def steps(self, first_step: int = 0) -> Iterator[Callable[[], list[Batch]]]:
        """From `first_step` on without end: for each step, a function that makes this rank's micro-batches."""
        epoch, skip = 0, first_step
        while True:
            lengths, steps = self._epoch(epoch)
            for step in steps[skip:]:
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

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
        """The tokens of every item, and the items of every step."""
        if self._kept is None or self._kept[0] != epoch:
            # The last one is kept, for sampled groups have their lengths from a draw each: a minute for 500,000.
            self._kept = None
            lengths = self._items.lengths(epoch)
            if self._order is not None:
                order = self._order(epoch)
            else:
                order = np.random.default_rng(stable_seed(self._seed, "order", epoch)).permutation(len(lengths))
            self._kept = epoch, (lengths, fill_steps(order, lengths, self._tokens_per_step))
        return self._kept[1]


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
