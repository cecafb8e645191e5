"""Drift of known scores, the limits, which pairs are taken, and how speed is measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
import torch

from disranker.export.drift import find_fault, first_queries, measure_drift, measure_speeds, torch_threads
from disranker.schema import Judgment, Pair

LIMITS = {"max_difference": 1e-4, "max_ndcg_loss": 0.002}


def judged(*labels_of_queries: Sequence[int]) -> list[Judgment]:
    return [
        Judgment(f"q{query}", f"d{at}", "a", "b", "c", label)
        for query, labels in enumerate(labels_of_queries)
        for at, label in enumerate(labels)
    ]


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_drift_of_known_scores() -> None:
    rows = judged([1, 0, 0, 0], [0, 1])
    drift = measure_drift(rows, floats(4, 3, 2, 1, 1, 2), floats(4, 2.5, 3.5, 1, 2, 1))
    assert (drift.num_pairs, drift.num_queries) == (6, 2)
    assert drift.max_difference == 1.5
    assert drift.mean_difference == pytest.approx((0.5 + 1.5 + 1 + 1) / 6)
    assert drift.worst_pair == ("q0", "d2")
    assert drift.score_std == pytest.approx(np.std([4, 3, 2, 1, 1, 2]))
    # q0: one neighbouring exchange, 1 - 6 * 2 / (4 * 15); q1: the other way round
    assert drift.spearman == pytest.approx((0.8 - 1) / 2)
    assert drift.spearman_least == pytest.approx(-1.0)
    # q0 keeps its document at the top, q1 loses it to place 2.
    ndcg = drift.changes["nDCG@10"]
    assert ndcg.bundle == pytest.approx(1.0)
    assert ndcg.variant == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert ndcg.delta == pytest.approx(ndcg.variant - 1.0)
    low, high = ndcg.interval
    assert low == pytest.approx(1 / np.log2(3) - 1) and high == pytest.approx(0.0)
    # The bundle orders all pairs rightly, so its PNR is infinite, which JSON does not have.
    pnr = drift.changes["PNR"]
    assert (pnr.bundle, pnr.variant, pnr.delta) == (None, 3.0, None)
    json.dumps(asdict(drift), allow_nan=False)
    assert "largest difference 1.50e+00 (q0 d2), mean 6.67e-01" in str(drift)
    assert "PNR infinitely" in str(drift)


def test_rows_of_a_query_need_not_stand_together() -> None:
    rows = judged([1, 0, 0, 0], [0, 1])
    left, right = floats(4, 3, 2, 1, 1, 2), floats(4, 2.5, 3.5, 1, 2, 1)
    order = [4, 0, 1, 5, 3, 2]
    mixed = measure_drift([rows[at] for at in order], left[order], right[order])
    assert mixed.spearman == pytest.approx(measure_drift(rows, left, right).spearman)
    assert mixed.worst_pair == ("q0", "d2")


def test_equal_scores_have_no_correlation() -> None:
    drift = measure_drift(judged([1, 0]), floats(1, 1), floats(1, 2))
    assert (drift.spearman, drift.spearman_least) == (None, None)
    assert "Spearman in a query none (all scores equal)" in str(drift)


def test_a_set_that_cannot_tell_rankings_apart_still_has_differences() -> None:
    drift = measure_drift(judged([0, 0], [0]), floats(1, 2, 3), floats(1.5, 2, 3))
    assert drift.max_difference == 0.5
    assert drift.changes["nDCG@10"].delta == 0.0
    assert drift.changes["PNR"].delta in (None, 0.0)
    json.dumps(asdict(drift), allow_nan=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_a_fault(value: float) -> None:
    with pytest.raises(ValueError, match="the export gives pair 1 the score"):
        measure_drift(judged([1, 0]), floats(1, 2), floats(1, value))


def test_no_pairs_have_no_drift() -> None:
    with pytest.raises(ValueError, match="at least one judged pair"):
        measure_drift([], floats(), floats())


def test_float32_is_held_to_its_scores() -> None:
    rows = judged([1, 0])
    # The order is the same, and yet the numbers are not.
    moved = measure_drift(rows, floats(2, 1), floats(2.001, 1))
    assert find_fault(moved, precision="float32", **LIMITS) == "its scores differ by up to 1.00e-03, more than 0.0001"
    rounded = measure_drift(rows, floats(2, 1), floats(2.00001, 1))
    assert find_fault(rounded, precision="float32", **LIMITS) is None


def test_other_types_are_held_to_the_ranking() -> None:
    rows = judged([1, 0], [1, 0])
    same_order = measure_drift(rows, floats(2, 1, 2, 1), floats(9, 8, 1, 0))
    assert find_fault(same_order, precision="int8", **LIMITS) is None
    better = measure_drift(rows, floats(1, 2, 2, 1), floats(2, 1, 2, 1))
    assert find_fault(better, precision="int8", **LIMITS) is None
    worse = measure_drift(rows, floats(2, 1, 2, 1), floats(1, 2, 2, 1))
    assert find_fault(worse, precision="int8", **LIMITS) == (
        "it changes nDCG@10 by -0.1845, and a loss of 0.002 is allowed"  # (1 - 1 / log2(3)) / 2
    )


def test_first_queries_are_whole_and_one_is_always_taken() -> None:
    rows = judged([1, 0, 2], [1, 0], [0])
    mixed = [rows[at] for at in (0, 3, 1, 5, 2, 4)]
    assert first_queries(mixed, 6) == mixed
    assert [row.query_id for row in first_queries(mixed, 5)] == ["q0", "q1", "q0", "q0", "q1"]
    assert [row.query_id for row in first_queries(mixed, 4)] == ["q0"] * 3
    assert [row.query_id for row in first_queries(mixed, 1)] == ["q0"] * 3
    assert first_queries([], 5) == []


def test_speed_is_that_of_pairs_of_all_lengths_and_all_take_turns() -> None:
    calls: list[tuple[str, int, list[Pair]]] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name, self.threads = name, torch.get_num_threads()

        def score(self, pairs: Sequence[Pair]) -> np.ndarray:
            assert torch.get_num_threads() == self.threads
            calls.append((self.name, self.threads, list(pairs)))
            return np.zeros(len(pairs), dtype=np.float32)

    pairs = [Pair("q", "", "x" * length) for length in range(1000, 0, -1)]
    speeds = measure_speeds({"a": lambda: Recorder("a"), "b": lambda: Recorder("b")}, pairs)
    assert set(speeds) == {"a", "b"} and min(speeds["a"].values()) > 0
    assert [set(one) for one in speeds.values()] == [{"1", "2"}] * 2
    # A warm-up each, then three rounds; the same again with two threads.
    assert [(name, threads) for name, threads, _ in calls] == [(n, t) for t in (1, 2) for n in "ab" * 4]
    lengths = [len(pair.summary) for pair in calls[2][2]]
    assert [len(one) for *_, one in calls[:3]] == [8, 8, 100]
    assert (min(lengths), max(lengths)) == (1, 1000) and abs(np.mean(lengths) - 500) < 5


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(2):
        assert torch.get_num_threads() == 2
        raise KeyError
    assert torch.get_num_threads() == before
