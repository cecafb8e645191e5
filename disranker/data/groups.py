"""Pairs of a stage in memory: texts, ids and one target each, grouped by query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disranker.schema import Candidate, Judgment, Pair


@dataclass(frozen=True, slots=True)
class PairSet:
    """N pairs in the order in which they were read."""

    query_ids: list[str]
    doc_ids: list[str]
    pairs: list[Pair]

    def __len__(self) -> int:
        return len(self.pairs)

    def groups(self) -> list[tuple[str, NDArray[np.int64]]]:
        """(query_id, rows) for every query, in the order of its first row; rows need not stand together."""
        rows: dict[str, list[int]] = {}
        for row, query_id in enumerate(self.query_ids):
            rows.setdefault(query_id, []).append(row)
        return [(query_id, np.array(at, dtype=np.int64)) for query_id, at in rows.items()]

    def first(self, count: int) -> PairSet:
        """The first `count` pairs."""
        return PairSet(self.query_ids[:count], self.doc_ids[:count], self.pairs[:count])

    def take(self, rows: Iterable[int]) -> PairSet:
        """The pairs of these rows."""
        kept = list(rows)
        query_ids, doc_ids = [self.query_ids[row] for row in kept], [self.doc_ids[row] for row in kept]
        return PairSet(query_ids, doc_ids, [self.pairs[row] for row in kept])

    def __add__(self, other: PairSet) -> PairSet:
        query_ids, doc_ids = self.query_ids + other.query_ids, self.doc_ids + other.doc_ids
        return PairSet(query_ids, doc_ids, self.pairs + other.pairs)


def collect(records: Iterable[Candidate | Judgment]) -> PairSet:
    """The pairs of a stream of records."""
    query_ids, doc_ids, pairs = [], [], []
    for record in records:
        query_ids.append(record.query_id)
        doc_ids.append(record.doc_id)
        pairs.append(record.pair)
    return PairSet(query_ids, doc_ids, pairs)


def collect_judged(records: Iterable[Judgment]) -> tuple[PairSet, NDArray[np.float32]]:
    """The pairs of judged records and their labels, [N]."""
    judged = list(records)
    return collect(judged), np.array([record.label for record in judged], dtype=np.float32)


def describe_groups(pair_set: PairSet) -> str:
    """One line for a run's plan: queries, pairs, documents per query."""
    sizes = np.array([len(rows) for _, rows in pair_set.groups()])
    spread = f"{sizes.min()} to {sizes.max()}, median {np.median(sizes):g}"
    return f"{len(sizes):,} queries, {len(pair_set):,} pairs, {spread} documents per query"


def describe_order(groups: Sequence[tuple[str, NDArray[np.int64]]], labels: NDArray[np.float32]) -> str:
    """One line for a run's plan: how many groups have no pair of different labels, and so no order to learn."""
    without = sum(bool((labels[rows] == labels[rows[0]]).all()) for _, rows in groups)
    return f"{without:,} of {len(groups):,} groups have documents of one label only, no pair to learn an order from"
