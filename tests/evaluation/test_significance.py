"""Comparisons of two systems: the paired tests, Good / Same / Bad, Holm, and what happens when nothing differs."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from disranker.evaluation.measures import Measured, measure_run
from disranker.evaluation.pairs import PairCounts
from disranker.evaluation.significance import Comparison, GoodSameBad, compare, correct_holm, holm, measure_interval


def measured(values=None, pairs=None):
    """A measured system from per-query nDCG@10, or from per-query pair counts."""
    if pairs is not None:
        named = {f"q{index:03}": PairCounts(*counts) for index, counts in enumerate(pairs)}
        return Measured({"PNR": 0.0}, {"PNR": {query: counts.pnr() for query, counts in named.items()}}, named, {})
    per_query = {f"q{index:03}": float(value) for index, value in enumerate(values)}
    return Measured({"nDCG@10": float(np.mean(values))}, {"nDCG@10": per_query}, {}, {})


def test_compare_counts_wins_and_is_antisymmetric():
    a, b = measured([0.9, 0.5, 0.4, 0.7]), measured([0.1, 0.5, 0.6, 0.2])
    found = compare(a, b, "NDCG@10", names=("new", "old"))
    assert (found.a, found.b, found.measure, found.num_queries) == ("new", "old", "nDCG@10", 4)
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.delta == pytest.approx(0.275)
    assert found.interval[0] <= found.delta <= found.interval[1]
    back = compare(b, a, "nDCG@10")
    assert (back.delta, back.p_value) == (-found.delta, found.p_value)
    assert (back.wins, back.losses) == (1, 2)


def test_a_system_against_itself():
    same = compare(measured([0.5, 0.2]), measured([0.5, 0.2]), "nDCG@10")
    assert (same.delta, same.p_value, same.interval, same.ties) == (0.0, 1.0, (0.0, 0.0), 2)


def test_rounding_cannot_make_a_win():
    found = compare(measured([0.1 + 0.2, 0.5]), measured([0.3, 0.5]), "nDCG@10")
    assert (found.wins, found.ties, found.p_value) == (0, 2, 1.0)


def test_pnr_is_compared_by_its_pooled_ratio():
    a, b = [(8, 2, 0), (3, 1, 2), (0, 0, 0)], [(5, 5, 0), (2, 2, 2), (0, 0, 0)]
    found = compare(measured(pairs=a), measured(pairs=b), "PNR")
    assert found.delta == pytest.approx(12 / 4 - 8 / 8)
    # exchanges: none and both reach it; each alone gives |9/7 - 11/5| and |11/5 - 9/7|, less than 2
    assert found.p_value == 2 / 4
    assert (found.wins, found.ties, found.losses) == (2, 1, 0)
    ignoring = Measured(
        {}, {"PNR(ties='ignore')": dict.fromkeys(["q000", "q001", "q002"], 0.0)}, measured(pairs=a).pairs, {}
    )
    against = Measured({}, ignoring.per_query, measured(pairs=b).pairs, {})
    assert compare(ignoring, against, "PNR(ties='ignore')").delta == pytest.approx(11 / 3 - 7 / 7)


def test_pnr_p_values_are_not_small_when_nothing_differs():
    rng = np.random.default_rng(8)
    p_values = []
    for seed in range(120):
        shares = rng.binomial(20, rng.uniform(0.5, 0.9, size=(30, 1)), size=(30, 2))
        a, b = ([(int(right), 20 - int(right), 0) for right in shares[:, side]] for side in (0, 1))
        p_values.append(compare(measured(pairs=a), measured(pairs=b), "PNR", samples=200, seed=seed).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_infinite_pnr_is_compared_without_nan():
    perfect, good = measured(pairs=[(5, 0, 0), (5, 0, 0)]), measured(pairs=[(5, 0, 0), (4, 1, 0)])
    found = compare(perfect, good, "PNR")
    assert (found.delta, found.wins, found.ties, found.p_value) == (math.inf, 1, 1, 1.0)
    both = compare(perfect, perfect, "PNR")
    assert (both.delta, both.interval, both.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert measure_interval(perfect, "PNR") == (math.inf, math.inf)


def test_interval_of_one_system_covers_its_pnr():
    rng = np.random.default_rng(9)
    labels = {f"q{q}": {f"d{d}": int(rng.integers(0, 4)) for d in range(10)} for q in range(30)}
    scores = {q: {d: label + rng.normal(0, 2) for d, label in docs.items()} for q, docs in labels.items()}
    system = measure_run(labels, scores, ("nDCG@5", "PNR"))
    for measure in ("nDCG@5", "PNR"):
        low, high = measure_interval(system, measure)
        assert low < system.aggregate[measure] < high


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"different queries: 1 are in one only, first 'q002'"):
        compare(measured([1, 2]), measured([1, 2, 3]), "nDCG@10")
    with pytest.raises(ValueError, match="new was not measured by PNR; it has nDCG@10"):
        compare(measured([1, 2]), measured([1, 2]), "PNR", names=("new", "old"))
    with pytest.raises(ValueError, match="samples=0"):
        compare(measured(range(20)), measured(np.ones(20)), "nDCG@10", samples=0)
    with pytest.raises(ValueError, match="confidence=95"):
        compare(measured([1, 2]), measured([1, 1]), "nDCG@10", confidence=95)


def test_paired_t_test_and_effect_size_are_those_of_scipy():
    a, b = np.random.default_rng(10).uniform(size=(2, 25))
    found = compare(measured(a), measured(b), "nDCG@10", samples=100)
    reference = stats.ttest_rel(a, b)
    assert found.t_statistic == pytest.approx(reference.statistic)
    assert found.t_p_value == pytest.approx(reference.pvalue)
    assert found.effect_size == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    far = compare(measured(a + 1000), measured(b), "nDCG@10", samples=100)
    assert far.t_p_value == pytest.approx(stats.ttest_rel(a + 1000, b).pvalue, rel=1e-6)


def test_t_test_without_spread_without_queries_and_of_a_pooled_ratio():
    same = compare(measured([0.5, 0.2]), measured([0.5, 0.2]), "nDCG@10")
    assert (same.t_statistic, same.t_p_value, same.effect_size) == (0.0, 1.0, 0.0)
    alike = compare(measured([0.1, 0.3]), measured([0.2, 0.4]), "nDCG@10")
    assert (alike.t_statistic, alike.t_p_value, alike.effect_size) == (-math.inf, 0.0, -math.inf)
    one = compare(measured([0.5]), measured([0.2]), "nDCG@10")
    assert (one.t_statistic, one.t_p_value, one.effect_size) == (None, None, None)
    pooled = compare(measured(pairs=[(3, 1, 0), (2, 2, 0)]), measured(pairs=[(2, 2, 0), (1, 3, 0)]), "PNR")
    assert (pooled.t_statistic, pooled.t_p_value, pooled.effect_size) == (None, None, None)


def test_a_query_without_a_value_is_in_no_mean():
    macro = "PNR(avg='macro')"
    values = {"a": [2.0, math.inf, 1.0, math.nan], "b": [1.0, 3.0, 1.0, math.nan]}
    a, b = (
        Measured({}, {macro: {f"q{at}": value for at, value in enumerate(values[name])}}, {}, {}) for name in ("a", "b")
    )
    found = compare(a, b, macro)
    assert found.delta == pytest.approx(1.5 - 5 / 3)  # the perfect query is in the mean of b alone
    assert (found.wins, found.ties, found.losses) == (2, 2, 0)
    assert found.t_statistic == pytest.approx(stats.ttest_rel([2.0, 1.0], [1.0, 1.0]).statistic)


def test_good_same_bad():
    a, b = measured([0.55, 0.5, 0.49, 0.2, 0.9]), measured([0.5, 0.55, 0.5, 0.2, 0.1])
    found = compare(a, b, "nDCG@10", gsb_threshold=0.05).good_same_bad
    assert found == GoodSameBad(threshold=0.05, good=2, same=2, bad=1, figure=1 / 5)
    back = compare(b, a, "nDCG@10", gsb_threshold=0.05).good_same_bad
    assert (back.good, back.bad, back.figure) == (1, 2, -1 / 5)
    assert compare(a, b, "nDCG@10", gsb_threshold=0.5).good_same_bad == GoodSameBad(0.5, 1, 4, 0, 1 / 5)
    # shares of pairs in the right order: 0.75 against 0.5, 0.5 against 0.5, and no pair at all
    pairs = [measured(pairs=[(3, 1, 0), (1, 1, 2), (0, 0, 0)]), measured(pairs=[(2, 2, 0), (2, 2, 0), (0, 0, 0)])]
    assert compare(*pairs, "PNR", gsb_threshold=0.25).good_same_bad == GoodSameBad(0.25, 1, 2, 0, 1 / 3)
    with pytest.raises(ValueError, match="gsb_threshold=0"):
        compare(a, b, "nDCG@10", gsb_threshold=0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"1 p-values are not in \[0, 1\], first nan"):
        holm([0.1, math.nan])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, alpha):
    expected = [False] * len(p_values)
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if (len(p_values) - step) * p_values[place] > alpha:
            break
        expected[place] = True
    assert [value <= alpha for value in holm(p_values)] == expected


def test_every_measure_is_a_family():
    p_values = {"nDCG@10": [0.01, 0.02], "PNR": [0.03]}
    given_ones = [
        Comparison(f"s{at}", "base", measure, 0.0, p_value, (0.0, 0.0), 0, 0, 0, 1)
        for measure, values in p_values.items()
        for at, p_value in enumerate(values)
    ]
    corrected = correct_holm(given_ones[::-1])
    assert [(each.measure, each.p_holm) for each in corrected] == [("PNR", 0.03), ("nDCG@10", 0.02), ("nDCG@10", 0.02)]
    assert [each.a for each in corrected] == [each.a for each in given_ones[::-1]]


def test_a_comparison_is_json():
    found = compare(measured([0.5, 0.2, 0.9]), measured([0.1, 0.3, 0.5]), "nDCG@10")
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["good_same_bad"]["good"] == 2
