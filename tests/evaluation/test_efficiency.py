"""Latency by a clock that the test turns, so every figure is exact; cost and speed-up by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytest

from disranker.evaluation.efficiency import (
    MAX_REPEATS,
    WARM_UP_CALLS,
    cost_per_million_pairs,
    measure_latency,
    speed_up,
)
from disranker.schema import Pair

# characters: 3, 6, 9, ... in an order that is not sorted
PAIRS = [Pair("q" * n, "t" * n, "s" * n) for n in (5, 1, 9, 3, 7, 2, 8, 4, 6)]


class TurningClock:
    """A scorer and its clock: a call takes a millisecond for each document, and what `extra` says of call i."""

    def __init__(self, extra: Sequence[float] = ()) -> None:
        self.now = 100.0
        self.extra = list(extra)
        self.calls: list[list[Pair]] = []

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        self.calls.append(list(pairs))
        self.now += len(pairs) / 1000 + (self.extra.pop(0) if self.extra else 0.0)
        return [0.0] * len(pairs)

    def clock(self) -> float:
        return self.now


def test_a_cell_stops_when_its_budget_is_used_up() -> None:
    scorer = TurningClock()
    found = measure_latency(scorer, PAIRS, documents=[1, 2], seconds=0.0099, clock=scorer.clock)
    assert [(cell.length, cell.documents, cell.repeats) for cell in found.cells] == [
        (length, documents, repeats)
        for length in ("short", "middle", "long")
        for documents, repeats in ((1, 10), (2, 5))
    ]
    assert len(scorer.calls) == 3 * (10 + 5 + 2 * WARM_UP_CALLS)
    one, two = found.cells[:2]
    assert (one.p50_ms, one.p95_ms, one.p99_ms) == pytest.approx((1, 1, 1))
    assert (two.p50_ms, two.pairs_per_second) == pytest.approx((2, 1000))
    json.dumps(asdict(found), allow_nan=False)


def test_percentiles_are_observed_times_and_the_warm_up_is_in_none() -> None:
    # warm-up 901 ms, then 1 .. 100 ms in a mixed order
    times = [i * 37 % 101 / 1000 for i in range(1, 101)]
    scorer = TurningClock([0.9, *(time - 0.001 for time in times)])
    cell = measure_latency(scorer, PAIRS, documents=[1], seconds=sum(times) - 1e-6, clock=scorer.clock).cells[0]
    assert cell.repeats == 100
    assert (cell.p50_ms, cell.p95_ms, cell.p99_ms) == pytest.approx((50, 95, 99))
    assert cell.pairs_per_second == pytest.approx(100 / sum(times))


def test_at_least_one_call_is_timed_and_never_more_than_the_limit() -> None:
    slow = TurningClock([5.0] * 6)
    cells = measure_latency(slow, PAIRS, documents=[1], seconds=0.001, clock=slow.clock).cells
    assert [cell.repeats for cell in cells] == [1, 1, 1]
    assert cells[0].p99_ms == pytest.approx(5001)
    fast = TurningClock()
    cells = measure_latency(fast, PAIRS, documents=[1], seconds=1e6, clock=fast.clock).cells
    assert [cell.repeats for cell in cells] == [MAX_REPEATS] * 3


def test_requests_are_one_query_with_documents_of_one_third() -> None:
    scorer = TurningClock()
    found = measure_latency(scorer, PAIRS, documents=[3], seconds=0.02, clock=scorer.clock)
    of_third = {"short": {1, 2, 3}, "middle": {4, 5, 6}, "long": {7, 8, 9}}
    calls = iter(scorer.calls)
    for cell in found.cells:
        for _ in range(WARM_UP_CALLS + cell.repeats):
            asked = next(calls)
            assert len({pair.query for pair in asked}) == 1
            assert len(asked[0].query) in of_third[cell.length]
            # three documents from a third of three: each once
            assert {len(pair.title) for pair in asked} == of_third[cell.length]
            assert all(len(pair.title) == len(pair.summary) for pair in asked)
    assert [cell.mean_length for cell in found.cells] == [6.0, 15.0, 24.0]  # characters of the rows drawn from
    assert found.length_unit == "characters"


def test_a_request_larger_than_its_third_repeats_documents() -> None:
    scorer = TurningClock()
    measure_latency(scorer, PAIRS, documents=[10], seconds=0.01, clock=scorer.clock)
    assert {len(asked) for asked in scorer.calls} == {10}


def test_token_lengths_decide_when_given() -> None:
    scorer = TurningClock()
    lengths = [9, 8, 7, 6, 5, 4, 3, 2, 1]
    found = measure_latency(scorer, PAIRS, documents=[3], seconds=0.001, token_lengths=lengths, clock=scorer.clock)
    assert {len(pair.title) for pair in scorer.calls[0]} == {8, 4, 6}  # the last three rows
    assert (found.length_unit, found.cells[0].mean_length) == ("tokens", 2.0)


def test_the_same_seed_asks_the_same() -> None:
    asked = []
    for seed in (1, 1, 2):
        scorer = TurningClock()
        measure_latency(scorer, PAIRS, documents=[2], seconds=0.02, seed=seed, clock=scorer.clock)
        asked.append(scorer.calls)
    assert asked[0] == asked[1] != asked[2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pairs": PAIRS[:2]}, "2 pairs cannot be split into thirds"),
        ({"documents": [1, 0]}, r"documents=\[1, 0\]"),
        ({"documents": []}, r"documents=\[\]"),
        ({"documents": [5, 5]}, "different"),
        ({"seconds": 0.0}, "seconds=0.0"),
        ({"token_lengths": [1, 2]}, "2 token_lengths for 9 pairs"),
    ],
)
def test_bad_calls(changed: dict[str, Any], message: str) -> None:
    scorer = TurningClock()
    arguments: dict[str, Any] = {"pairs": PAIRS, "seconds": 0.001, "clock": scorer.clock, **changed}
    with pytest.raises(ValueError, match=message):
        measure_latency(scorer, **arguments)
    assert scorer.calls == []


def test_cost_and_speed_up_by_hand() -> None:
    # 1000 pairs/s: a million takes 1000 s, at 3.60 an hour that is 1.00
    assert cost_per_million_pairs(1000, 3.6) == pytest.approx(1.0)
    assert cost_per_million_pairs(5.0, 0.0) == 0.0
    assert speed_up(600.0, 20.0) == 30.0
    for call in (
        lambda: cost_per_million_pairs(0.0, 1.0),
        lambda: speed_up(1.0, 0.0),
        lambda: speed_up(float("nan"), 1.0),
    ):
        with pytest.raises(ValueError, match="must be above 0"):
            call()
    with pytest.raises(ValueError, match="price_per_hour=-1"):
        cost_per_million_pairs(1.0, -1.0)
