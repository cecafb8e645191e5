"""Numbers of queries against simulation, scipy's noncentral t, and the spread that resampling finds."""

import math

import numpy as np
import pytest
from scipy import stats

from disranker.evaluation.measures import Measured, measure_run
from disranker.evaluation.pairs import PairCounts
from disranker.evaluation.power import (
    NO_DELTA,
    NO_SPREAD,
    NOT_FINITE,
    ONE_QUERY,
    paired_power,
    plan_queries,
    queries_needed,
    smallest_delta,
)
from disranker.evaluation.resampling import bootstrap, query_table, resampled


def measured(values):
    return Measured({}, {"nDCG@10": {f"q{at}": float(value) for at, value in enumerate(values)}}, {}, {})


@pytest.mark.parametrize("num_queries", [5, 30, 400])
@pytest.mark.parametrize(("effect", "alpha"), [(0.0, 0.05), (0.1, 0.05), (0.3, 0.01), (1.0, 0.05)])
def test_power_is_that_of_the_noncentral_t(num_queries, effect, alpha):
    critical = stats.t.isf(alpha / 2, num_queries - 1)
    shift = effect * np.sqrt(num_queries)
    if shift > 6:  # scipy's lower tail may be nan there, and is 0
        expected = stats.nct.sf(critical, num_queries - 1, shift)
    else:
        expected = stats.nct.sf(critical, num_queries - 1, shift) + stats.nct.cdf(-critical, num_queries - 1, shift)
    assert paired_power(effect * 2.0, 2.0, num_queries, alpha) == pytest.approx(expected, abs=1e-6)
    assert paired_power(-effect, 1.0, num_queries, alpha) == paired_power(effect, 1.0, num_queries, alpha)


def test_power_is_what_simulation_finds():
    differences = np.random.default_rng(0).normal(0.1, 0.4, size=(8000, 60))
    found = stats.ttest_1samp(differences, 0, axis=1).pvalue <= 0.05
    assert paired_power(0.1, 0.4, 60) == pytest.approx(found.mean(), abs=0.015)


def test_without_a_difference_the_power_is_alpha():
    assert paired_power(0.0, 1.0, 20, alpha=0.05) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("delta", [5.0, 0.8, 0.2, -0.2, 0.013, 1e-4])
def test_the_number_of_queries_is_the_smallest_one(delta):
    needed = queries_needed(delta, 1.0)
    assert paired_power(delta, 1.0, needed) >= 0.8
    assert needed == 2 or paired_power(delta, 1.0, needed - 1) < 0.8


def test_a_known_number():
    # effect 0.5 at 5 % and 80 %: 34 pairs in every table of the t-test
    assert queries_needed(0.5, 1.0) == 34


@pytest.mark.parametrize("num_queries", [2, 3, 50, 10_000])
def test_the_smallest_difference_has_the_power(num_queries):
    delta = smallest_delta(0.3, num_queries, alpha=0.01, power=0.9)
    assert paired_power(delta, 0.3, num_queries, 0.01) == pytest.approx(0.9, abs=1e-6)


def test_plan_of_a_mean_measure():
    a, b = np.random.default_rng(1).uniform(size=(2, 40))
    plan = plan_queries(measured(a), measured(b), "nDCG@10")
    assert (plan.a, plan.b, plan.measure, plan.num_queries) == ("a", "b", "nDCG@10", 40)
    assert plan.delta == pytest.approx((a - b).mean())
    assert plan.deviation == pytest.approx((a - b).std(ddof=1))
    assert plan.queries_needed == queries_needed(plan.delta, plan.deviation)
    assert plan.smallest_delta == smallest_delta(plan.deviation, 40)
    given = plan_queries(measured(a), measured(b), "nDCG@10", delta=0.1, alpha=0.01, power=0.9)
    assert (given.delta, given.alpha, given.power) == (0.1, 0.01, 0.9)
    assert given.queries_needed == queries_needed(0.1, plan.deviation, 0.01, 0.9)
    none = plan_queries(measured(a), measured(b), "nDCG@10", delta=0.0)
    assert (none.queries_needed, none.smallest_delta, none.note) == (None, plan.smallest_delta, NO_DELTA)


def test_what_the_queries_cannot_tell_is_none():
    one = plan_queries(measured([1]), measured([0]), "nDCG@10")
    assert (one.delta, one.deviation, one.queries_needed, one.smallest_delta, one.note) == (1, *[None] * 3, ONE_QUERY)
    for left, delta in (([0.5, 0.7], 0.1), ([0.4, 0.6], 0.0)):
        alike = plan_queries(measured(left), measured([0.4, 0.6]), "nDCG@10")
        assert alike.delta == pytest.approx(delta)
        assert (alike.deviation, alike.queries_needed, alike.smallest_delta, alike.note) == (0, None, None, NO_SPREAD)
    perfect = {"q0": PairCounts(3, 0, 0), "q1": PairCounts(2, 0, 0)}
    other = {"q0": PairCounts(2, 1, 0), "q1": PairCounts(1, 1, 0)}
    systems = [Measured({}, {"PNR": {q: c.pnr() for q, c in pairs.items()}}, pairs, {}) for pairs in (perfect, other)]
    infinite = plan_queries(*systems, "PNR")
    assert (infinite.delta, infinite.deviation, infinite.note) == (math.inf, None, NOT_FINITE)
    assert plan_queries(systems[0], systems[0], "PNR").note == NOT_FINITE


def test_plan_of_a_pooled_ratio_has_the_spread_of_the_bootstrap():
    rng = np.random.default_rng(2)
    labels = {
        f"q{q:03}": {f"d{d}": int(rng.integers(0, 4)) for d in range(int(rng.integers(4, 20)))} for q in range(150)
    }
    systems = [
        measure_run(
            labels, {q: {d: v + rng.normal(0, s) for d, v in docs.items()} for q, docs in labels.items()}, ["PNR"]
        )
        for s in (1.5, 2.5)
    ]
    plan = plan_queries(*systems, "PNR")
    tables = [query_table(system, "PNR", sorted(labels)) for system in systems]
    low, high = bootstrap(lambda w: resampled(tables[0], w) - resampled(tables[1], w), 150, confidence=0.6827)
    assert plan.deviation / np.sqrt(150) == pytest.approx((high - low) / 2, rel=0.06)


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(ValueError, match="new and old were measured on no query"):
        plan_queries(measured([]), measured([]), "nDCG@10", names=("new", "old"))
    with pytest.raises(ValueError, match="different queries"):
        plan_queries(measured([1, 2]), measured([1]), "nDCG@10")
    with pytest.raises(ValueError, match="delta=inf"):
        plan_queries(measured([1, 2]), measured([1, 1]), "nDCG@10", delta=math.inf)
    with pytest.raises(ValueError, match="power=80"):
        plan_queries(measured([1]), measured([1]), "nDCG@10", power=80)
    with pytest.raises(ValueError, match="delta=0"):
        queries_needed(0.0, 1.0)
    with pytest.raises(ValueError, match="deviation=0"):
        queries_needed(1.0, 0.0)
    with pytest.raises(ValueError, match="alpha=5"):
        paired_power(1.0, 1.0, 10, alpha=5)
    with pytest.raises(ValueError, match=r"power=0\.01"):
        smallest_delta(1.0, 10, power=0.01)
    with pytest.raises(ValueError, match="num_queries=1"):
        paired_power(1.0, 1.0, 1)
