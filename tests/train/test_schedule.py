"""The learning rate at its corners, by hand, and what holds for every shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disranker.config.parts import OptimConfig
from disranker.train.schedule import learning_rate

SHAPES = ("cosine", "linear", "wsd", "constant")


def rates(num_steps: int, **changed: Any) -> list[float]:
    config = OptimConfig(**{"learning_rate": 1.0, "warmup_share": 0.0, **changed})
    return [learning_rate(step, num_steps, config) for step in range(num_steps)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # two steps of warm-up, then 8 steps towards 0: 8/8, 7/8, … 1/8
        ("linear", [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        # (1 - cos(pi r)) / 2 for the same r
        ("cosine", [0.5, 1.0, 1.0, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806]),
        # the last 4 of 10 steps: 4/4, 3/4, 2/4, 1/4
        ("wsd", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_every_step_of_ten(schedule: str, expected: list[float]) -> None:
    found = rates(10, schedule=schedule, warmup_share=0.2, decay_share=0.4)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "last"),
    [("linear", 0.1 + 0.9 * 0.25), ("cosine", 0.1 + 0.9 * 0.1464466), ("wsd", 0.1 + 0.9 * 0.5), ("constant", 1.0)],
)
def test_final_share_lifts_the_end_and_leaves_the_peak(schedule: str, last: float) -> None:
    found = rates(4, schedule=schedule, decay_share=0.5, final_share=0.1)
    assert (found[0], found[-1]) == (1.0, pytest.approx(last))


@pytest.mark.parametrize("schedule", SHAPES)
def test_a_run_of_one_step_has_the_peak(schedule: str) -> None:
    assert rates(1, schedule=schedule) == [1.0]
    assert rates(1, schedule=schedule, warmup_share=1.0) == [1.0]


def test_a_warm_up_over_the_whole_run_ends_at_the_peak() -> None:
    assert rates(4, warmup_share=1.0, learning_rate=2.0) == [0.5, 1.0, 1.5, 2.0]


def test_without_decay_wsd_is_constant() -> None:
    assert rates(5, schedule="wsd", decay_share=0.0) == [1.0] * 5


def test_warm_up_steps_are_not_one_too_many_by_rounding() -> None:
    # 0.07 * 100 is 7.000000000000001 in floating point
    found = rates(100, schedule="constant", warmup_share=0.07)
    assert found[:8] == pytest.approx([step / 7 for step in range(1, 8)] + [1.0])
    assert found[5] < 1.0 == found[6]


@given(
    schedule=st.sampled_from(SHAPES),
    num_steps=st.integers(1, 60),
    shares=st.tuples(*[st.floats(0.0, 1.0)] * 3),
)
def test_no_rate_is_negative_or_above_the_peak_and_the_first_moves(
    schedule: str, num_steps: int, shares: tuple[float, float, float]
) -> None:
    warmup_share, decay_share, final_share = shares
    found = rates(
        num_steps, schedule=schedule, warmup_share=warmup_share, decay_share=decay_share, final_share=final_share
    )
    assert all(0.0 < rate <= 1.0 + 1e-12 for rate in found)
    assert found[0] >= 1.0 / num_steps - 1e-12
