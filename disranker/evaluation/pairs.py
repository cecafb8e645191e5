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


def ratio(concordant: float, discordant: float) -> float:
    """Concordant / discordant; `inf` when nothing is discordant, `nan` when there is nothing at all."""
    if discordant > 0:
        return concordant / discordant
    return math.inf if concordant > 0 else math.nan


def count_pairs(labels: NDArray[Any], scores: NDArray[Any]) -> PairCounts:
    """Counts the pairs of one query's documents, `labels` and `scores` of shape [D]; O(levels · D log D), exact."""
    concordant = discordant = tied = 0
    lower: NDArray[Any] = np.empty(0, dtype=scores.dtype)
    for level in np.unique(labels):  # ascending: `lower` holds the sorted scores of all documents labelled below
        here = scores[labels == level]
        if lower.size:
            below = np.searchsorted(lower, here, side="left")
            not_above = np.searchsorted(lower, here, side="right")
            concordant += int(below.sum())
            tied += int((not_above - below).sum())
            discordant += int((lower.size - not_above).sum())
        lower = np.sort(np.concatenate([lower, here]))
    return PairCounts(concordant, discordant, tied)


def pnr(query_ids: Sequence[str], labels: ArrayLike, scores: ArrayLike, ties: TieRule = "half") -> PnrResult:
    """Positive-negative ratio: concordant / discordant pairs over graded labels.

    A pair is two documents of one query with different labels; it is concordant when the higher label has the higher
    score.  `query_ids`, `labels` and `scores` have one entry a scored document, in any order.

    ties="half" counts a score tie half concordant, half discordant (a constant scorer gets PNR 1, as random order
    does); "discordant" counts it against the ranker; "ignore" drops it.  Without a discordant pair PNR is `inf`;
    without any pair it is `nan`.  Scores are compared in the precision they come in.

    Raises ValueError for lengths that differ, no rows, NaN or infinite labels or scores, or an unknown tie rule.
    """
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

    rows_of: dict[str, list[int]] = {}
    for row, query_id in enumerate(query_ids):
        rows_of.setdefault(query_id, []).append(row)
    return pool_pairs(
        {query: count_pairs(label_values[rows], score_values[rows]) for query, rows in rows_of.items()}, ties
    )


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
