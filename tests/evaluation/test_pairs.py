"""PNR: hand values, brute force, ties, and queries in which nothing can be compared."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disranker.evaluation.pairs import PairCounts, count_pairs, count_query_pairs, pnr, pnr_by_gap


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


# --- pairs by gap -----------------------------------------------------------------------------------------------------


def brute_force_gap(labels, scores, gap, exactly):
    wanted = [
        (i, j)
        for i in range(len(labels))
        for j in range(i + 1, len(labels))
        if (abs(labels[i] - labels[j]) == gap if exactly else abs(labels[i] - labels[j]) >= gap)
    ]
    products = [(labels[i] - labels[j]) * (scores[i] - scores[j]) for i, j in wanted]
    return PairCounts(sum(p > 0 for p in products), sum(p < 0 for p in products), sum(p == 0 for p in products))


rows = st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 4), st.integers(-3, 3)), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(rows, st.integers(1, 4), st.booleans())
def test_counts_of_many_queries_equal_brute_force_at_each_gap(rows, gap, exactly):
    ordered = sorted(rows, key=lambda row: (row[0], -row[2]))
    queries, labels, scores = (np.array(column) for column in zip(*ordered, strict=True))
    starts = np.searchsorted(queries, np.arange(4))  # query 3 is always empty
    counts = count_query_pairs(labels, scores, starts, gap, exactly)
    for query, found in enumerate(counts.tolist()):
        here = queries == query
        assert tuple(found) == brute_force_gap(labels[here].tolist(), scores[here].tolist(), gap, exactly)


@settings(max_examples=50, deadline=None)
@given(rows)
def test_pnr_by_gap_equals_brute_force_and_adds_up_to_pnr(rows):
    queries, labels, scores = ([row[column] for row in rows] for column in range(3))
    records = pnr_by_gap([str(query) for query in queries], labels, scores, ties="ignore")
    assert [record.gap for record in records] == sorted({record.gap for record in records})
    for record in records:
        for exactly, found in ((True, record.pairs_exactly), (False, record.pairs_at_least)):
            parts = [
                brute_force_gap(*zip(*[row[1:] for row in rows if row[0] == query], strict=True), record.gap, exactly)
                for query in set(queries)
            ]
            assert found == tuple(sum(column) for column in zip(*parts, strict=True))
        assert record.exactly == pytest.approx(record.pairs_exactly.pnr("ignore"), nan_ok=True)
    whole = pnr([str(query) for query in queries], labels, scores, ties="ignore")
    if records:
        assert records[0].at_least == pytest.approx(whole.micro, nan_ok=True)
    else:
        assert whole.num_queries_without_pairs == whole.num_queries


def test_pnr_by_gap_by_hand():
    # (3,2) wrong, (3,0) right, (2,0) right: gaps 1, 3, 2
    near, middle, far = pnr_by_gap(["q"] * 3, [3, 2, 0], [2.0, 3.0, 1.0])
    assert (near.gap, near.exactly, near.at_least, near.pairs_exactly) == (1, 0.0, 2.0, (0, 1, 0))
    assert (middle.gap, middle.exactly, middle.at_least, middle.pairs_at_least) == (2, math.inf, math.inf, (2, 0, 0))
    assert (far.gap, far.pairs_at_least) == (3, (1, 0, 0))
    assert pnr_by_gap(["q", "r"], [1, 0], [1.0, 0.0]) == ()
    assert [record.gap for record in pnr_by_gap(["q", "q"], [10**9, 0], [1.0, 0.0])] == [10**9]
    with pytest.raises(ValueError, match="labels must be whole numbers"):
        pnr_by_gap(["q", "q"], [0.5, 0], [1.0, 0.0])


def test_unsigned_scores_are_compared_as_numbers():
    assert pnr(["q"] * 3, [2, 1, 0], np.array([200, 100, 0], dtype=np.uint8)).per_query == {"q": (3, 0, 0)}


def test_accuracy_is_the_share_of_pairs_in_the_right_order():
    assert [PairCounts(2, 1, 1).accuracy(ties) for ties in ("half", "discordant", "ignore")] == [2.5 / 4, 2 / 4, 2 / 3]
    assert math.isnan(PairCounts(0, 0, 0).accuracy())
    assert math.isnan(PairCounts(0, 0, 2).accuracy("ignore"))
