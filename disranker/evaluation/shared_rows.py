"""The rows that two rankers both scored, as columns: what is compared score by score.

Read from query_id -> doc_id -> value.  Scores are rounded to float32, as the measures have them, and rows of equal
score stand in the order in which trec_eval places them.  Numpy only; measures and comparisons are elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NAMED_KEYS = 3  # offenders that an error message lists


@dataclass(frozen=True, slots=True)
class SharedRows:
    """All scored rows, N of them, by query_id, and by doc_id, descending, within a query; Q queries."""

    query_ids: list[str]
    lengths: Ints
    """[Q] rows of each query."""
    doc_ids: list[str]
    """[N]."""
    labels: Floats
    """[N]; nan where nobody judged."""
    teacher: Floats
    """[N] raw scores."""
    student: Floats

    @property
    def queries(self) -> Ints:
        """The query of each row, [N]."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


def read_shared_rows(
    labels: Mapping[str, Mapping[str, int]],
    teacher_scores: Mapping[str, Mapping[str, float]],
    student_scores: Mapping[str, Mapping[str, float]],
    names: tuple[str, str],
) -> SharedRows:
    """The rows of a teacher and a student, both query_id -> doc_id -> score; labels may be missing and may be more.

    Raises ValueError, naming the first, for rows that only one of them scored, for scores that are NaN or infinite in
    float32, and for no rows at all.
    """
    alone = sorted(teacher_scores.keys() ^ student_scores.keys())
    _refuse_alone([f"query_id {query!r}" for query in alone], "queries", names)
    query_ids = sorted(teacher_scores)
    doc_ids: list[str] = []
    found: tuple[list[float], list[float], list[float]] = [], [], []
    alone_rows: list[str] = []
    for query in query_ids:
        by_teacher, by_student, judged = teacher_scores[query], student_scores[query], labels.get(query, {})
        if by_teacher.keys() != by_student.keys():
            alone_rows += [_row_key(query, doc) for doc in by_teacher.keys() ^ by_student.keys()]
            continue
        documents = sorted(by_teacher, reverse=True)
        doc_ids += documents
        found[0].extend(judged.get(doc, math.nan) for doc in documents)
        found[1].extend(by_teacher[doc] for doc in documents)
        found[2].extend(by_student[doc] for doc in documents)
    _refuse_alone(sorted(alone_rows), "rows", names)
    if not doc_ids:
        raise ValueError(f"{names[0]} and {names[1]} have scored nothing")
    with np.errstate(over="ignore"):
        scores = np.array(found[1:], dtype=np.float32).astype(np.float64)
    rows = SharedRows(
        query_ids=query_ids,
        lengths=np.array([len(teacher_scores[query]) for query in query_ids], dtype=np.int64),
        doc_ids=doc_ids,
        labels=np.array(found[0], dtype=np.float64),
        teacher=scores[0],
        student=scores[1],
    )
    for name, column in zip(names, scores, strict=True):
        wrong = np.flatnonzero(~np.isfinite(column))
        if wrong.size:
            first = _row_key(query_ids[rows.queries[wrong[0]]], doc_ids[wrong[0]])
            raise ValueError(f"{wrong.size} scores of {name} are NaN or infinite in float32, first of {first}")
    return rows


def standardise(scores: Floats) -> Floats:
    """Scores [N] with mean 0 and standard deviation 1 over all rows; all 0 where they are constant."""
    if scores.min() == scores.max():
        return np.zeros_like(scores)  # their deviation may be a rounding error instead of 0
    return np.asarray((scores - scores.mean()) / scores.std())


def _refuse_alone(alone: Sequence[str], what: str, names: tuple[str, str]) -> None:
    if alone:
        raise ValueError(
            f"{names[0]} and {names[1]} have scored different {what}: {len(alone)} are in one only, first "
            f"{', '.join(alone[:_NAMED_KEYS])}; let both score the same"
        )


def _row_key(query_id: str, doc_id: str) -> str:
    return f"(query_id {query_id!r}, doc_id {doc_id!r})"
