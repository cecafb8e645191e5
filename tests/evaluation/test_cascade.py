"""The cascade: its two ends are the two systems, the places between are shared out as the module says."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disranker.evaluation.cascade import Rule, cascade_curve, cascade_run
from disranker.evaluation.measures import DEFAULT_MEASURES, measure_run, rank_documents
from disranker.evaluation.rules import Rules

RULES = get_args(Rule)
STUDENT = {"q": {"a": 5.0, "b": 4.0, "c": 3.5, "d": 1.0, "e": 0.0}}
TEACHER = {"q": {"a": 0.0, "b": 1.0, "c": 2.0, "d": 3.0, "e": 4.0}}


def order(run: dict[str, dict[str, float]], query: str = "q") -> str:
    return "".join(rank_documents(run[query]))


@st.composite
def systems(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Labels and two runs with many ties; queries of one document too."""
    score = st.sampled_from([-1.0, 0.0, 0.5, 0.5 + 1e-12, 2.0])
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))

    def of_documents(values: st.SearchStrategy[Any]) -> dict[str, Any]:
        return {
            f"q{query}": {f"d{doc}": draw(values) for doc in draw(st.permutations(range(size)))}
            for query, size in enumerate(sizes)
        }

    return of_documents(st.integers(0, 3)), of_documents(score), of_documents(score)


@settings(max_examples=60, deadline=None)
@given(systems(), st.sampled_from(RULES), st.integers(1, 4))
def test_the_ends_are_the_student_and_the_teacher_ties_included(
    found: tuple[dict[str, Any], dict[str, Any], dict[str, Any]], rule: Rule, cut: int
) -> None:
    labels, student, teacher = found
    measures = [*DEFAULT_MEASURES, "RR(rel=2)"]
    curve = cascade_curve(labels, student, teacher, rule=rule, cut=cut, measures=measures)
    ends = [measure_run(labels, run, measures).aggregate for run in (student, teacher)]
    first, last = curve.points[0], curve.points[-1]
    assert first.measures == pytest.approx(ends[0], abs=1e-12, nan_ok=True)
    assert last.measures == pytest.approx(ends[1], abs=1e-12, nan_ok=True)
    assert (first.threshold, first.share_of_pairs, first.share_of_queries) == (None, 0, 0)
    several = [len(docs) for docs in student.values() if len(docs) > 1]
    assert last.share_of_pairs == sum(several) / curve.num_pairs
    assert last.share_of_queries == len(several) / len(student)
    shares = [point.share_of_pairs for point in curve.points]
    assert shares == sorted(set(shares))


@settings(max_examples=60, deadline=None)
@given(systems(), st.sampled_from(RULES), st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 3.0]))
def test_places_are_shared_out_as_by_hand(
    found: tuple[dict[str, Any], dict[str, Any], dict[str, Any]], rule: Rule, threshold: float
) -> None:
    _, student, teacher = found
    cut = 2
    merged = cascade_run(student, teacher, threshold=threshold, rule=rule, cut=cut)
    for query, scores in student.items():
        docs = rank_documents(scores)
        values = [float(np.float32(scores[doc])) for doc in docs]
        above = max(min(cut, len(docs) - 1) - 1, 0)
        below = min(above + 1, len(docs) - 1)
        middle = (values[above] + values[below]) / 2
        sent = [
            {
                "depth": place + 1 <= threshold,
                "band": abs(value - middle) <= threshold,
                "margin": values[above] - values[below] <= threshold,
            }[rule]
            for place, value in enumerate(values)
        ]
        if sum(sent) < 2:
            sent = [False] * len(docs)
        by_teacher = iter(
            rank_documents({doc: teacher[query][doc] for doc, asked in zip(docs, sent, strict=True) if asked})
        )
        expected = [next(by_teacher) if asked else doc for doc, asked in zip(docs, sent, strict=True)]
        assert order(merged, query) == "".join(expected)


def test_depth_by_hand() -> None:
    runs = [order(cascade_run(STUDENT, TEACHER, threshold=k, rule="depth")) for k in (None, 1, 2, 3, 5)]
    assert runs == ["abcde", "abcde", "bacde", "cbade", "edcba"]
    labels = {"q": {"a": 0, "b": 0, "c": 1, "d": 0, "e": 0}}
    curve = cascade_curve(
        labels, STUDENT, TEACHER, rule="depth", shares=[0.2, 0.4, 0.5], measures=["RR"], speeds=(100.0, 10.0)
    )
    assert curve.cut is None
    # 0.2 of five pairs is one document, which alone is not sent on
    assert [(p.threshold, p.share_of_pairs, p.share_of_queries) for p in curve.points] == [
        (None, 0, 0),
        (2, 0.4, 1),
        (3, 0.6, 1),
        (5, 1, 1),
    ]
    assert [p.measures["RR"] for p in curve.points] == pytest.approx([1 / 3, 1 / 3, 1, 1 / 3])
    assert [p.relative_cost for p in curve.points] == pytest.approx([0.1, 0.5, 0.7, 1.1])
    json.dumps(asdict(curve), allow_nan=False)


def test_band_by_hand() -> None:
    # the cut after two lies at 3.75: distances 1.25, 0.25, 0.25, 2.75, 3.75
    runs = [
        order(cascade_run(STUDENT, TEACHER, threshold=t, rule="band", cut=2)) for t in (0.2, 0.25, 1.25, 2.75, 3.75)
    ]
    assert runs == ["abcde", "acbde", "cbade", "dcbae", "edcba"]


def test_margin_sends_whole_queries_least_sure_first() -> None:
    labels = {query: {"a": 1, "b": 0} for query in ("sure", "close", "alone")}
    labels["alone"] = {"a": 1}
    student = {"sure": {"a": 9.0, "b": 0.0}, "close": {"a": 1.0, "b": 1.5}, "alone": {"a": 0.0}}
    teacher = {"sure": {"a": 0.0, "b": 1.0}, "close": {"a": 1.0, "b": 0.0}, "alone": {"a": 0.0}}
    curve = cascade_curve(labels, student, teacher, rule="margin", cut=1, shares=[0.4], measures=["RR"])
    assert [(p.threshold, p.share_of_pairs, p.share_of_queries) for p in curve.points] == [
        (None, 0, 0),
        (0.5, 2 / 5, 1 / 3),
        (9.0, 4 / 5, 2 / 3),
    ]
    assert [p.measures["RR"] for p in curve.points] == pytest.approx([2.5 / 3, 1, 2.5 / 3])


def test_equally_uncertain_documents_go_together() -> None:
    student = {f"q{i}": {"a": 1.0, "b": 0.0} for i in range(4)}
    labels = {query: {"a": 0, "b": 1} for query in student}
    for rule in RULES:
        curve = cascade_curve(labels, student, student, rule=rule, shares=[0.1, 0.6])
        assert [point.share_of_pairs for point in curve.points] == [0, 1]


def test_a_good_rule_beats_the_depth_for_the_top_document() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(300, 10))
    noisy = truth + rng.normal(0, 0.6, truth.shape)
    labels, student, teacher = (
        {f"q{q:03}": {f"d{d}": kind(value) for d, value in enumerate(row)} for q, row in enumerate(values)}
        for values, kind in ((truth.round() - truth.round().min(), int), (noisy, float), (truth, float))
    )
    at_a_fifth = {}
    for rule in RULES:
        curve = cascade_curve(labels, student, teacher, rule=rule, cut=1, shares=[0.2], measures=["nDCG@1"])
        values = [point.measures["nDCG@1"] for point in curve.points]
        assert values[0] < values[1] < values[-1] + 1e-9, rule
        at_a_fifth[rule] = values[1]
    assert at_a_fifth["band"] > at_a_fifth["depth"]


def test_bad_calls() -> None:
    labels = {"q": {doc: 0 for doc in "abcde"}}
    unjudged = {"q": {"a": 1.0, "x": 0.0, "y": 2.0}}

    def refused(message: str, student: Any = STUDENT, teacher: Any = TEACHER, **changed: Any) -> None:
        with pytest.raises(ValueError, match=message):
            cascade_curve(labels, student, teacher, **changed)

    refused("rule='gap' is no rule; use one of depth, band, margin", rule="gap")
    refused("cut=0", cut=0)
    refused("between 0 and 1", shares=[0.5, 1.5])
    refused(r"speeds=\(1.0, 0.0\)", speeds=(1.0, 0.0))
    refused(
        r"the teacher and the student have scored different rows: 2 are in one only.*doc_id 'e'.*doc_id 'x'",
        teacher={"q": {**{d: 0.0 for d in "abcd"}, "x": 0.0}},
    )
    refused("scored different queries: 1 are in one only, first query_id 'q'", teacher={"q": {}})
    refused("have scored nothing", student={"q": {}}, teacher={})
    refused("1 scores of the teacher are NaN.*doc_id 'c'", teacher={"q": {**TEACHER["q"], "c": float("nan")}})
    refused("1 scores of the student are NaN.*doc_id 'c'", student={"q": {**STUDENT["q"], "c": 1e300}})
    refused("2 scored documents have no label", rules=Rules(unjudged="error"), student=unjudged, teacher=unjudged)
