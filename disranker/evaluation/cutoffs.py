"""Cut-offs on the score: what showing only documents from some score on gets right, and grades read off the score.

A document is positive when its label is at least `rel`, and shown when its score is at least the threshold.  Unlike
ranking measures these compare scores across queries, so they suit scores that mean the same everywhere (pointwise or
calibrated ones).  A cut-off that was chosen on the rows it is judged on looks better than it is: fit on one split,
judge on another.  Probabilities are in `calibration.py`.  Numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_NAMED_ROWS = 3  # offenders that an error message lists


@dataclass(frozen=True, slots=True)
class Operating:
    """What a threshold does: documents with at least this score are shown."""

    threshold: float
    precision: float | None
    """Positives among the shown; None when nothing is shown."""
    recall: float
    """Shown among the positives."""
    f1: float
    """2 · shown positives / (shown + positives)."""
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


@dataclass(frozen=True, slots=True)
class CutoffReport:
    """How well the score tells positive documents from the others, over all rows at once."""

    rel: int
    """Documents with at least this label are positive."""
    num_positive: int
    num_negative: int
    auroc: float
    """Probability that a positive document has a higher score than another; ties count half."""
    average_precision: float
    """Precision at each distinct score, weighted by the recall that it adds; equal scores are shown together."""
    best: Operating
    """The best F1 of any threshold on these very rows, the highest such threshold: optimistic."""
    thresholds: tuple[Operating, ...]
    """At the thresholds that were asked for, in their order."""


@dataclass(frozen=True, slots=True)
class GradeCuts:
    """Cut points that turn a score into a grade: the grade with index = number of cuts at or below the score."""

    grades: tuple[int, ...]
    """Ascending."""
    cuts: tuple[float, ...]
    """Ascending, one fewer than grades."""

    def predict(self, scores: ArrayLike) -> NDArray[np.int64]:
        """The grade of each score."""
        values = np.asarray(scores, dtype=np.float64)
        return np.asarray(self.grades)[np.searchsorted(np.asarray(self.cuts), values, side="right")]


@dataclass(frozen=True, slots=True)
class Confusion:
    """Labels against grades that were predicted from the score."""

    grades: tuple[int, ...]
    """Those of the labels and of the cuts, ascending."""
    counts: tuple[tuple[int, ...], ...]
    """A row for each label, a column for each predicted grade, both in the order of `grades`."""
    accuracy: float
    """Share of documents whose grade is their label."""
    within_one: float
    """Share whose grade is at most 1 away from their label."""
    mean_absolute_error: float
    """Mean of |grade - label|."""


def measure_cutoffs(labels: ArrayLike, scores: ArrayLike, rel: int, thresholds: Sequence[float] = ()) -> CutoffReport:
    """AUROC, average precision, and precision, recall and F1 at cut-offs; `labels` and `scores` are [N].

    AUROC is the Mann-Whitney statistic, Hanley and McNeil (Radiology 1982), https://doi.org/10.1148/radiology.143.1.7063747.

    Raises:
        ValueError: lengths differ, values are NaN or infinite, or there is no positive or nothing but positives.
    """
    grades, values = check_rows(labels, scores)
    positive = check_positive(grades, rel)
    curve = _Curve(positive, values)
    return CutoffReport(
        rel=rel,
        num_positive=int(positive.sum()),
        num_negative=int((~positive).sum()),
        auroc=curve.auroc(),
        average_precision=curve.average_precision(),
        best=curve.at(curve.best_threshold()),
        thresholds=tuple(curve.at(float(threshold)) for threshold in thresholds),
    )


def best_threshold(labels: ArrayLike, scores: ArrayLike, rel: int) -> float:
    """The score from which on showing documents has the best F1, the highest such score; for use on another split.

    Raises what `measure_cutoffs` raises.
    """
    grades, values = check_rows(labels, scores)
    return _Curve(check_positive(grades, rel), values).best_threshold()


def fit_grade_cuts(labels: ArrayLike, scores: ArrayLike) -> GradeCuts:
    """Cut points that give each grade the share of documents that have it as label.

    With n documents labelled below grade g, the cut to g lies midway between the n-th and the next score, ascending.
    Documents with equal scores get one grade: a cut that falls among them lies at their score, and they are above it.

    Raises:
        ValueError: lengths differ, no rows, or values are NaN or infinite.
    """
    grades, values = check_rows(labels, scores)
    levels, sizes = np.unique(grades, return_counts=True)
    ascending = np.sort(values)
    below = np.cumsum(sizes)[:-1]
    cuts = ascending[below - 1] + (ascending[below] - ascending[below - 1]) / 2
    return GradeCuts(tuple(levels.tolist()), tuple(cuts.tolist()))


def confuse_grades(labels: ArrayLike, scores: ArrayLike, cuts: GradeCuts) -> Confusion:
    """Labels against the grades that `cuts`, fitted on another split, predicts; a label without a cut is never met.

    Raises:
        ValueError: lengths differ, no rows, or values are NaN or infinite.
    """
    grades, values = check_rows(labels, scores)
    predicted = cuts.predict(values)
    levels = np.union1d(grades, cuts.grades)
    cells = np.searchsorted(levels, grades) * len(levels) + np.searchsorted(levels, predicted)
    counts = np.bincount(cells, minlength=len(levels) ** 2).reshape(len(levels), len(levels))
    distance = np.abs(predicted - grades)
    return Confusion(
        grades=tuple(levels.tolist()),
        counts=tuple(tuple(row) for row in counts.tolist()),
        accuracy=float((distance == 0).mean()),
        within_one=float((distance <= 1).mean()),
        mean_absolute_error=float(distance.mean()),
    )


class _Curve:
    """Shown positives and shown documents at every distinct score, highest first."""

    def __init__(self, positive: Mask, scores: Floats) -> None:
        order = np.argsort(scores)[::-1]
        descending = scores[order]
        last = np.append(np.flatnonzero(descending[1:] != descending[:-1]), len(descending) - 1)
        self.thresholds = descending[last]
        self.hits = np.cumsum(positive[order])[last]
        self.shown = last + 1
        self.num_positive, self.num_rows = int(positive.sum()), len(positive)

    def auroc(self) -> float:
        hits, misses = np.append(0, self.hits), np.append(0, self.shown - self.hits)
        # Whole numbers: each positive counts 2 for each negative below it and 1 for each with its own score.
        twice = np.diff(hits) @ (2 * misses[-1] - misses[1:] - misses[:-1])
        return float(twice / (2 * hits[-1] * misses[-1]))

    def average_precision(self) -> float:
        return float(np.diff(self.hits, prepend=0) @ (self.hits / self.shown) / self.num_positive)

    def best_threshold(self) -> float:
        # F1 = 2 hits / (shown + positives)
        return float(self.thresholds[np.argmax(self.hits / (self.shown + self.num_positive))])

    def at(self, threshold: float) -> Operating:
        index = int(np.searchsorted(-self.thresholds, -threshold, side="right")) - 1
        hits, shown = (int(self.hits[index]), int(self.shown[index])) if index >= 0 else (0, 0)
        return Operating(
            threshold=threshold,
            precision=hits / shown if shown else None,
            recall=hits / self.num_positive,
            f1=2 * hits / (shown + self.num_positive),
            true_positives=hits,
            false_positives=shown - hits,
            false_negatives=self.num_positive - hits,
            true_negatives=self.num_rows - shown - self.num_positive + hits,
        )


def check_rows(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """Labels and scores as arrays of equal length; ValueError for no rows, values not finite or fractional labels."""
    columns = [np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)]
    if len(columns[0]) != len(columns[1]):
        raise ValueError(f"{len(columns[0])} labels and {len(columns[1])} scores; give one of each per document")
    if not len(columns[0]):
        raise ValueError("no documents given")
    for what, values in zip(("labels", "scores"), columns, strict=True):
        wrong = np.flatnonzero(~np.isfinite(values) | ((values % 1 != 0) & (what == "labels")))
        if len(wrong):
            named = ", ".join(f"row {row}: {values[row]}" for row in wrong[:_NAMED_ROWS].tolist())
            fault = "missing or no whole numbers" if what == "labels" else "NaN or infinite"
            raise ValueError(f"{len(wrong)} {what} are {fault}: {named}")
    return columns[0].astype(np.int64), columns[1]


def check_positive(labels: NDArray[np.int64], rel: int) -> Mask:
    """Which labels are positive; ValueError unless some are and some are not."""
    positive = labels >= rel
    if positive.all() or not positive.any():
        raise ValueError(
            f"{int(positive.sum())} of {len(labels)} documents have a label of at least rel={rel}, but there must be "
            f"some and not all; the labels are {', '.join(map(str, np.unique(labels).tolist()))}"
        )
    return positive
