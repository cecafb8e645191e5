"""Team drafts by hand, no preference between equals, and the better ranking wins."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from disranker.data.click_model import CLICK_PROBABILITY, EXAMINE_CONTINUE, STOP_PROBABILITY
from disranker.evaluation.interleaving import draft, interleave

NOTHING = 6


def drafted(first: list[int], second: list[int], coins: list[bool]) -> tuple[list[int], list[bool]]:
    shown, picked = draft(np.array([first]), np.array([second]), NOTHING, np.array([coins]))
    return shown[0].tolist(), picked[0].tolist()


def test_drafts_by_hand() -> None:
    # the first picks 0, the second its 1; then the second's coin: 3, and the first takes its next free one, 2
    assert drafted([0, 1, 2, 3], [1, 0, 3, 2], [True, True, False, True]) == ([0, 1, 3, 2], [True, False, False, True])
    # the coin of a place counts only where both have picked equally often: places 1 and 3
    assert drafted([0, 1, 2, 3], [1, 0, 3, 2], [True, False, False, False]) == (
        [0, 1, 3, 2],
        [True, False, False, True],
    )
    assert drafted([0, 1, 2], [0, 1, 2], [False, True, False]) == ([0, 1, 2], [False, True, False])


def test_a_draft_ends_when_one_has_nothing_left() -> None:
    # the second holds 0 alone, which the first takes
    assert drafted([0, 1, NOTHING], [0, NOTHING, NOTHING], [True] * 3) == ([0, NOTHING, NOTHING], [True, False, False])
    assert drafted([NOTHING] * 2, [0, 1], [False] * 2) == ([NOTHING] * 2, [False, False])


def test_drafts_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        length = int(rng.integers(1, 4))
        orders = []
        for _ in range(2):
            held = rng.permutation(NOTHING)[: rng.integers(0, length + 1)].tolist()
            orders.append(held + [NOTHING] * (length - len(held)))
        coins = (rng.random(length) < 0.5).tolist()
        shown: list[int] = []
        teams: list[bool] = []
        while len(shown) < length:
            free = [[doc for doc in order if doc != NOTHING and doc not in shown] for order in orders]
            if not free[0] or not free[1]:
                break
            picks = (teams.count(True), teams.count(False))
            turn = coins[len(shown)] if picks[0] == picks[1] else picks[0] < picks[1]
            shown.append(free[0][0] if turn else free[1][0])
            teams.append(turn)
        rest = length - len(shown)
        assert drafted(*orders, coins) == (shown + [NOTHING] * rest, teams + [False] * rest)


def world(num_queries: int, noise: float, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Labels, and a run that knows them up to noise."""
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(0, 5, size=(num_queries, 12))
    scores = labels + rng.normal(0, noise, labels.shape)
    by_query, run = (
        {f"q{q:04}": {f"d{d}": kind(value) for d, value in enumerate(row)} for q, row in enumerate(values)}
        for values, kind in ((labels, int), (scores, float))
    )
    return by_query, run


def test_a_ranking_against_itself_is_a_tie() -> None:
    labels, run = world(400, 1.0)
    found = interleave(labels, run, run, sessions_per_query=25, samples=2000)
    assert found.num_sessions == 10_000 == found.wins + found.ties + found.losses
    assert found.interval[0] < 0.5 < found.interval[1]
    assert abs(found.preference - 0.5) < 4 * 0.5 / 10_000**0.5
    assert found.p_value > 0.05
    assert found.wins > 2000  # users do click


def test_the_better_ranking_wins_from_either_side() -> None:
    labels, good = world(300, 0.3)
    bad = world(300, 3.0)[1]
    ahead = interleave(labels, good, bad, ("good", "bad"), samples=2000)
    behind = interleave(labels, bad, good, ("bad", "good"), samples=2000)
    assert (ahead.a, ahead.b) == ("good", "bad")
    assert ahead.interval[0] > 0.5 > behind.interval[1]
    assert ahead.preference == pytest.approx(1 - behind.preference, abs=0.03)
    assert ahead.p_value == behind.p_value == 1 / 2001
    assert ahead.preference == pytest.approx((ahead.wins + ahead.ties / 2) / ahead.num_sessions)
    json.dumps(asdict(ahead), allow_nan=False)


def test_users_read_as_the_click_model_says() -> None:
    """Of a run against itself the list is known, so the share of sessions without a winner is, too."""
    grades = [4, 1, 3]

    def chance(pattern: tuple[bool, ...], place: int = 0) -> float:
        """Of the clicks from `place` on, once the user reads there."""
        if place == len(grades):
            return 1.0
        ended = float(not any(pattern[place + 1 :]))
        going_on = EXAMINE_CONTINUE * chance(pattern, place + 1) + (1 - EXAMINE_CONTINUE) * ended
        click, stop = CLICK_PROBABILITY[grades[place]], STOP_PROBABILITY[grades[place]]
        return click * (stop * ended + (1 - stop) * going_on) if pattern[place] else (1 - click) * going_on

    ties = total = 0.0
    for pattern in product((False, True), repeat=3):
        total += chance(pattern)
        for third in (0, 1):  # the first two places are of different teams, a coin gives the third
            score = [int(pattern[0]), int(pattern[1])]
            score[third] += pattern[2]
            ties += chance(pattern) / 2 * (score[0] == score[1])
    assert total == pytest.approx(1)
    labels = {f"q{i}": {"a": 4, "b": 1, "c": 3} for i in range(1000)}
    run = {query: {"a": 3.0, "b": 2.0, "c": 1.0} for query in labels}
    found = interleave(labels, run, run, sessions_per_query=40, length=3, samples=10)
    assert found.ties / found.num_sessions == pytest.approx(ties, abs=4 * 0.5 / 40_000**0.5)


def test_sessions_of_a_query_do_not_depend_on_the_others() -> None:
    labels, run = world(40, 1.0)
    other = world(40, 1.0, seed=5)[1]
    whole = interleave(labels, run, other, samples=10)
    parts = []
    for half in (sorted(run)[:13], sorted(run)[13:]):
        parts.append(interleave(labels, {q: run[q] for q in half}, {q: other[q] for q in half}, samples=10))
    assert (whole.wins, whole.losses) == (sum(part.wins for part in parts), sum(part.losses for part in parts))
    assert interleave(labels, run, other, samples=10) == whole
    again = interleave(labels, run, other, samples=10, seed=1)
    assert (again.wins, again.losses) != (whole.wins, whole.losses)


def test_runs_may_hold_different_documents_and_unjudged_ones() -> None:
    labels = {"q": {"a": 4, "b": -1}}
    found = interleave(labels, {"q": {"a": 1.0, "x": 0.0}}, {"q": {"b": 1.0, "y": 0.0}}, sessions_per_query=500)
    assert found.num_unjudged == 2
    assert found.preference > 0.6
    assert found.p_value == 1.0  # one query, whatever the number of its sessions, cannot tell
    assert replace(found, seed=3) != found


def test_bad_calls() -> None:
    labels = {"q": {"a": 1}, "r": {"a": 5}}
    one, two = {"q": {"a": 1.0}}, {"r": {"a": 1.0}}
    with pytest.raises(ValueError, match="A and B hold different queries: 2 are in one only, first 'q', 'r'"):
        interleave(labels, one, two, ("A", "B"))
    with pytest.raises(ValueError, match="hold no query"):
        interleave(labels, {}, {"q": {}})
    with pytest.raises(ValueError, match="1 queries have no judgment, first 's'"):
        interleave(labels, {"s": {"a": 1.0}}, {"s": {"a": 1.0}})
    with pytest.raises(ValueError, match=r"'r', doc_id 'a'.* has label 5, but the click model knows grades 0 to 4"):
        interleave(labels, two, two)
    for wrong in ({"sessions_per_query": 0}, {"length": 0}):
        with pytest.raises(ValueError, match="must both be at least 1"):
            interleave(labels, one, one, **wrong)
