"""Ranking measures of many queries at once, from columns: nDCG, P, RR, AP, R and Success, as trec_eval computes them.

Each takes `Columns` that rules were applied to and gives one value a query, [Q].  Numpy only; which measure is asked
for, pairs (PNR) and means over queries are elsewhere.

Letters in shapes: Q queries, N rows.  A document is relevant when its label is at least `rel`, which must be above 0:
documents without a label are not relevant.  A query without a document in the run has 0 in every measure here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from disranker.evaluation.columns import Columns

Floats = NDArray[np.float64]
Gain = Callable[[NDArray[np.int32]], Floats]
"""The gain of each label."""

_LARGEST_EXPONENT = 1000  # 2^1024 is no float64, and sums must stay finite too


class _Top(NamedTuple):
    """The first rows of each query, all queries in one column of N rows."""

    rows: NDArray[np.int64]
    queries: NDArray[np.int64]
    places: NDArray[np.int64]
    """Counted from 0 within the query."""


def linear_gain(labels: NDArray[np.int32]) -> Floats:
    """The label itself; 0 below 0."""
    return np.maximum(labels, 0).astype(np.float64)


def exponential_gain(labels: NDArray[np.int32]) -> Floats:
    """2^label - 1; 0 below 0.  Raises ValueError for labels above 1000, which no float64 holds."""
    if labels.size and labels.max() > _LARGEST_EXPONENT:
        raise ValueError(f"label {labels.max()} is too large for the gain 2^label - 1; use nDCG with linear gain")
    return np.ldexp(1.0, np.maximum(labels, 0)) - 1.0


def ndcg(columns: Columns, cutoff: int | None, gain: Gain) -> Floats:
    """DCG / ideal DCG, discount log2(1 + place) with places from 1; 0 where nothing has a gain.

    The ideal ranking holds all judged documents, also those that the run lacks.
    Järvelin and Kekäläinen (TOIS 2002), https://dl.acm.org/doi/10.1145/582415.582418.
    """
    ideal_labels, ideal_starts = _ideal(columns)
    found = _dcg(columns.labels, columns.starts, cutoff, gain)
    ideal = _dcg(ideal_labels, ideal_starts, cutoff, gain)
    return np.divide(found, ideal, out=np.zeros_like(found), where=ideal > 0)


def precision(columns: Columns, cutoff: int, rel: int) -> Floats:
    """Relevant documents among the first `cutoff`, divided by `cutoff` also where the run is shorter."""
    return _num_found(columns, cutoff, rel) / cutoff


def recall(columns: Columns, cutoff: int, rel: int) -> Floats:
    """Relevant documents among the first `cutoff`, divided by all that are judged relevant; 0 without one."""
    found, relevant = _num_found(columns, cutoff, rel), num_relevant(columns, rel)
    return np.divide(found, relevant, out=np.zeros_like(found), where=relevant > 0)


def success(columns: Columns, cutoff: int, rel: int) -> Floats:
    """1 where a relevant document is among the first `cutoff`, else 0."""
    return (_num_found(columns, cutoff, rel) > 0).astype(np.float64)


def reciprocal_place(columns: Columns, cutoff: int | None, rel: int) -> Floats:
    """RR: 1 / place of the first relevant document; 0 where none is among the first `cutoff`."""
    values = np.zeros(columns.num_queries)
    top = _top(columns.starts, cutoff)
    hits = np.flatnonzero(columns.labels[top.rows] >= rel)
    queries, first = np.unique(top.queries[hits], return_index=True)
    values[queries] = 1.0 / (1.0 + top.places[hits[first]])
    return values


def average_precision(columns: Columns, cutoff: int | None, rel: int) -> Floats:
    """AP: precision at each relevant document among the first `cutoff`, summed, divided by all judged relevant."""
    top = _top(columns.starts, cutoff)
    hits = np.flatnonzero(columns.labels[top.rows] >= rel)
    queries = top.queries[hits]
    hits_per_query = np.bincount(queries, minlength=columns.num_queries)
    earlier = np.cumsum(hits_per_query) - hits_per_query
    nth = np.arange(1, len(hits) + 1) - earlier[queries]
    summed = np.bincount(queries, weights=nth / (1.0 + top.places[hits]), minlength=columns.num_queries)
    relevant = num_relevant(columns, rel)
    return np.divide(summed, relevant, out=np.zeros(columns.num_queries), where=relevant > 0)


def num_relevant(columns: Columns, rel: int) -> NDArray[np.int64]:
    """Documents judged relevant, scored or not, [Q]."""
    return _sum_by(columns.labels >= rel, columns.starts) + _sum_by(
        columns.unscored_labels >= rel, columns.unscored_starts
    )


def _num_found(columns: Columns, cutoff: int, rel: int) -> Floats:
    top = _top(columns.starts, cutoff)
    relevant = top.queries[columns.labels[top.rows] >= rel]
    return np.bincount(relevant, minlength=columns.num_queries).astype(np.float64)


def _dcg(labels: NDArray[np.int32], starts: NDArray[np.int64], cutoff: int | None, gain: Gain) -> Floats:
    top = _top(starts, cutoff)
    weights = gain(labels[top.rows]) / np.log2(np.arange(2, top.places.max(initial=0) + 3))[top.places]
    return np.bincount(top.queries, weights=weights, minlength=len(starts) - 1).astype(np.float64, copy=False)


def _ideal(columns: Columns) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The positive labels of each query in falling order, and where each query starts."""
    num_queries = columns.num_queries
    sources = ((columns.labels, columns.starts), (columns.unscored_labels, columns.unscored_starts))
    positive = []
    for labels, starts in sources:
        rows = np.flatnonzero(labels > 0)
        queries = np.searchsorted(starts, rows, side="right") - 1
        positive.append(queries << 32 | np.iinfo(np.int32).max - labels[rows].astype(np.int64))
    keys = np.sort(np.concatenate(positive))
    sizes = np.bincount(keys >> 32, minlength=num_queries)
    falling = np.iinfo(np.int32).max - (keys & 0xFFFFFFFF)
    return falling.astype(np.int32), np.concatenate([[0], np.cumsum(sizes)])


def _top(starts: NDArray[np.int64], cutoff: int | None) -> _Top:
    sizes = np.diff(starts) if cutoff is None else np.minimum(np.diff(starts), cutoff)
    queries = np.repeat(np.arange(len(sizes)), sizes)
    places = np.arange(len(queries)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return _Top(np.repeat(starts[:-1], sizes) + places, queries, places)


def _sum_by(values: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums of consecutive rows, [Q]; empty queries give 0."""
    totals = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])[starts]
    return np.diff(totals)
