"""PNR: hand values, brute force, ties, and queries in which nothing can be compared."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disranker.evaluation.pairs import PairCounts, count_pairs, pnr


def brute_force(labels, scores):
    concordant = discordant = tied = 0
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            if labels[i] == labels[j]:
                continue
            product = (labels[i] - labels[j]) * (scores[i] - scores[j])
            concordant += product > 0
            discordant += product < 0
            tied += product == 0
    return PairCounts(concordant, discordant, tied)


def test_hand_value_over_two_queries():
    # a: 3 > 1 > 0 scored 2, 3, 1: (3,1) wrong, (3,0) and (1,0) right.   b: 1 > 0 right, and 0 = 0 is no pair.
    result = pnr(["a", "a", "a", "b", "b", "b"], [3, 1, 0, 1, 0, 0], [2.0, 3.0, 1.0, 5.0, 4.0, 3.0])
    assert (result.concordant, result.discordant, result.tied) == (4, 1, 0)
    assert result.micro == 4.0
    assert result.macro == 2.0  # b is perfect: infinite, left out and counted
    assert result.num_queries_without_discordant == 1
    assert result.num_queries_without_pairs == 0
    assert result.per_query == {"a": PairCounts(2, 1, 0), "b": PairCounts(2, 0, 0)}


@pytest.mark.parametrize(("ties", "expected"), [("half", 2.5 / 1.5), ("discordant", 2 / 2), ("ignore", 2 / 1)])
def test_tie_rules(ties, expected):
    # pairs: (2,1) tied, (2,0) right, (1,0) right, and the second query's one pair wrong
    result = pnr(["a", "a", "a", "b", "b"], [2, 1, 0, 1, 0], [1.0, 1.0, 0.0, 0.0, 1.0], ties=ties)
    assert result.micro == expected
    assert result.tied == 1


def test_a_constant_scorer_has_pnr_one_as_chance_does():
    assert pnr(["q"] * 4, [0, 1, 2, 3], [0.5] * 4).micro == 1.0


def test_perfect_order_is_infinite_and_no_pair_is_nan():
    assert pnr(["q", "q"], [1, 0], [2.0, 1.0]).micro == math.inf
    assert pnr(["q", "q"], [1, 0], [2.0, 1.0]).macro == math.inf
    nothing = pnr(["q", "q", "r"], [1, 1, 0], [2.0, 1.0, 3.0])
    assert math.isnan(nothing.micro)
    assert math.isnan(nothing.macro)
    assert nothing.num_queries_without_pairs == 2


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(-3, 3)), max_size=12))
def test_counts_equal_brute_force_with_ties(documents):
    labels = [label for label, _ in documents]
    scores = [score / 2 for _, score in documents]
    assert count_pairs(np.array(labels, dtype=np.int64), np.array(scores)) == brute_force(labels, scores)


def test_counts_equal_brute_force_on_a_long_list():
    rng = np.random.default_rng(7)
    labels, scores = rng.integers(0, 5, 300), rng.normal(size=300).round(1)
    counts = count_pairs(labels, scores)
    assert counts == brute_force(labels.tolist(), scores.tolist())
    assert counts.tied > 0


def test_order_of_rows_and_interleaved_queries_do_not_matter():
    rng = np.random.default_rng(1)
    queries, labels, scores = rng.integers(0, 5, 60).astype(str), rng.integers(0, 3, 60), rng.integers(0, 9, 60) / 3
    order = rng.permutation(60)
    one = pnr(queries.tolist(), labels, scores)
    other = pnr(queries[order].tolist(), labels[order], scores[order])
    assert one == other


def test_any_monotone_change_of_scores_keeps_pnr():
    rng = np.random.default_rng(2)
    labels, scores = rng.integers(0, 4, 40), rng.normal(size=40)
    assert pnr(["q"] * 40, labels, scores).micro == pnr(["q"] * 40, labels, np.exp(3 * scores)).micro


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 0], [1.0, math.nan], r"1 scores are NaN or infinite: row 1 \(query_id 'y'\): nan"),
        ([1, 0], [math.inf, 0.0], r"row 0 \(query_id 'x'\): inf"),
        ([math.nan, 0], [1.0, 0.0], "1 labels are NaN"),
        ([None, 0], [1.0, 0.0], "is a label missing"),
        ([1, 0, 0], [1.0, 0.0], "3 labels and 2 scores"),
    ],
)
def test_bad_rows_are_refused_by_name(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        pnr(["x", "y"], labels, scores)


def test_no_rows_and_unknown_tie_rule_are_refused():
    with pytest.raises(ValueError, match="no documents"):
        pnr([], [], [])
    with pytest.raises(ValueError, match="half, discordant, ignore"):
        pnr(["q"], [1], [1.0], ties="win")
