"""How a report words its figures."""

import math

import pytest

from disranker.evaluation.significance import Comparison
from disranker.evaluation.summary import count, figure, magnitude, p_value, sentence, signed, span


def make_comparison(delta, p):
    return Comparison("new", "old", "nDCG@10", delta, p, (delta - 0.1, delta + 0.1), 61, 27, 12, 100)


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
