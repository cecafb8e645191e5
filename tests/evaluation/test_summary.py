"""How a report words its figures."""

import math
from dataclasses import fields, replace
from typing import get_args, get_type_hints

import pytest

from disranker.evaluation.cascade import CascadeCurve, CascadePoint
from disranker.evaluation.measures import Measured
from disranker.evaluation.power import NO_SPREAD, PowerPlan
from disranker.evaluation.rules import Rules
from disranker.evaluation.runs import System
from disranker.evaluation.significance import Comparison, GoodSameBad
from disranker.evaluation.standings import Standings
from disranker.evaluation.summary import (
    cascade_sentence,
    count,
    figure,
    gsb_line,
    magnitude,
    milliseconds,
    p_value,
    power_line,
    rules_and_counts,
    sentence,
    share,
    signed,
    signed_percent,
    span,
    times,
)


def make_comparison(delta, p, **more):
    return Comparison("new", "old", "nDCG@10", delta, p, (delta - 0.1, delta + 0.1), 61, 27, 12, 100, **more)


@pytest.mark.parametrize(
    ("delta", "p", "expected"),
    [
        (0.1124, 0.0003, "new beats old by 0.112 nDCG@10 (p = 0.0003; 61 queries won, 12 lost)."),
        (-0.05, 0.00005, "new falls short of old by 0.050 nDCG@10 (p < 0.0001; 61 queries won, 12 lost)."),
        (0.004, 0.41, "new cannot be told apart from old: +0.004 nDCG@10 (p = 0.410; 61 queries won, 12 lost)."),
        (0.0, 1.0, "new cannot be told apart from old: ±0.000 nDCG@10 (p = 1.000; 61 queries won, 12 lost)."),
        (math.inf, 0.01, "new beats old by ∞ nDCG@10 (p = 0.010; 61 queries won, 12 lost)."),
    ],
)
def test_sentences(delta, p, expected):
    assert sentence(make_comparison(delta, p)) == expected


def test_where_there_are_several_comparisons_the_corrected_p_decides():
    found = make_comparison(0.05, 0.02, p_holm=0.06)
    assert sentence(found) == (
        "new cannot be told apart from old: +0.050 nDCG@10 "
        "(p = 0.060 after Holm\u2019s correction; 61 queries won, 12 lost)."
    )
    assert "new beats old by 0.050 nDCG@10 (p = 0.040 after" in sentence(make_comparison(0.05, 0.02, p_holm=0.04))
    assert "Holm" not in sentence(make_comparison(0.05, 0.02, p_holm=0.02))  # one alone needs no correction


def test_good_same_bad():
    found = make_comparison(0.05, 0.02, good_same_bad=GoodSameBad(0.05, 30, 60, 10, 0.2))
    assert gsb_line(found) == "Good 30 \u00b7 same 60 \u00b7 bad 10 at ±0.05 a query; (G \u2212 B) / all = +20.0%"
    assert gsb_line(make_comparison(0.05, 0.02)) == ""


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        (1234, "1,234 queries would be needed to see a difference of 0.010; these 200 can show 0.026 or more"),
        (150, "150 queries would have been enough to see 0.010; these 200 can show 0.026 or more"),
    ],
)
def test_power(needed, expected):
    plan = PowerPlan("a", "b", "nDCG@10", 200, -0.01, 0.13, needed, 0.0259, 0.05, 0.8)
    assert power_line(plan) == f"{expected} (power 80%)"
    nothing = PowerPlan("a", "b", "nDCG@10", 200, 0.0, 0.0, None, None, 0.05, 0.8, NO_SPREAD)
    assert power_line(nothing) == "All queries differ alike: there is no spread to plan with"


def test_a_cascade_is_told_by_the_cheapest_point_that_closes_half_of_the_gap():
    def curve(*values):
        shares = (0.0, 0.1, 0.4, 1.0)
        points = [
            CascadePoint(None, *[at] * 2, {"nDCG@10": value}, None) for at, value in zip(shares, values, strict=True)
        ]
        return CascadeCurve("band", 10, tuple(points), 5, 50)

    assert cascade_sentence([curve(0.5, 0.52, 0.54, 0.6), curve(0.5, 0.54, 0.56, 0.6)], "nDCG@10") == (
        "Sending 40.0% of the pairs on to the teacher (rule band) reaches nDCG@10 0.5600; the student alone has "
        "0.5000, the teacher 0.6000."
    )
    assert cascade_sentence([curve(0.6, 0.6, 0.6, 0.6)], "nDCG@10") == ""
    assert cascade_sentence([curve(0.6, 0.7, 0.6, 0.5)], "nDCG@10") == ""


def make_standings(**counts):
    measured = Measured({"nDCG@10": 0.5}, {"nDCG@10": {"q": 0.5}}, {}, counts)
    system = System("s", "run", measured, rules=Rules(unjudged="skip", no_relevant="skip"))
    return Standings({"s": system}, ("nDCG@10",), "nDCG@10", None, {}, (), (), 1, 0.95)


def test_each_rule_is_told_with_how_often_it_was_met():
    assert rules_and_counts(make_standings(num_unjudged=12, num_queries_missing=0, num_unscored=3)) == [
        "Scored documents without a label were taken out of the lists (condensed lists): 12 (documents).",
        "Judged queries that a run lacks count as 0: none.",
        "Queries without a label above 0 are in no figure.",
        "Documents with equal scores are placed by doc_id, descending.",
        "3 judged documents were not scored; they stay in the ideal ranking.",
    ]


def test_every_rule_has_its_words():
    for field in fields(Rules):
        for value in get_args(get_type_hints(Rules)[field.name]):
            system = replace(make_standings().systems["s"], rules=Rules(**{field.name: value}))
            assert len(rules_and_counts(replace(make_standings(), systems={"s": system}))) == 4


def test_shares_and_latencies():
    assert [share(value) for value in (0.1234, -0.05, 1.0, math.nan, math.inf)] == [
        "12.3%",
        "\u22125.0%",
        "100.0%",
        "\u2013",
        "∞",
    ]
    assert [signed_percent(value) for value in (0.2, 0.0, -0.2)] == ["+20.0%", "0.0%", "\u221220.0%"]
    assert [times(value) for value in (0.031, 2.345, 41.2, 1234.0)] == [
        "0.031 times",
        "2.3 times",
        "41 times",
        "1,234 times",
    ]
    assert [milliseconds(value) for value in (0.12345, 3.456, 123.4)] == ["0.123", "3.46", "123"]


def test_figures():
    assert [figure(value) for value in (0.81234, 1.0, 3.5, math.inf, math.nan)] == [
        "0.8123",
        "1.0000",
        "3.500",
        "∞",
        "\u2013",
    ]
    assert [signed(value) for value in (0.1, -0.1, 0.0001, -0.0001, -math.inf)] == [
        "+0.100",
        "\u22120.100",
        "±0.000",
        "±0.000",
        "\u2212∞",
    ]
    assert span(0.1, 0.25) == "0.100 to 0.250"
    assert [p_value(value) for value in (0.00009, 0.0001, 0.00712, 0.0496)] == [
        "p < 0.0001",
        "p = 0.0001",
        "p = 0.0071",
        "p = 0.050",
    ]


def test_counts_and_sizes():
    assert [count(value) for value in (None, 0.25, 88.4, 12345)] == ["", "0.25", "88", "12,345"]
    assert [magnitude(value) for value in (None, 12, 22_713_216, 7_600_000_000)] == ["", "12", "22.7 M", "7.6 B"]
    assert [magnitude(value, "B") for value in (999, 90_900_000, 538e6, 1.5e9)] == [
        "999 B",
        "90.9 MB",
        "538 MB",
        "1.5 GB",
    ]
