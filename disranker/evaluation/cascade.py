"""What a cascade would be worth: the student ranks everything, the teacher re-orders what is uncertain.

Computed from two finished runs and labels, so nothing is scored here.  The scores of the two systems are never mixed
and need no common scale: the documents that the teacher re-scores share out among themselves, in the teacher's order,
the places that the student gave them, and all others stay where they are.  With nothing sent on the cascade is the
student, with everything sent on the teacher's order, exactly, ties included.  A document sent on alone could only take
its own place back, so a query sends on at least two or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from disranker.evaluation.measures import DEFAULT_MEASURES, DEFAULT_RULES, measure_run
from disranker.evaluation.rules import Rules
from disranker.evaluation.shared_rows import read_shared_rows

Run = Mapping[str, Mapping[str, float]]
"""query_id -> doc_id -> score."""
Rule = Literal["depth", "band", "margin"]
"""Which documents are sent on first.

depth: the student's first k documents of every query; asks nothing about certainty, and is the classical cascade that
    the other two must beat (Wang, Lin, Metzler, SIGIR 2011, https://doi.org/10.1145/2009916.2009934).
band: documents whose student score is within a distance of the query's cut, the midpoint between the scores at position
    `cut` and the next one: those that might be on the wrong side.
margin: whole queries, smallest margin first, the margin being the gap between the student's scores at position `cut`
    and the next one (margin sampling, Scheffer, Decomain, Wrobel, IDA 2001, https://doi.org/10.1007/3-540-44816-0_31).

`band` and `margin` compare student scores across queries, as raw logits of one cross-encoder can be.  Where a query has
no document after position `cut`, its last two documents stand for the cut.
"""

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class CascadePoint:
    """The cascade at one threshold of its rule."""

    threshold: float | None
    """What is sent on: depth k, distance from the cut or margin at most so large; None when nothing is."""
    share_of_pairs: float
    """Documents that the teacher scores, of all."""
    share_of_queries: float
    """Queries for which the teacher is asked, of all."""
    measures: dict[str, float]
    """As `measure_run` aggregates them over all queries."""
    relative_cost: float | None
    """Mean cost of a query, in that of the teacher alone: the student scores every pair, the teacher its share.  Above
    1 where both score everything; None when speeds are not known."""


@dataclass(frozen=True, slots=True)
class CascadeCurve:
    """Quality against the share sent on, by one rule, from the student alone to the teacher."""

    rule: Rule
    cut: int | None
    """The position after which the cut lies; None for `depth`, which has none."""
    points: tuple[CascadePoint, ...]
    """By rising share; the first sends nothing on, the last everything."""
    num_queries: int
    num_pairs: int


def cascade_curve(
    judgments: Mapping[str, Mapping[str, int]],
    student: Run,
    teacher: Run,
    *,
    rule: Rule = "band",
    cut: int = 10,
    shares: Iterable[float] = SHARES,
    measures: Sequence[str] = DEFAULT_MEASURES,
    rules: Rules = DEFAULT_RULES,
    speeds: tuple[float, float] | None = None,
) -> CascadeCurve:
    """Quality of student-then-teacher at each of `shares` of the pairs, and with nothing and everything sent on.

    A point sends on all documents up to a threshold that reaches its share, so equally uncertain ones go together, the
    share may come out larger, and the same threshold can be used in production; points that come out alike are given
    once.  `speeds` are the pairs per second of student and teacher.

    Raises ValueError, naming the first offenders, when the runs hold different documents, for NaN or infinite scores, a
    cut below 1, shares outside 0..1, speeds that are not above 0, and for what `measure_run` refuses.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule={rule!r} is no rule; use one of {', '.join(get_args(Rule))}")
    if cut < 1:
        raise ValueError(f"cut={cut} is a position; it must be at least 1")
    wanted = sorted(set(shares))
    if wanted and not 0 <= wanted[0] <= wanted[-1] <= 1:
        raise ValueError(f"shares={wanted} must lie between 0 and 1")
    if speeds is not None and not min(speeds) > 0:
        raise ValueError(f"speeds={speeds} are pairs per second of student and teacher; both must be above 0")
    runs = _Runs(student, teacher)
    priorities = _priorities(runs, rule, cut)
    ladder = np.sort(priorities[runs.sizes[runs.query] > 1])  # a lone document is never sent on

    thresholds: list[float | None] = [None]
    for share in [*wanted, 1.0]:
        place = min(int(np.ceil(share * runs.num_pairs)), len(ladder)) - 1
        if place >= 0:
            thresholds.append(float(ladder[place]))
    points: list[CascadePoint] = []
    before: NDArray[np.bool_] | None = None
    for threshold in thresholds:
        sent = runs.sent_to(priorities, threshold)
        if before is not None and (sent == before).all():
            continue
        before = sent
        share = float(sent.mean())
        points.append(
            CascadePoint(
                threshold=threshold,
                share_of_pairs=share,
                share_of_queries=len(np.unique(runs.query[sent])) / len(runs.sizes),
                measures=measure_run(judgments, runs.merge(sent), measures, rules).aggregate,
                relative_cost=None if speeds is None else speeds[1] / speeds[0] + share,
            )
        )
    return CascadeCurve(rule, None if rule == "depth" else cut, tuple(points), len(runs.sizes), runs.num_pairs)


def cascade_run(
    student: Run, teacher: Run, *, threshold: float | None, rule: Rule = "band", cut: int = 10
) -> dict[str, dict[str, float]]:
    """The cascade itself at one threshold of a curve: query_id -> doc_id -> minus its place, equal places tied.

    Errors as `cascade_curve` has them.
    """
    runs = _Runs(student, teacher)
    return runs.merge(runs.sent_to(_priorities(runs, rule, cut), threshold))


class _Runs:
    """Two runs over the same documents as columns; the N rows stand by query, in the student's order."""

    def __init__(self, student: Run, teacher: Run) -> None:
        of_teacher, of_student = ({query: run[query] for query in run if run[query]} for run in (teacher, student))
        rows = read_shared_rows({}, of_teacher, of_student, ("the teacher", "the student"))
        self.query_ids, self.sizes, self.query = rows.query_ids, rows.lengths, rows.queries
        self.num_pairs = len(rows.doc_ids)
        self.starts = np.cumsum(self.sizes) - self.sizes
        # Rows come with doc_ids descending and the sorts are stable: ties are broken as trec_eval breaks them.
        order = np.lexsort((-rows.student, self.query))
        self.doc_ids = np.array(rows.doc_ids, dtype=object)[order]
        self.student, self.teacher = rows.student[order], rows.teacher[order]
        row_of = np.empty_like(order)
        row_of[order] = np.arange(self.num_pairs)
        self._teacher_order = row_of[np.lexsort((-rows.teacher, self.query))]

    def sent_to(self, priorities: NDArray[np.float64], threshold: float | None) -> NDArray[np.bool_]:
        """[N] the rows that the teacher scores: up to the threshold, at least two of a query."""
        if threshold is None:
            return np.zeros(self.num_pairs, dtype=bool)
        sent = priorities <= threshold
        several = np.bincount(self.query[sent], minlength=len(self.sizes)) > 1
        return sent & several[self.query]

    def merge(self, sent: NDArray[np.bool_]) -> dict[str, dict[str, float]]:
        """The cascade's ranking as scores: minus the number of the place, counted over tied documents once."""
        row_at = np.arange(self.num_pairs)
        # Both sides go query by query and have equally many rows in each.
        row_at[sent] = self._teacher_order[sent[self._teacher_order]]
        # Neighbours share a place where the one system that ordered both gives them one score.
        by_teacher = sent[row_at]
        tied = np.zeros(self.num_pairs, dtype=bool)
        for scores, side in ((self.teacher, by_teacher), (self.student, ~by_teacher)):
            ordered = scores[row_at]
            tied[1:] |= side[1:] & side[:-1] & (ordered[1:] == ordered[:-1])
        tied[self.starts] = False
        places = np.cumsum(~tied)
        places -= places[self.starts][self.query]
        docs, values = self.doc_ids[row_at].tolist(), (-places).astype(float).tolist()
        return {
            query: dict(zip(docs[start : start + size], values[start : start + size], strict=True))
            for query, start, size in zip(self.query_ids, self.starts.tolist(), self.sizes.tolist(), strict=True)
        }


def _priorities(runs: _Runs, rule: Rule, cut: int) -> NDArray[np.float64]:
    """[N] how early a row is sent on, smallest first; in the unit of the rule's threshold."""
    if rule == "depth":
        return (np.arange(runs.num_pairs) - runs.starts[runs.query] + 1).astype(np.float64)
    above = runs.starts + np.clip(np.minimum(cut, runs.sizes - 1) - 1, 0, None)
    below = np.minimum(above + 1, runs.starts + runs.sizes - 1)  # the same row where a query has one document
    if rule == "margin":
        return (runs.student[above] - runs.student[below])[runs.query]
    return np.abs(runs.student - ((runs.student[above] + runs.student[below]) / 2)[runs.query])
