"""The paired tests against scipy and exact cases, and their behaviour when there is nothing to find."""

import math

import numpy as np
import pytest
from scipy import stats

from disranker.evaluation.measures import Measured, measure_run
from disranker.evaluation.pairs import PairCounts
from disranker.evaluation.significance import bootstrap_interval, compare, measure_interval, randomisation_test


def measured(values=None, pairs=None):
    """A measured system from per-query nDCG@10, or from per-query pair counts."""
    if pairs is not None:
        named = {f"q{index:03}": PairCounts(*counts) for index, counts in enumerate(pairs)}
        return Measured({"PNR": 0.0}, {"PNR": {query: counts.pnr() for query, counts in named.items()}}, named, {})
    per_query = {f"q{index:03}": float(value) for index, value in enumerate(values)}
    return Measured({"nDCG@10": float(np.mean(values))}, {"nDCG@10": per_query}, {}, {})


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
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval(np.ones(3), confidence=95)
