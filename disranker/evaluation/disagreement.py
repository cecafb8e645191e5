"""Where a student differs most from its teacher: queries that it lost, documents that it sees differently.

For the eyes of whoever improves the student; how much of the teacher it keeps is in `agreement.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disranker.evaluation.correlation import positions
from disranker.evaluation.measures import Measured, measure_name
from disranker.evaluation.resampling import ROUNDING
from disranker.evaluation.shared_rows import SharedRows, standardise
from disranker.evaluation.significance import common_queries, query_differences, query_values


@dataclass(frozen=True, slots=True)
class QueryLoss:
    """A query on which the student is worse than its teacher."""

    query_id: str
    measure: str
    teacher: float
    """The measure of this query; for PNR the share of pairs in the right order, which is always finite."""
    student: float
    loss: float
    """teacher - student, above 0."""
    num_documents: int
    """That both scored for the query; 0 where it was judged only."""


@dataclass(frozen=True, slots=True)
class DocumentGap:
    """A document that teacher and student see differently."""

    query_id: str
    doc_id: str
    label: int | None
    teacher_score: float
    """Raw."""
    student_score: float
    score_gap: float
    """Student minus teacher in standardised scores."""
    teacher_position: int
    """Place in the teacher's list of the query, first = 1."""
    student_position: int
    num_documents: int
    """Of the query."""


def find_query_losses(
    teacher: Measured,
    student: Measured,
    measure: str,
    names: tuple[str, str],
    num_documents: Mapping[str, int],
    num_listed: int,
) -> tuple[QueryLoss, ...]:
    """The queries with the largest losses by one measure, largest first, at most `num_listed`.

    `num_documents` is query_id -> rows that were scored.  Raises ValueError when the two were measured on different
    queries or lack the measure.
    """
    name = measure_name(measure)
    queries = common_queries(teacher, student, name, names)
    of_teacher, of_student = query_values(teacher, name, queries), query_values(student, name, queries)
    losses = query_differences(teacher, student, name, queries)
    worst = np.argsort(-losses, kind="stable")[:num_listed]
    return tuple(
        QueryLoss(
            query_id=queries[at],
            measure=name,
            teacher=float(of_teacher[at]),
            student=float(of_student[at]),
            loss=float(losses[at]),
            num_documents=num_documents.get(queries[at], 0),
        )
        for at in worst.tolist()
        if losses[at] > 0
    )


def find_document_gaps(rows: SharedRows, num_listed: int) -> tuple[tuple[DocumentGap, ...], tuple[DocumentGap, ...]]:
    """The documents whose standardised scores differ most, and those whose positions do, each at most `num_listed`."""
    score_gap = standardise(rows.student) - standardise(rows.teacher)
    by_teacher, by_student = positions(rows.lengths, rows.teacher), positions(rows.lengths, rows.student)
    moved, queries = np.abs(by_student - by_teacher), rows.queries

    def gap(row: int) -> DocumentGap:
        return DocumentGap(
            query_id=rows.query_ids[queries[row]],
            doc_id=rows.doc_ids[row],
            label=None if math.isnan(rows.labels[row]) else int(rows.labels[row]),
            teacher_score=float(rows.teacher[row]),
            student_score=float(rows.student[row]),
            score_gap=float(score_gap[row]),
            teacher_position=int(by_teacher[row]),
            student_position=int(by_student[row]),
            num_documents=int(rows.lengths[queries[row]]),
        )

    apart = np.abs(score_gap)
    return (
        tuple(gap(row) for row in _largest(apart, moved, num_listed) if apart[row] > ROUNDING),
        tuple(gap(row) for row in _largest(moved, apart, num_listed) if moved[row] > 0),
    )


def _largest(values: NDArray[Any], then: NDArray[Any], count: int) -> list[int]:
    """The rows with the `count` largest values, largest first; of equal values the larger of `then`, then by row."""
    count = min(count, len(values))
    if count < 1:
        return []
    least = np.partition(values, -count)[-count]  # sorting them all would take longer than all the rest
    rows = np.flatnonzero(values >= least)
    found: list[int] = rows[np.lexsort((-then[rows], -values[rows]))][:count].tolist()
    return found
