"""Weights of several teachers fitted on judged pairs, and how well each teacher and their fusion rank those pairs.

Breiman 1996 (Stacked regressions, Machine Learning 24): least squares with weights that are not negative, judged by
predictions for data that they were not fitted on.  Shapes: M judged pairs, K teachers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from disranker.data.groups import PairSet
from disranker.evaluation.measures import group_scores, measure_run
from disranker.schema import stable_seed
from disranker.train.journal import finite

Floats = NDArray[np.float64]

MEASURES = ("nDCG@10", "PNR")
NUM_FOLDS = 5
# Of the mean sum of squares of a teacher's scores.  Without it, two teachers that say the same, or the opposite, have
# no one best pair of weights: for exact opposites both weights came out huge and equal.
_DAMPING = 1e-3


@dataclass(frozen=True, slots=True)
class Judged:
    """M judged pairs with what every teacher says of them."""

    pair_set: PairSet
    labels: NDArray[np.float32]
    scores_MK: Floats
    """standardised; a row for each pair"""
    num_left_out: int
    """judged pairs that some teacher did not score"""

    def take(self, rows: NDArray[np.int64]) -> Judged:
        """Those rows of it."""
        return Judged(self.pair_set.take(rows.tolist()), self.labels[rows], self.scores_MK[rows], 0)


def fit_weights(judged: Judged) -> Floats:
    """[K] weights, none negative, that sum to 1: least squares on labels, both sides centred within each query.

    Centred, for what counts is the order within a query: the squared error is then the one of all differences of
    labels.  The sum is set to 1, for fused scores are standardised anyway.

    Raises:
        ValueError: no query has documents of different labels, or no teacher's scores rise with the labels.
    """
    scores_MK, labels = judged.scores_MK.copy(), judged.labels.astype(np.float64)
    for _, rows in judged.pair_set.groups():
        scores_MK[rows] -= scores_MK[rows].mean(axis=0)
        labels[rows] -= labels[rows].mean()
    if not labels.any():
        raise ValueError("no judged query has documents of different labels: there is no order to fit weights on")
    num_teachers = scores_MK.shape[1]
    damping = np.sqrt(_DAMPING * (scores_MK**2).sum() / num_teachers) * np.eye(num_teachers)
    weights: Floats = nnls(np.concatenate([scores_MK, damping]), np.concatenate([labels, np.zeros(num_teachers)]))[0]
    if not weights.any():
        raise ValueError("no teacher's scores rise with the labels of the judged pairs: none of them can be of use")
    return weights / weights.sum()


def cross_fit(judged: Judged, num_folds: int = NUM_FOLDS) -> Floats:
    """[M] fused scores of every judged pair by weights fitted on the queries of the other folds.

    Queries are dealt to folds in the order of a hash of their query_id.

    Raises:
        ValueError: there are fewer than two queries, or `fit_weights` finds nothing to fit on.
    """
    groups = sorted(judged.pair_set.groups(), key=lambda group: stable_seed("fold", group[0]))
    if len(groups) < 2:
        raise ValueError(f"{len(groups)} judged queries: weights are fitted on some and judged by others, give more")
    num_folds = min(num_folds, len(groups))
    fused = np.empty(len(judged.labels))
    for fold in range(num_folds):
        inside = np.concatenate([rows for _, rows in groups[fold::num_folds]])
        outside = np.sort(np.concatenate([rows for at, (_, rows) in enumerate(groups) if at % num_folds != fold]))
        fused[inside] = judged.scores_MK[inside] @ fit_weights(judged.take(outside))
    return fused


def measure_fusion(judged: Judged, fused: Floats, how: str) -> dict[str, Any]:
    """What the manifest says of the judged pairs: `MEASURES` of each teacher, of their mean, and of the fusion.

    `fused` [M] are the scores to measure; `how` says in words where their weights are from.
    """
    labels: dict[str, dict[str, int]] = {}
    for query_id, doc_id, label in zip(
        judged.pair_set.query_ids, judged.pair_set.doc_ids, judged.labels.tolist(), strict=True
    ):
        labels.setdefault(query_id, {})[doc_id] = int(label)

    def measure(scores: Floats) -> dict[str, Any]:
        run = group_scores(judged.pair_set.query_ids, judged.pair_set.doc_ids, scores)
        return finite(measure_run(labels, run, MEASURES).aggregate)  # a PNR may be infinite

    return {
        "queries": len(labels),
        "pairs": len(judged.labels),
        "left_out": judged.num_left_out,
        "weights": how,
        "teachers": [measure(column) for column in judged.scores_MK.T],
        "mean": measure(judged.scores_MK.mean(axis=1)),
        "fused": measure(fused),
    }


def judged_lines(found: dict[str, Any]) -> list[str]:
    """The same for the screen."""

    def shown(values: dict[str, Any]) -> str:
        return "  ".join(f"{name} {float(values[name]):.4f}" for name in MEASURES)

    left_out = f", {found['left_out']:,} left out that a teacher lacks" if found["left_out"] else ""
    lines = [f"judged    {found['pairs']:,} pairs of {found['queries']:,} queries{left_out}"]
    lines += [f"  teacher {number}  {shown(values)}" for number, values in enumerate(found["teachers"], start=1)]
    return [
        *lines,
        f"  mean       {shown(found['mean'])}",
        f"  fused      {shown(found['fused'])}  ({found['weights']})",
    ]
