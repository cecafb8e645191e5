"""The randomisation test and the bootstrap against scipy, brute force and exact cases."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from disranker.evaluation.measures import Measured
from disranker.evaluation.pairs import PairCounts
from disranker.evaluation.resampling import (
    aggregate,
    bootstrap_interval,
    exchange_test,
    query_table,
    randomisation_test,
    resampled,
)

COUNTS = st.tuples(st.integers(0, 9), st.integers(1, 9))


def test_exact_test_by_hand():
    # all eight flips of (1, 2, 3): only +6 and -6 reach |mean| = 2
    assert randomisation_test(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert randomisation_test(np.array([1.0, 2.0, 3.0, 0.0, 0.0])) == 2 / 8
    assert randomisation_test(np.array([0.1, 0.2, -0.3])) == 1.0
    assert randomisation_test(np.zeros(5)) == 1.0


def test_exact_test_equals_scipy():
    differences = np.random.default_rng(0).normal(0.4, 1, size=10)
    reference = stats.permutation_test(
        (differences, np.zeros(10)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert randomisation_test(differences) == pytest.approx(reference.pvalue, abs=1e-12)


def test_sampled_test_is_near_scipy_and_repeats_with_its_seed():
    differences = np.random.default_rng(1).normal(0.2, 1, size=80)
    exact_enough = stats.permutation_test(
        (differences, np.zeros(80)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(5),
    ).pvalue
    found = randomisation_test(differences, seed=3)
    assert found == pytest.approx(exact_enough, abs=0.015)
    assert randomisation_test(differences, seed=3) == found
    assert randomisation_test(differences, seed=4) != found


def test_the_smallest_sampled_p_is_one_over_samples_plus_one():
    assert randomisation_test(np.ones(60), samples=999) == 1 / 1000


def test_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(2)
    p_values = [randomisation_test(rng.normal(size=25), samples=200, seed=seed) for seed in range(300)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.035)


def test_interval_is_near_the_normal_one():
    values = np.random.default_rng(4).normal(1.0, 2.0, size=200)
    low, high = bootstrap_interval(values)
    error = values.std(ddof=1) / math.sqrt(200)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.04)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.04)
    narrow = bootstrap_interval(values, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(6)
    intervals = [bootstrap_interval(rng.normal(size=50), samples=300, seed=seed) for seed in range(300)]
    assert np.mean([low <= 0 <= high for low, high in intervals]) == pytest.approx(0.94, abs=0.035)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=6))
def test_exchange_of_ratios_is_brute_force(queries):
    def difference(flips):
        left = [pair[flip] for pair, flip in zip(queries, flips, strict=True)]
        right = [pair[1 - flip] for pair, flip in zip(queries, flips, strict=True)]
        return abs(Fraction(*map(sum, zip(*left, strict=True))) - Fraction(*map(sum, zip(*right, strict=True))))

    observed = difference([0] * len(queries))
    every = [difference(flips) >= observed for flips in product((0, 1), repeat=len(queries))]
    tables = np.array(queries, dtype=np.float64)
    assert exchange_test(tables[:, 0], tables[:, 1]) == pytest.approx(sum(every) / len(every))


def test_tables_of_means_of_pooled_ratios_and_of_means_with_gaps():
    queries = ["q1", "q2", "q3"]
    macro = "PNR(avg='macro')"
    measured = Measured(
        {},
        {
            "nDCG@5": {"q1": 0.5, "q2": 0.25, "q3": 0.0},
            "PNR": {"q1": 3.0, "q2": math.inf, "q3": math.nan},
            macro: {"q1": 3.0, "q2": math.inf, "q3": math.nan},
        },
        {"q1": PairCounts(5, 1, 2), "q2": PairCounts(2, 0, 0), "q3": PairCounts(0, 0, 0)},
        {},
    )
    assert query_table(measured, "nDCG@5", queries).tolist() == [[0.5, 1], [0.25, 1], [0, 1]]
    assert aggregate(query_table(measured, "nDCG@5", queries)) == 0.25
    assert query_table(measured, "PNR", queries).tolist() == [[6, 2], [2, 0], [0, 0]]
    assert aggregate(query_table(measured, "PNR", queries)) == 4
    assert aggregate(query_table(measured, macro, queries)) == 3  # the mean over the queries where it is finite
    assert query_table(measured, "PNR", []).shape == (0, 2)
    weights = np.array([[1.0, 1, 1], [3, 0, 0], [0, 2, 1], [0, 0, 3]])
    assert resampled(query_table(measured, "PNR", queries), weights) == pytest.approx(
        [4, 3, math.inf, math.nan], nan_ok=True
    )


def test_nothing_to_exchange_or_to_tell_apart():
    table = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert exchange_test(table, table) == 1.0
    assert exchange_test(np.zeros((2, 2)), table) == 1.0  # 0 / 0 has no difference to anything
    with pytest.raises(ValueError, match="samples=0"):
        exchange_test(np.ones((20, 2)), np.ones((20, 2)) * [2, 1], samples=0)


def test_intervals_need_queries_and_a_share():
    with pytest.raises(ValueError, match="at least one query"):
        bootstrap_interval(np.array([]))
    with pytest.raises(ValueError, match="confidence=95"):
        bootstrap_interval(np.ones(3), confidence=95)
