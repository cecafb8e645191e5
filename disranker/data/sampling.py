"""Which documents of a group an epoch sees: quotas by label, a share for negatives, `docs_per_query` in all.

Every draw is seeded by (seed, epoch, query_id), so the sample of a group is the same on any number of ranks, after a
resume, and wherever the query stands in the data.  Where negatives come from is the business of `negatives.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from disranker.schema import stable_seed

Rows = NDArray[np.int64]
_NO_ROWS: Rows = np.zeros(0, dtype=np.int64)


class Source(IntEnum):
    """Where a pair that is trained on comes from."""

    JUDGED = 0
    HARD = 1
    RANDOM = 2


@dataclass(frozen=True, slots=True)
class Sampling:
    """What is drawn in every epoch besides `docs_per_query`."""

    quotas: Mapping[int, int] = field(default_factory=dict)
    """Label -> judged documents of that label at most."""
    sources: NDArray[np.int8] | None = None
    """[N] the `Source` of every row; None: all are judged."""
    num_hard: int = 0
    """Hard negatives of a group at most; random ones are all taken."""


class _Group(NamedTuple):
    query_id: str
    judged: Rows
    hard: Rows
    random: Rows


class GroupSampler:
    """The rows that each group consists of in each epoch."""

    def __init__(
        self,
        groups: Sequence[tuple[str, Rows]],
        targets: NDArray[np.float32],
        *,
        docs_per_query: int,
        seed: int,
        sampling: Sampling,
    ) -> None:
        """`groups` are (query_id, rows); `targets[row]` is what quotas go by."""
        self._targets, self._sampling = targets, sampling
        self._docs_per_query, self._seed = docs_per_query, seed
        self._groups = [_split(query_id, rows, sampling.sources) for query_id, rows in groups]

    def __len__(self) -> int:
        return len(self._groups)

    def rows(self, item: int, epoch: int) -> Rows:
        """The rows of a group in an epoch: judged ones, then hard, then random negatives.

        Negatives have their places; the judged documents that quotas leave are drawn to fill what remains.
        """
        group, sampling = self._groups[item], self._sampling
        num_negatives = min(len(group.hard), sampling.num_hard) + len(group.random)
        room = self._docs_per_query - num_negatives
        if len(group.judged) <= room and not sampling.quotas and len(group.hard) <= sampling.num_hard:
            return group.judged if num_negatives == 0 else np.concatenate(group[1:])
        # Seeded by the query, not by the place in the data: the sample does not change with the order of queries.
        random = np.random.default_rng(stable_seed(self._seed, epoch, group.query_id))
        judged = _draw(random, self._within_quotas(random, group.judged), room)
        return np.concatenate([judged, _draw(random, group.hard, sampling.num_hard), group.random])

    def _within_quotas(self, random: np.random.Generator, rows: Rows) -> Rows:
        kept = np.ones(len(rows), dtype=bool)
        for label, quota in sorted(self._sampling.quotas.items()):
            at = np.flatnonzero(self._targets[rows] == label)
            kept[random.choice(at, max(0, len(at) - quota), replace=False)] = False
        return rows[kept]


def _split(query_id: str, rows: Rows, sources: NDArray[np.int8] | None) -> _Group:
    if sources is None:
        return _Group(query_id, rows, _NO_ROWS, _NO_ROWS)
    return _Group(query_id, *(rows[sources[rows] == source] for source in Source))


def _draw(random: np.random.Generator, rows: Rows, count: int) -> Rows:
    return rows if len(rows) <= count else random.choice(rows, count, replace=False)


def check_quotas(quotas: Mapping[int, int], labels: NDArray[np.float32]) -> None:
    """Refuse quotas of labels that no pair has.

    Raises:
        ValueError: there is one; the labels that there are are named.
    """
    known = np.unique(labels).tolist()
    for label in sorted(quotas):
        if label not in known:
            there = ", ".join(f"{one:g}" for one in known)
            raise ValueError(f"sampling.quotas names label {label}, which no judged pair has; there are {there}")


def describe_quotas(quotas: Mapping[int, int], groups: Sequence[tuple[str, Rows]], labels: NDArray[np.float32]) -> str:
    """One line for a run's plan: each quota, and how many of the judged pairs of that label it leaves an epoch."""
    shown = []
    for label, quota in sorted(quotas.items()):
        counts = np.array([(labels[rows] == label).sum() for _, rows in groups])
        there, taken = int(counts.sum()), int(counts.clip(max=quota).sum())
        shown.append(f"label {label} at most {quota} a query, which leaves {taken:,} of {there:,} pairs an epoch")
    return "; ".join(shown)
