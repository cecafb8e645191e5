"""Positive-negative ratio (PNR): how many document pairs a ranking has in the right order for each in the wrong one.

The figure that search companies report for graded labels (0..4).  Numpy only; pairs are counted exactly, as whole
numbers, so that a tie rule can be applied afterwards and queries can be pooled or resampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

TieRule = Literal["half", "discordant", "ignore"]

_NAMED_ROWS = 3  # offenders that an error message lists


class PairCounts(NamedTuple):
    """Document pairs with different labels, by what the scores say of them; a score tie is neither of the first two."""

    concordant: int
    discordant: int
    tied: int

    def split(self, ties: TieRule = "half") -> tuple[float, float]:
        """(concordant, discordant) after the tie rule has shared out the tied pairs."""
        if ties == "half":
            return self.concordant + self.tied / 2, self.discordant + self.tied / 2
        if ties == "discordant":
            return float(self.concordant), float(self.discordant + self.tied)
        return float(self.concordant), float(self.discordant)

    def accuracy(self, ties: TieRule = "half") -> float:
        """Concordant / (concordant + discordant), the share of pairs in the right order; `nan` without any pair."""
        concordant, discordant = self.split(ties)
        return concordant / (concordant + discordant) if concordant + discordant else math.nan

    def pnr(self, ties: TieRule = "half") -> float:
        """Concordant / discordant; `inf` without a discordant pair, `nan` without any pair."""
        return ratio(*self.split(ties))


@dataclass(frozen=True, slots=True)
class PnrResult:
    """PNR of one run, with the counts behind it; pair counts are raw, before the tie rule."""

    micro: float
    """Concordant / discordant pairs, pooled over all queries: the PNR of the search industry."""
    macro: float
    """Mean of the per-query PNR over the queries where it is finite, which leaves out the perfect ones."""
    concordant: int
    discordant: int
    tied: int
    ties: TieRule
    num_queries: int
    num_queries_without_pairs: int
    """All documents have one label (or there is one document): in neither figure."""
    num_queries_without_discordant: int
    """Perfectly ordered, PNR infinite: in `micro`, not in `macro`."""
    per_query: dict[str, PairCounts]


@dataclass(frozen=True, slots=True)
class GapPnr:
    """PNR over the pairs whose labels lie `gap` apart, pooled over queries."""

    gap: int
    exactly: float
    """PNR of the pairs whose labels differ by exactly `gap`."""
    at_least: float
    """PNR of the pairs whose labels differ by `gap` or more; at the smallest gap this is the PNR."""
    pairs_exactly: PairCounts
    pairs_at_least: PairCounts
    ties: TieRule


def ratio(concordant: float, discordant: float) -> float:
    """Concordant / discordant; `inf` when nothing is discordant, `nan` when there is nothing at all."""
    if discordant > 0:
        return concordant / discordant
    return math.inf if concordant > 0 else math.nan


def count_pairs(labels: NDArray[Any], scores: NDArray[Any], gap: int = 1) -> PairCounts:
    """Counts the pairs of one query's documents whose labels differ by at least `gap`; `labels`, `scores` are [D]."""
    order = np.argsort(scores)[::-1]
    starts = np.array([0, len(order)])
    return PairCounts(*count_query_pairs(labels[order], scores[order], starts, gap)[0].tolist())


def count_query_pairs(
    labels: NDArray[Any], scores: NDArray[Any], starts: NDArray[np.int64], gap: int = 1, exactly: bool = False
) -> NDArray[np.int64]:
    """The pairs of Q queries at once, [Q, 3]: concordant, discordant, tied.

    `labels` and `scores` are [R]; query q has the rows `starts[q]` to `starts[q + 1]`, best score first.  Pairs count
    whose labels differ by at least `gap`, or by `exactly` that.  O(levels · R) time, exact.
    """
    counts = np.zeros((len(starts) - 1, 3), dtype=np.int64)
    num_rows = len(labels)
    if not num_rows:
        return counts
    queries = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
    leads = np.ones(num_rows, dtype=bool)  # the first row of a query, or of a run of equal scores
    leads[1:] = (scores[1:] != scores[:-1]) | (queries[1:] != queries[:-1])
    first = np.flatnonzero(leads)
    tie_group = np.cumsum(leads, dtype=np.int32) - 1
    bounds = np.append(first, num_rows)  # of the tie groups

    lower_before = np.zeros(num_rows + 1, dtype=np.int64)  # documents of a lower label among the rows before each row
    for level in np.unique(labels).tolist():
        np.cumsum(labels == level - gap if exactly else labels <= level - gap, out=lower_before[1:])
        if not lower_before[-1]:
            continue
        rows = np.flatnonzero(labels == level)
        query, group = queries[rows], tie_group[rows]
        before, after = lower_before[bounds[group]], lower_before[bounds[group + 1]]
        for column, number in enumerate(
            (lower_before[starts[query + 1]] - after, before - lower_before[starts[query]], after - before)
        ):
            # float64 sums of whole numbers are exact up to 2^53
            counts[:, column] += np.bincount(query, weights=number, minlength=len(counts)).astype(np.int64)
    return counts


def pnr(query_ids: Sequence[str], labels: ArrayLike, scores: ArrayLike, ties: TieRule = "half") -> PnrResult:
    """Positive-negative ratio: concordant / discordant pairs over graded labels.

    A pair is two documents of one query with different labels; it is concordant when the higher label has the higher
    score.  `query_ids`, `labels` and `scores` have one entry a scored document, in any order.

    ties="half" counts a score tie half concordant, half discordant (a constant scorer gets PNR 1, as random order
    does); "discordant" counts it against the ranker; "ignore" drops it.  Without a discordant pair PNR is `inf`;
    without any pair it is `nan`.  Scores are compared in the precision they come in.

    Raises ValueError for lengths that differ, no rows, NaN or infinite labels or scores, or an unknown tie rule.
    """
    columns = _sort_columns(query_ids, labels, scores, ties)
    counts = count_query_pairs(columns.labels, columns.scores, columns.starts)
    return pool_pairs(
        {query: PairCounts(*row) for query, row in zip(columns.query_ids, counts.tolist(), strict=True)}, ties
    )


def pnr_by_gap(
    query_ids: Sequence[str], labels: ArrayLike, scores: ArrayLike, ties: TieRule = "half"
) -> tuple[GapPnr, ...]:
    """PNR by how far the two labels of a pair lie apart, pooled over queries; takes and refuses what `pnr` does.

    One record for each gap that two labels of a query have, smallest first; a ranker that errs only between
    neighbouring grades has a high PNR at the gaps above 1.
    """
    columns = _sort_columns(query_ids, labels, scores, ties)
    if not np.issubdtype(columns.labels.dtype, np.integer) and np.any(columns.labels % 1):
        raise ValueError("pnr_by_gap: labels must be whole numbers")
    levels = [int(level) for level in np.unique(columns.labels)]
    gaps = {upper - lower for upper in levels for lower in levels if upper > lower}
    records = []
    at_least = np.zeros(3, dtype=np.int64)
    for gap in sorted(gaps, reverse=True):
        counts = count_query_pairs(columns.labels, columns.scores, columns.starts, gap, exactly=True).sum(axis=0)
        if not counts.any():
            continue  # no query has both labels
        at_least += counts
        exactly, more = PairCounts(*counts.tolist()), PairCounts(*at_least.tolist())
        records.append(GapPnr(gap, exactly.pnr(ties), more.pnr(ties), exactly, more, ties))
    return tuple(reversed(records))


class _SortedColumns(NamedTuple):
    """Rows sorted by query, best first; query q has the rows `starts[q]` to `starts[q + 1]`."""

    query_ids: list[str]
    starts: NDArray[np.int64]
    labels: NDArray[Any]
    scores: NDArray[Any]


def _sort_columns(query_ids: Sequence[str], labels: ArrayLike, scores: ArrayLike, ties: str) -> _SortedColumns:
    """The columns that `pnr` takes, checked and sorted."""
    check_tie_rule(ties)
    label_values, score_values = np.asarray(labels), np.asarray(scores)
    if not len(query_ids) == len(label_values) == len(score_values):
        raise ValueError(
            f"pnr: {len(query_ids)} query_ids, {len(label_values)} labels and {len(score_values)} scores; "
            "give one of each per document"
        )
    if not len(query_ids):
        raise ValueError("pnr: no documents given")
    for what, values in (("label", label_values), ("score", score_values)):
        if values.dtype == object or not np.issubdtype(values.dtype, np.number):
            raise ValueError(f"pnr: {what}s must be numbers, got dtype {values.dtype}; is a {what} missing?")
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            named = [f"row {row} (query_id {query_ids[row]!r}): {values[row]}" for row in wrong[:_NAMED_ROWS].tolist()]
            raise ValueError(f"pnr: {wrong.size} {what}s are NaN or infinite: {'; '.join(named)}")
    code_of = {query: code for code, query in enumerate(dict.fromkeys(query_ids))}
    codes = np.fromiter((code_of[query] for query in query_ids), dtype=np.int64, count=len(query_ids))
    order = np.lexsort((score_values, -codes))[::-1]  # unsigned scores have no minus
    starts = np.concatenate([[0], np.cumsum(np.bincount(codes))])
    return _SortedColumns([*code_of], starts, label_values[order], score_values[order])


def pool_pairs(per_query: Mapping[str, PairCounts], ties: TieRule = "half") -> PnrResult:
    """The PNR of a run from the pair counts of its queries."""
    total = PairCounts(*np.array(list(per_query.values()), dtype=np.int64).reshape(-1, 3).sum(axis=0).tolist())
    values = [per_query[query].pnr(ties) for query in sorted(per_query)]
    finite = [value for value in values if math.isfinite(value)]
    without_pairs = sum(math.isnan(value) for value in values)
    without_discordant = sum(math.isinf(value) for value in values)
    macro = math.fsum(finite) / len(finite) if finite else (math.inf if without_discordant else math.nan)
    return PnrResult(
        micro=total.pnr(ties),
        macro=macro,
        concordant=total.concordant,
        discordant=total.discordant,
        tied=total.tied,
        ties=ties,
        num_queries=len(per_query),
        num_queries_without_pairs=without_pairs,
        num_queries_without_discordant=without_discordant,
        per_query=dict(per_query),
    )


def check_tie_rule(ties: str) -> None:
    """Refuses an unknown tie rule with a ValueError that lists the known ones."""
    if ties not in get_args(TieRule):
        raise ValueError(f"ties={ties!r} is no tie rule; use one of {', '.join(get_args(TieRule))}")
