"""Estimates against a click log of which the truth is known, the weights by hand, and what the log does not support."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from disranker.data.click_model import SPAM
from disranker.data.propensities import estimate_propensities
from disranker.evaluation.click_table import tabulate_clicks
from disranker.evaluation.counterfactual import Estimate, estimate_clicks, rank_pairs
from disranker.schema import Candidate, Click, Pair
from tests.evaluation.click_logs import DEPTH, PROPENSITIES, Simulated, simulate, world_lists

A, B, C = (Pair("q", title, "") for title in "abc")
# 10 page views: a, b in 6 of them, b, a in 4; c is never shown
LOG = [
    Click(*A, 3, 6, 1, 40.0),
    Click(*B, 1, 6, 2, 5.0),
    Click(*B, 2, 4, 1, 50.0),
    Click(*A, 0, 4, 2),
]
T = (1.0, 0.5)


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    return simulate(num_queries=500, seed=7)


def clicks_of(
    log: list[Click], ranking: dict[str, list[Pair]], propensities: ArrayLike = T, **changed: Any
) -> Estimate:
    found = estimate_clicks(tabulate_clicks(log), ranking, propensities, **changed)
    return found.metrics["clicks_per_page"]


def test_weights_by_hand() -> None:
    found = estimate_clicks(tabulate_clicks(LOG), {"id": [A, B]}, T, samples=10)
    # examined in the log: a 6 + 4/2 = 8 times, b 6/2 + 4 = 7 times, of 10; the new ranking would have 10 and 5
    weight_a, weight_b = 10 / 8, 5 / 7
    clicks = found.metrics["clicks_per_page"]
    assert clicks.logged == pytest.approx(6 / 10)
    assert clicks.value == pytest.approx((3 * weight_a + 3 * weight_b) / 10)
    assert clicks.delta == pytest.approx(clicks.value - 0.6)
    assert clicks.self_normalised == pytest.approx(clicks.value)  # all is supported, nothing clipped
    assert clicks.interval == (pytest.approx(clicks.value), pytest.approx(clicks.value))  # one query
    long = found.metrics["long_clicks_per_page"]  # 40 and 50 seconds are long, 5 are not
    assert (long.logged, long.value) == (pytest.approx(0.5), pytest.approx((3 * weight_a + 2 * weight_b) / 10))
    dwell = found.metrics["dwell_seconds_per_page"]
    assert dwell.value == pytest.approx((120 * weight_a + 105 * weight_b) / 10)
    pages = found.metrics["page_ctr_if_independent"]
    assert pages.logged == pytest.approx(1 - 0.7 * 0.7)
    assert pages.value == pytest.approx(1 - (1 - 0.3 * weight_a) * (1 - 0.3 * weight_b))
    assert pages.self_normalised is None
    assert found.effective_sample_size == pytest.approx(
        (10 * weight_a + 10 * weight_b) ** 2 / (10 * weight_a**2 + 10 * weight_b**2)
    )
    assert (found.page_views, found.num_impressions, found.depth) == (10, 20, 2)
    assert (found.supported_share, found.clipped_share, found.clicked_only) == (1.0, 0.0, False)
    json.dumps(asdict(found), allow_nan=False)


def test_only_the_ratios_of_propensities_matter() -> None:
    first, second = (clicks_of(LOG, {"id": [B, A]}, scale * np.array(T), samples=10) for scale in (1, 0.2))
    for name, value in asdict(first).items():
        assert value == pytest.approx(asdict(second)[name])


def test_unsupported_documents_never_click_unless_self_normalised() -> None:
    found = estimate_clicks(tabulate_clicks(LOG), {"id": [A, C]}, T, samples=10)
    clicks = found.metrics["clicks_per_page"]
    assert found.supported_share == 0.5
    assert clicks.value == pytest.approx(3 * (10 / 8) / 10)
    # a stands for 1 of the 1.5 examinations of the new page; c clicks like a
    assert clicks.self_normalised == pytest.approx(clicks.value * 1.5)
    nothing = estimate_clicks(tabulate_clicks(LOG), {"id": [C]}, T, samples=10)
    assert (nothing.metrics["clicks_per_page"].value, nothing.effective_sample_size) == (0, 0)
    assert nothing.metrics["clicks_per_page"].self_normalised is None


def test_clipping() -> None:
    table = tabulate_clicks([Click(*A, 1, 10, 2), Click(*B, 2, 10, 1), Click(*C, 0, 10, 1)])
    ranking = {"id": [A, B]}
    free = estimate_clicks(table, ranking, (1.0, 0.1), clip=None, samples=10)
    bound = estimate_clicks(table, ranking, (1.0, 0.1), clip=4.0, samples=10)
    # 20 views at position 1; a is examined 1 time in the log and would be 20 times, b 10 and 2 times
    assert free.metrics["clicks_per_page"].value == pytest.approx((1 * 20 + 2 * 0.2) / 20)
    assert bound.metrics["clicks_per_page"].value == pytest.approx((1 * 4 + 2 * 0.2) / 20)
    assert (free.clipped_share, bound.clipped_share) == (0, 0.5)
    # the clipped log stands for 4 x 1 + 0.2 x 10 of 22 examinations
    assert bound.metrics["clicks_per_page"].self_normalised == pytest.approx((4.4 / 20) * 22 / 6)


def test_a_document_that_stands_twice_is_examined_at_both_places() -> None:
    assert clicks_of(LOG, {"id": [A, A]}, samples=10).value == pytest.approx(3 * (15 / 8) / 10)


def test_positions_below_the_last_propensity_do_not_count() -> None:
    more = [*LOG, Click(*C, 9, 10, 3, 9.0)]
    assert asdict(clicks_of(more, {"id": [A, B, C]}, samples=10)) == asdict(clicks_of(LOG, {"id": [A, B]}, samples=10))


def test_queries_count_by_their_page_views() -> None:
    other = Pair("r", "x", "")
    found = clicks_of(
        [*LOG, Click(*other, 30, 30, 1, 0.0)], {"1": [A, B], "2": [other], "3": [Pair("s", "x", "")]}, samples=10
    )
    one = clicks_of(LOG, {"1": [A, B]}, samples=10).value
    assert found.value == pytest.approx((10 * one + 30 * 1) / 40)


def test_a_clicked_only_log_takes_documents_as_always_shown() -> None:
    found = estimate_clicks(tabulate_clicks(LOG[:3]), {"id": [A, B]}, T, samples=10)
    # a is known at position 1 alone, so in all 10 views; b as before
    assert found.metrics["clicks_per_page"].value == pytest.approx((3 * 1 + 3 * 5 / 7) / 10)
    assert found.clicked_only
    assert found.metrics["clicks_per_page"].self_normalised is None
    assert found.metrics["clicks_per_page"].self_normalised_interval is None


def test_the_truth_lies_in_the_interval_and_the_naive_estimate_does_not(simulated: Simulated) -> None:
    table = tabulate_clicks(simulated.clicks)
    propensities = estimate_propensities(table).values
    rng = np.random.default_rng(0)
    for merits in (
        simulated.attraction,
        simulated.attraction + rng.normal(0, 0.2, simulated.attraction.shape),
        rng.normal(size=simulated.attraction.shape),
    ):
        truth, ranking = simulated.clicks_per_page(merits), simulated.ranking(merits)
        for used in (PROPENSITIES, propensities):
            found = estimate_clicks(table, ranking, used)
            clicks = found.metrics["clicks_per_page"]
            assert clicks.interval[0] < truth < clicks.interval[1]
            assert clicks.self_normalised_interval is not None
            assert clicks.self_normalised_interval[0] < truth < clicks.self_normalised_interval[1]
            assert clicks.interval[1] - clicks.interval[0] < 0.15 * truth
            assert 0.1 * found.num_impressions < found.effective_sample_size < found.num_impressions
        naive = estimate_clicks(table, ranking, np.ones(DEPTH)).metrics["clicks_per_page"]
        assert not naive.interval[0] < truth < naive.interval[1]


def test_the_page_ctr_is_near_the_truth(simulated: Simulated) -> None:
    merits = simulated.attraction
    found = estimate_clicks(tabulate_clicks(simulated.clicks), simulated.ranking(merits), PROPENSITIES)
    best = -np.sort(-merits, axis=1)[:, :DEPTH]
    pages = 1 - (1 - best * PROPENSITIES).prod(axis=1)
    truth = float((pages * simulated.views).sum() / simulated.views.sum())
    assert found.metrics["page_ctr_if_independent"].value == pytest.approx(truth, rel=0.02)


def test_the_logged_ranking_itself_is_worth_what_was_logged() -> None:
    """One list a query: every weight is 1, whatever the propensities."""
    log = simulate(num_queries=50, seed=1, lists=1)
    table = tabulate_clicks(log.clicks)
    ranking: dict[str, list[Pair]] = {}
    for pair in table.pairs:  # in the order of the log, which is that of the lists
        ranking.setdefault(pair.query, []).append(pair)
    found = estimate_clicks(table, ranking, PROPENSITIES)
    for metric in found.metrics.values():
        assert metric.value == pytest.approx(metric.logged)
        assert metric.delta_interval == pytest.approx((0, 0), abs=1e-12)
    assert found.effective_sample_size == pytest.approx(found.num_impressions)


def test_users_who_stop_make_differences_too_large_in_the_right_direction() -> None:
    """The built-in world: the best order cannot gain what its documents would gain if nobody stopped reading."""
    lists = world_lists(500)
    table = tabulate_clicks(click for one in lists for click in one.clicks)
    grades = {pair: grade for one in lists for pair, grade in one.documents}
    propensities = estimate_propensities(table, groups=[grades[pair] for pair in table.pairs]).values
    gains, truths = [], []
    for sign in (1, -1):
        orders = [sorted(one.documents, key=lambda document: -sign * (document[1] % SPAM)) for one in lists]
        ranking = {str(number): [pair for pair, _ in order] for number, order in enumerate(orders)}
        gains.append(estimate_clicks(table, ranking, propensities, samples=200).metrics["clicks_per_page"])
        truth = [one.clicks_per_page([grade for _, grade in order]) for one, order in zip(lists, orders, strict=True)]
        truths.append(np.average(truth, weights=[one.num_shown for one in lists]))
    best, worst = gains
    assert best.delta_interval[0] > 0 > worst.delta_interval[1]
    assert best.value > truths[0] > truths[1] > worst.value


def test_the_seed_decides_the_interval(simulated: Simulated) -> None:
    table, ranking = tabulate_clicks(simulated.clicks), simulated.ranking(simulated.attraction)
    one, same, other = (estimate_clicks(table, ranking, PROPENSITIES, samples=50, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.metrics["clicks_per_page"].interval != other.metrics["clicks_per_page"].interval
    wide = estimate_clicks(table, ranking, PROPENSITIES, samples=50, seed=1, confidence=0.5)
    assert wide.confidence == 0.5
    assert replace(wide, metrics={}, confidence=0.95) == replace(one, metrics={})


def test_runs_become_rankings() -> None:
    rows = [Candidate("1", "a", *A), Candidate("1", "b", *B), Candidate("2", "a", *C)]
    assert rank_pairs({"1": {"a": 0.5, "b": 2.0}, "2": {"a": 0.0}}, rows) == {"1": [B, A], "2": [C]}
    assert rank_pairs({"1": {"a": 1.0, "b": 1.0}}, rows) == {"1": [B, A]}  # ties by doc_id, descending
    with pytest.raises(ValueError, match=r"1 scored documents have no texts: \(query_id '2', doc_id 'x'\)"):
        rank_pairs({"1": {"a": 1.0}, "2": {"x": 1.0}}, rows)


def test_bad_calls() -> None:
    for wrong in ([1.0, 0.0], [], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="must be finite and above 0"):
            clicks_of(LOG, {"id": [A]}, wrong)
    with pytest.raises(ValueError, match="clip=0"):
        clicks_of(LOG, {"id": [A]}, clip=0.0)
    with pytest.raises(ValueError, match=r"no query is both ranked and in the click log: 1 ranked \(first: 'z'\)"):
        clicks_of(LOG, {"id": [Pair("z", "a", "")]})
