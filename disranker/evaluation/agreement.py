"""How much of its teacher a student has kept: of its quality, of its order of the documents, of its scores.

Teacher and student have scored the same rows.  Quality is the share of each measure that the student retains; order is
Kendall's tau-b and Spearman's rho within each query; scores are compared after standardising each system over all
rows, because logits of two models have no common scale.  Nothing is scored here and nothing is drawn; the formulas of
the correlations are in `correlation.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disranker.evaluation.correlation import kendall_tau_b, spearman_rho
from disranker.evaluation.disagreement import DocumentGap, QueryLoss, find_document_gaps, find_query_losses
from disranker.evaluation.measures import Measured, measure_name
from disranker.evaluation.resampling import aggregate, bootstrap, bootstrap_interval, query_table, resampled
from disranker.evaluation.shared_rows import Floats, Ints, SharedRows, read_shared_rows, standardise
from disranker.evaluation.significance import common_queries

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the per-query correlations."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What share of the teacher's quality the student keeps, by one measure."""

    measure: str
    teacher: float
    student: float
    retention: float
    """student / teacher; inf where the teacher alone has 0; nan where both have 0, or both an infinite value."""
    interval: tuple[float, float]
    """Bootstrap percentile interval of `retention`, over queries; both systems are resampled together."""
    num_queries: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Correlation:
    """How alike two systems order the documents of a query: 1 = the same order, 0 = unrelated, -1 = reversed."""

    name: str
    """`kendall_tau_b` or `spearman_rho`."""
    mean: float
    """Over the queries that have a correlation; nan when none has."""
    interval: tuple[float, float]
    """Bootstrap percentile interval of `mean`."""
    quantiles: tuple[float, ...]
    """Of the per-query values, at `QUANTILES`; empty when no query has a correlation."""
    num_queries: int
    """Queries that have a correlation."""
    num_constant: int
    """Queries with at least two documents where a system scores all alike: no correlation, in no figure above."""
    num_single: int
    """Queries with fewer than two documents: no correlation, in no figure above."""
    confidence: float


@dataclass(frozen=True, slots=True)
class ScoreHistogram:
    """How both systems' standardised scores are spread, in shared bins."""

    edges: tuple[float, ...]
    """Of the bins, in standard deviations; one more than there are bins; the last bin holds its upper edge."""
    teacher: tuple[int, ...]
    """Documents in each bin."""
    student: tuple[int, ...]
    teacher_mean: float
    """Of the raw scores; raw = mean + deviation * standardised."""
    teacher_deviation: float
    student_mean: float
    student_deviation: float


@dataclass(frozen=True, slots=True)
class FiveNumbers:
    """What a box plot draws of some values; quartiles are interpolated linearly, whiskers are the extremes."""

    lowest: float
    first_quartile: float
    median: float
    third_quartile: float
    highest: float


@dataclass(frozen=True, slots=True)
class GradeScores:
    """The standardised scores of all documents of one label."""

    label: int | None
    """None: documents that nobody judged."""
    num_documents: int
    teacher: FiveNumbers
    student: FiveNumbers


@dataclass(frozen=True, slots=True)
class Agreement:
    """Student against teacher on the same rows."""

    teacher: str
    student: str
    num_queries: int
    num_documents: int
    retention: tuple[Retention, ...]
    """One per measure."""
    kendall: Correlation
    spearman: Correlation
    histogram: ScoreHistogram
    grades: tuple[GradeScores, ...]
    """By label, ascending; documents without a label last."""
    query_losses: tuple[QueryLoss, ...]
    """By the first measure, largest loss first; queries without a loss are never listed."""
    score_gaps: tuple[DocumentGap, ...]
    """Documents whose standardised scores differ most, largest first."""
    position_gaps: tuple[DocumentGap, ...]
    """Documents whose positions differ most, largest first; of equal ones the larger score gap first."""


def compare_to_teacher(
    labels: Mapping[str, Mapping[str, int]],
    teacher_scores: Mapping[str, Mapping[str, float]],
    student_scores: Mapping[str, Mapping[str, float]],
    teacher: Measured,
    student: Measured,
    measures: Sequence[str],
    names: tuple[str, str] = ("teacher", "student"),
    num_listed: int = 20,
    num_bins: int = 40,
    samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Agreement:
    """Compares a student with its teacher on the rows that both scored.

    `labels` and both scores are query_id -> doc_id -> value; labels may be missing and may be more.  Scores are read
    as float32, as the measures do, and equal scores placed by doc_id, descending.  `teacher` and `student` are the
    two runs measured; `num_listed` bounds each list of queries or documents.  Every query enters the correlations.

    Raises ValueError when the two scored different rows, when scores are NaN or infinite, when they were measured on
    different queries or lack a measure, and for no measures, bins or rows.
    """
    if not measures:
        raise ValueError("measures is empty; name at least one that both systems have")
    if num_bins < 1 or num_listed < 0:
        raise ValueError(f"num_bins={num_bins} must be at least 1, num_listed={num_listed} at least 0")
    rows = read_shared_rows(labels, teacher_scores, student_scores, names)
    num_documents = dict(zip(rows.query_ids, rows.lengths.tolist(), strict=True))
    kendall = kendall_tau_b(rows.lengths, rows.teacher, rows.student)
    spearman = spearman_rho(rows.lengths, rows.teacher, rows.student)
    score_gaps, position_gaps = find_document_gaps(rows, num_listed)
    return Agreement(
        teacher=names[0],
        student=names[1],
        num_queries=len(rows.lengths),
        num_documents=len(rows.doc_ids),
        retention=tuple(
            retained_quality(teacher, student, measure, names, samples, seed, confidence) for measure in measures
        ),
        kendall=_correlation("kendall_tau_b", kendall, rows.lengths, samples, seed, confidence),
        spearman=_correlation("spearman_rho", spearman, rows.lengths, samples, seed, confidence),
        histogram=_histogram(rows, num_bins),
        grades=_grades(rows),
        query_losses=find_query_losses(teacher, student, measures[0], names, num_documents, num_listed),
        score_gaps=score_gaps,
        position_gaps=position_gaps,
    )


def retained_quality(
    teacher: Measured,
    student: Measured,
    measure: str,
    names: tuple[str, str] = ("teacher", "student"),
    samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Retention:
    """The share of the teacher's aggregate that the student reaches, with its interval; above 1 it is better.

    Raises ValueError when they were measured on different queries or lack the measure.
    """
    name = measure_name(measure)
    queries = common_queries(teacher, student, name, names)
    of_teacher, of_student = query_table(teacher, name, queries), query_table(student, name, queries)

    def share(weights: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(resampled(of_student, weights) / resampled(of_teacher, weights))

    return Retention(
        measure=name,
        teacher=aggregate(of_teacher),
        student=aggregate(of_student),
        retention=float(share(np.ones((1, len(queries))))[0]),
        interval=bootstrap(share, len(queries), samples, seed, confidence),
        num_queries=len(queries),
        confidence=confidence,
    )


def _correlation(name: str, values: Floats, lengths: Ints, samples: int, seed: int, confidence: float) -> Correlation:
    known = values[~np.isnan(values)]
    num_single = int((lengths < 2).sum())
    return Correlation(
        name=name,
        mean=float(known.mean()) if known.size else math.nan,
        interval=bootstrap_interval(known, samples, seed, confidence) if known.size else (math.nan, math.nan),
        quantiles=tuple(np.quantile(known, QUANTILES).tolist()) if known.size else (),
        num_queries=len(known),
        num_constant=len(values) - len(known) - num_single,
        num_single=num_single,
        confidence=confidence,
    )


def _histogram(rows: SharedRows, num_bins: int) -> ScoreHistogram:
    teacher, student = standardise(rows.teacher), standardise(rows.student)
    edges = np.histogram_bin_edges(np.concatenate([teacher, student]), num_bins)
    return ScoreHistogram(
        edges=tuple(edges.tolist()),
        teacher=tuple(np.histogram(teacher, edges)[0].tolist()),
        student=tuple(np.histogram(student, edges)[0].tolist()),
        teacher_mean=float(rows.teacher.mean()),
        teacher_deviation=float(rows.teacher.std()),
        student_mean=float(rows.student.mean()),
        student_deviation=float(rows.student.std()),
    )


def _grades(rows: SharedRows) -> tuple[GradeScores, ...]:
    teacher, student = standardise(rows.teacher), standardise(rows.student)
    unjudged = np.isnan(rows.labels)
    parts: list[tuple[int | None, NDArray[np.bool_]]] = [
        (int(label), rows.labels == label) for label in np.unique(rows.labels[~unjudged])
    ]
    if unjudged.any():
        parts.append((None, unjudged))
    return tuple(
        GradeScores(label, int(part.sum()), _five_numbers(teacher[part]), _five_numbers(student[part]))
        for label, part in parts
    )


def _five_numbers(values: Floats) -> FiveNumbers:
    return FiveNumbers(*np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist())
