"""Propensities of a log whose truth is known, EM against a general optimiser, and what a log cannot tell."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binom

from disranker.data.propensities import estimate_propensities
from disranker.evaluation.click_table import tabulate_clicks
from disranker.schema import Click
from tests.evaluation.click_logs import PROPENSITIES, Simulated, pair, simulate, world_lists


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    return simulate(num_queries=1500, seed=0)


def row(doc: int, position: int, clicks: int, impressions: int, query: int = 0) -> Click:
    return Click(*pair(query, doc), clicks, impressions, position)


def test_two_positions_by_hand() -> None:
    # one document, 40 of 100 at position 1 and 10 of 100 at position 2: the ratio is all there is to know
    found = estimate_propensities(tabulate_clicks([row(0, 1, 40, 100), row(0, 2, 10, 100), row(1, 1, 0, 9)]), depth=2)
    assert found.values == pytest.approx((1, 0.25), abs=1e-5)
    assert (found.converged, found.num_rows, found.num_rows_unused) == (True, 2, 1)


@pytest.mark.parametrize("clicked_only", [False, True])
def test_em_finds_the_maximum_that_an_optimiser_finds(clicked_only: bool) -> None:
    rng = np.random.default_rng(3)
    truth, attraction = np.array([1.0, 0.6, 0.3]), np.array([0.2, 0.4, 0.6])
    n = rng.integers(30, 60, size=(3, 3))
    k = rng.binomial(n, np.outer(attraction, truth))
    clicks = [row(doc, place + 1, int(k[doc, place]), int(n[doc, place])) for doc in range(3) for place in range(3)]
    table = tabulate_clicks(clicks if clicked_only else [*clicks, row(9, 1, 0, 10)])
    assert table.clicked_only == clicked_only
    assert (k > 0).all()

    def loss(logs: np.ndarray) -> float:
        both = np.exp(logs[:3])[:, None] * np.exp(np.array([0, *logs[3:]]))[None]
        if (both >= 1).any():
            return np.inf
        likelihood = binom.logpmf(k, n, both)
        return -float((likelihood - np.log(1 - (1 - both) ** n) if clicked_only else likelihood).sum())

    best = minimize(
        loss,
        np.log([0.3, 0.3, 0.3, 0.5, 0.5]),
        method="Nelder-Mead",
        options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 20_000},
    )
    found = estimate_propensities(table, depth=3)
    assert found.converged
    assert found.values == pytest.approx((1, *np.exp(best.x[3:])), abs=2e-4)


def test_the_truth_is_found(simulated: Simulated) -> None:
    found = estimate_propensities(tabulate_clicks(simulated.clicks))
    assert found.converged
    assert found.values == pytest.approx(PROPENSITIES, rel=0.08)
    assert found.num_rows + found.num_rows_unused == len(simulated.clicks)


def test_the_truth_is_found_where_only_clicked_rows_are_logged(simulated: Simulated) -> None:
    clicked = [click for click in simulated.clicks if click.clicks]
    found = estimate_propensities(tabulate_clicks(clicked))
    assert found.converged
    assert np.array(found.values[:6]) == pytest.approx(PROPENSITIES[:6], rel=0.1)
    # what is left out is not forgotten: taken as complete, the same rows make the last positions look far too good
    naive = estimate_propensities(tabulate_clicks([*clicked, row(0, 1, 0, 1)]))
    assert naive.values[9] > 1.5 * PROPENSITIES[9]
    assert found.values[9] < 1.3 * PROPENSITIES[9]


def test_groups_that_are_the_pairs_change_nothing() -> None:
    table = tabulate_clicks(simulate(num_queries=60, seed=1).clicks)
    alone = estimate_propensities(table, depth=5)
    named = estimate_propensities(table, depth=5, groups=[f"g{i}" for i in range(len(table.pairs))])
    assert named.values == pytest.approx(alone.values, rel=1e-5)
    assert named.num_rows == alone.num_rows


def test_groups_tell_where_no_pair_comes_twice() -> None:
    log = simulate(num_queries=600, seed=2, lists=1)
    table = tabulate_clicks(log.clicks)
    with pytest.raises(ValueError, match="no document of the click log links position 1 with positions 2, 3"):
        estimate_propensities(table, depth=3)
    known = {pair(query, doc): value for query, values in enumerate(log.attraction) for doc, value in enumerate(values)}
    found = estimate_propensities(table, groups=[known[one] for one in table.pairs])
    assert found.values == pytest.approx(PROPENSITIES, rel=0.15)


def test_the_built_in_world_by_grade() -> None:
    """Its users are a cascade, so a position has no propensity of its own, but it has a mean one."""
    lists = world_lists(1000)
    table = tabulate_clicks(click for one in lists for click in one.clicks)
    grades = {pair: grade for one in lists for pair, grade in one.documents}
    found = estimate_propensities(table, groups=[grades[pair] for pair in table.pairs])
    examined = np.array([one.examined([grade for _, grade in one.documents]) for one in lists])
    assert found.values == pytest.approx(
        np.average(examined, axis=0, weights=[one.num_shown for one in lists]), abs=0.03
    )


def test_what_a_log_cannot_tell() -> None:
    linked = [row(0, 1, 5, 10), row(0, 2, 2, 10)]
    with pytest.raises(ValueError, match="links position 1 with positions 3, 4"):
        estimate_propensities(tabulate_clicks([*linked, row(1, 3, 5, 10), row(1, 4, 2, 10)]), depth=4)
    with pytest.raises(ValueError, match="position 2 has no click in the rows"):
        estimate_propensities(tabulate_clicks([row(0, 1, 5, 10), row(0, 2, 0, 10)]), depth=2)
    with pytest.raises(ValueError, match="every row of the click log is one impression with a click"):
        estimate_propensities(tabulate_clicks([row(0, 1, 1, 1), row(0, 2, 1, 1)]), depth=2)
    with pytest.raises(ValueError, match="1 groups for 2 pairs"):
        estimate_propensities(tabulate_clicks([row(0, 1, 1, 2), row(1, 2, 1, 2)]), depth=2, groups=[0])
    with pytest.raises(ValueError, match="depth=1: propensities compare positions"):
        estimate_propensities(tabulate_clicks(linked), depth=1)


def test_too_few_iterations_are_said() -> None:
    table = tabulate_clicks(simulate(num_queries=60, seed=1).clicks)
    assert not estimate_propensities(table, depth=5, max_iterations=1).converged
