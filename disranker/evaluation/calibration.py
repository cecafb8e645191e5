"""Scores as probabilities that a document is positive (label >= rel): how far off they are, and three ways to mend it.

    report = calibrate(query_ids, labels, scores, rel=2, seed=0)

`calibrate` fits on one part of the queries and judges on the rest, before (the sigmoid of the raw score) and after.
Calibration keeps the order of documents, except that isotonic steps make ties.  Ranking and cut-offs are elsewhere.

    Platt        p = sigmoid(scale · score + bias); Platt (1999); little data, any origin and unit of the score
    Temperature  p = sigmoid(score / temperature); Guo et al. (ICML 2017), https://arxiv.org/abs/1706.04599; only for
                 scores whose 0 means even odds (pointwise losses): losses on pairs or lists leave the origin free
    Isotonic     a rising step function, linear between its points; Zadrozny and Elkan (KDD 2002),
                 https://doi.org/10.1145/775047.775151; any rising curve, wants some thousand rows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression, minimize, minimize_scalar
from scipy.special import expit

from disranker.evaluation.cutoffs import Floats, Mask, check_positive, check_rows
from disranker.schema import stable_seed

NUM_BINS = 15

_LOG_TEMPERATURES = (-12.0, 12.0)  # natural logarithms


@dataclass(frozen=True, slots=True)
class Bin:
    """Documents with neighbouring probabilities: a point of the reliability curve."""

    low: float
    """Smallest probability in the bin."""
    high: float
    """Largest."""
    count: int
    mean_prob: float
    share_positive: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """How well probabilities agree with what happened."""

    num_rows: int
    brier: float
    """Mean of (prob - positive)^2."""
    ece: float
    """Expected calibration error: mean over documents of |mean_prob - share_positive| of their bin."""
    bins: tuple[Bin, ...]
    """Ascending, of nearly equal counts; equal probabilities are in one bin, so there may be fewer than asked for."""


@dataclass(frozen=True, slots=True)
class Platt:
    """p = sigmoid(scale · score + bias)."""

    scale: float
    bias: float

    def probs(self, scores: ArrayLike) -> Floats:
        return np.asarray(expit(self.scale * np.asarray(scores, dtype=np.float64) + self.bias))


@dataclass(frozen=True, slots=True)
class Temperature:
    """p = sigmoid(score / temperature)."""

    temperature: float

    def probs(self, scores: ArrayLike) -> Floats:
        return np.asarray(expit(np.asarray(scores, dtype=np.float64) / self.temperature))


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A rising curve through points, linear between them and flat outside."""

    scores: tuple[float, ...]
    """Ascending."""
    levels: tuple[float, ...]
    """The probability at each."""

    def probs(self, scores: ArrayLike) -> Floats:
        return np.asarray(np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.levels))


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """Calibration fitted on one part of the queries and judged on the other."""

    rel: int
    """Documents with at least this label are positive."""
    seed: int
    num_fit_queries: int
    num_held_queries: int
    before: Reliability
    """Of sigmoid(score), on the held-out queries, as are all that follow."""
    platt: Reliability
    temperature: Reliability
    isotonic: Reliability
    fitted_platt: Platt
    fitted_temperature: Temperature
    fitted_isotonic: Isotonic


def calibrate(
    query_ids: Sequence[str],
    labels: ArrayLike,
    scores: ArrayLike,
    rel: int,
    seed: int = 0,
    fit_share: float = 0.5,
    num_bins: int = NUM_BINS,
) -> CalibrationReport:
    """Fits on about `fit_share` of the queries and judges on the rest; the three columns are [N].

    Whole queries are split, by a stable hash of seed and query_id: documents of one query are not independent.

    Raises:
        ValueError: lengths differ, values are NaN or infinite, or a part has no positive or nothing but positives.
    """
    grades, values = check_rows(labels, scores)
    if len(query_ids) != len(grades):
        raise ValueError(f"{len(query_ids)} query_ids and {len(grades)} labels; give one of each per document")
    if not 0 < fit_share < 1:
        raise ValueError(f"fit_share={fit_share} must lie between 0 and 1")
    is_fit = {query: stable_seed(seed, "calibration", query) / 2**64 < fit_share for query in dict.fromkeys(query_ids)}
    fit = np.fromiter((is_fit[query] for query in query_ids), dtype=bool, count=len(query_ids))
    num_fit = sum(is_fit.values())
    for part, rows, num_queries in (("fitted on", fit, num_fit), ("held out", ~fit, len(is_fit) - num_fit)):
        try:
            check_positive(grades[rows], rel)
        except ValueError as error:
            raise ValueError(f"calibration: of the {num_queries} queries {part}, {error}; give more queries") from error
    positive = grades >= rel
    platt = fit_platt(positive[fit], values[fit])
    temperature = fit_temperature(positive[fit], values[fit])
    isotonic = fit_isotonic(positive[fit], values[fit])
    held, held_values = positive[~fit], values[~fit]
    return CalibrationReport(
        rel=rel,
        seed=seed,
        num_fit_queries=num_fit,
        num_held_queries=len(is_fit) - num_fit,
        before=measure_reliability(held, expit(held_values), num_bins),
        platt=measure_reliability(held, platt.probs(held_values), num_bins),
        temperature=measure_reliability(held, temperature.probs(held_values), num_bins),
        isotonic=measure_reliability(held, isotonic.probs(held_values), num_bins),
        fitted_platt=platt,
        fitted_temperature=temperature,
        fitted_isotonic=isotonic,
    )


def measure_reliability(positive: Mask, probs: Floats, num_bins: int = NUM_BINS) -> Reliability:
    """Brier score, expected calibration error and reliability curve; `positive` and `probs` are [N], N > 0.

    Bins are filled with N / num_bins documents each, ascending; one ends where its last probability does.

    Raises:
        ValueError: num_bins below 1, or probabilities outside [0, 1].
    """
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins} must be at least 1")
    if not (len(probs) and ((probs >= 0) & (probs <= 1)).all()):
        raise ValueError("probabilities must lie in [0, 1], and there must be some")
    order = np.argsort(probs)
    ascending, happened = probs[order], positive[order].astype(np.float64)
    wanted = np.round(np.arange(1, num_bins + 1) * len(probs) / num_bins).astype(np.int64)
    # The end of a bin moves behind the documents with the probability of its last one.
    ends = np.unique(np.searchsorted(ascending, ascending[np.maximum(wanted, 1) - 1], side="right"))
    starts = np.concatenate([[0], ends[:-1]])
    counts = ends - starts
    mean_probs = np.add.reduceat(ascending, starts) / counts
    shares = np.add.reduceat(happened, starts) / counts
    return Reliability(
        num_rows=len(probs),
        brier=float(np.mean((ascending - happened) ** 2)),
        ece=float(counts @ np.abs(mean_probs - shares) / len(probs)),
        bins=tuple(
            Bin(*row)
            for row in zip(
                ascending[starts].tolist(),
                ascending[ends - 1].tolist(),
                counts.tolist(),
                mean_probs.tolist(),
                shares.tolist(),
                strict=True,
            )
        ),
    )


def fit_platt(positive: Mask, scores: Floats) -> Platt:
    """Maximum likelihood of scale and bias, on Platt's targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2).

    The targets keep the scale finite where the scores part positives and others perfectly.
    """
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    targets = np.where(positive, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2))
    # In units of their spread, whatever unit the scores have.
    center, spread = float(scores.mean()), float(scores.std()) or 1.0
    units = (scores - center) / spread

    def loss(parameters: Floats) -> tuple[float, Floats]:
        logits = parameters[0] * units + parameters[1]
        wrong = expit(logits) - targets
        value = np.mean(np.logaddexp(0.0, logits) - targets * logits)
        return float(value), np.array([wrong @ units, wrong.sum()]) / len(units)

    start = np.array([0.0, np.log((num_positive + 1) / (num_negative + 1))])
    scale, bias = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    return Platt(scale=float(scale / spread), bias=float(bias - scale * center / spread))


def fit_temperature(positive: Mask, scores: Floats) -> Temperature:
    """Maximum likelihood of the temperature; the largest or smallest that is tried where none is best in between."""
    signs = np.where(positive, -1.0, 1.0)
    unit = float(np.abs(scores).mean()) or 1.0

    def loss(log_temperature: float) -> float:
        return float(np.mean(np.logaddexp(0.0, signs * scores / (unit * np.exp(log_temperature)))))

    best = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-9})
    return Temperature(float(unit * np.exp(best.x)))


def fit_isotonic(positive: Mask, scores: Floats) -> Isotonic:
    """Least squares among rising curves; equal scores are one point."""
    points, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    shares = np.bincount(place, weights=positive) / counts
    levels = isotonic_regression(shares, weights=counts.astype(np.float64)).x
    # The inner points of a flat stretch say nothing.
    kept = np.ones(len(levels), dtype=bool)
    kept[1:-1] = (levels[1:-1] != levels[:-2]) | (levels[1:-1] != levels[2:])
    return Isotonic(tuple(points[kept].tolist()), tuple(levels[kept].tolist()))
