"""Distillation losses against their formulas written out as loops, and what must hold for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from disranker.losses.distill import hybrid, margin_mse, point_mse

Loss = Callable[..., Tensor]
Group = Sequence[tuple[float, float]]

VALUE = st.floats(-8, 8, width=32)
GROUPS = st.lists(st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=6), min_size=1, max_size=4)


def point_of(group: Group) -> float:
    return sum((score - teacher) ** 2 for score, teacher in group) / len(group)


def margin_of(group: Group) -> float:
    terms = [((si - sj) - (ti - tj)) ** 2 for (si, ti), (sj, tj) in combinations(group, 2)]
    return sum(terms) / len(terms) if terms else 0.0


def hybrid_of(group: Group) -> float:
    return point_of(group) + margin_of(group)


LOSSES = [
    pytest.param(point_mse, point_of, id="point"),
    pytest.param(margin_mse, margin_of, id="margin"),
    pytest.param(hybrid, hybrid_of, id="hybrid"),
]


def tensors(groups: Sequence[Group], *, width: int = 0, fill: float = math.nan) -> tuple[Tensor, Tensor, Tensor]:
    """Scores that want a gradient, teacher scores and mask, [Q, D] each, filled up with `fill`."""
    width = max(width, *(len(group) for group in groups))
    scores, teacher = torch.full((2, len(groups), width), fill)
    mask = torch.zeros(len(groups), width, dtype=torch.bool)
    for query, group in enumerate(groups):
        for at, pair in enumerate(group):
            scores[query, at], teacher[query, at] = pair
            mask[query, at] = True
    return scores.requires_grad_(), teacher, mask


def gradient(loss: Loss, groups: Sequence[Group], **options: object) -> Tensor:
    scores, teacher, mask = tensors(groups)
    loss(scores, teacher, mask, **options).backward()
    assert scores.grad is not None
    return scores.grad


@pytest.mark.parametrize(("loss", "of_group"), LOSSES)
@settings(max_examples=40, deadline=None)
@given(groups=GROUPS)
def test_the_formula_written_out(loss: Loss, of_group: Callable[[Group], float], groups: list[Group]) -> None:
    value = loss(*tensors(groups))
    expected = sum(map(of_group, groups)) / len(groups)
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert loss(*tensors(groups), reduction="sum").item() == pytest.approx(value.item() * len(groups), rel=1e-5)


def test_values_by_hand() -> None:
    # Errors 1, 0, -2: squares 1, 0, 4; differences of errors 1, 3, 2.
    group = [[(1.0, 0.0), (2.0, 2.0), (0.0, 2.0)]]
    assert point_mse(*tensors(group)).item() == pytest.approx(5 / 3)
    assert margin_mse(*tensors(group)).item() == pytest.approx((1 + 9 + 4) / 3)
    assert hybrid(*tensors(group), point_weight=0.5, margin_weight=2.0).item() == pytest.approx(2.5 / 3 + 28 / 3)


def test_margins_do_not_cancel_where_the_error_is_large_and_the_same() -> None:
    # Teacher and student apart by 1000 on the whole query, and by 0.01 more on one document.
    group = [[(1000.0, 0.0), (1001.0, 1.0), (1002.01, 2.0)]]
    expected = 2 * 0.01**2 / 3
    # float32 holds 1002.01 to 3e-5; D Σe² - (Σe)² would lose all of it, with terms of 1e7.
    assert margin_mse(*tensors(group)).item() == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize("fill", [math.nan, 100.0, -100.0])
@pytest.mark.parametrize(("loss", "_"), LOSSES)
@settings(max_examples=20, deadline=None)
@given(groups=GROUPS)
def test_padding_changes_neither_value_nor_gradient(loss: Loss, _: object, fill: float, groups: list[Group]) -> None:
    bare, wide = tensors(groups), tensors(groups, width=9, fill=fill)
    values = [loss(*bare), loss(*wide)]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-6, abs=1e-9)
    for value in values:
        value.backward()
    width = bare[0].shape[1]
    assert bare[0].grad is not None
    assert wide[0].grad is not None
    torch.testing.assert_close(wide[0].grad[:, :width], bare[0].grad)
    # Whatever stands in the masked places, NaN too, has not come through.
    assert torch.equal(wide[0].grad[~wide[2]], torch.zeros_like(wide[0].grad[~wide[2]]))


@pytest.mark.parametrize(("loss", "_"), LOSSES)
@settings(max_examples=20, deadline=None)
@given(groups=GROUPS, random=st.randoms(use_true_random=False))
def test_the_order_of_documents_and_queries_is_nothing(
    loss: Loss, _: object, groups: list[Group], random: object
) -> None:
    shuffled = [random.sample(group, len(group)) for group in groups]
    random.shuffle(shuffled)
    assert loss(*tensors(shuffled)).item() == pytest.approx(loss(*tensors(groups)).item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("loss", "_"), LOSSES)
def test_extreme_scores_stay_finite(loss: Loss, _: object) -> None:
    groups = [[(1e4, -1e4), (-1e4, 1e4), (0.0, 0.0)]]
    value = loss(*tensors(groups)).item()
    assert math.isfinite(value)
    assert value > 1e8
    assert gradient(loss, groups).isfinite().all()


@pytest.mark.parametrize(("loss", "_"), LOSSES)
def test_the_gradient_goes_towards_the_teacher(loss: Loss, _: object) -> None:
    found = gradient(loss, [[(0.0, 1.0), (0.0, -1.0)]])
    assert found[0, 0] < 0 < found[0, 1]


def test_a_constant_on_a_whole_query_costs_points_but_no_margins() -> None:
    groups = [[(5.0, 0.0), (6.0, 1.0), (3.0, -2.0)]]
    assert margin_mse(*tensors(groups)).item() == 0.0
    assert gradient(margin_mse, groups).abs().max() == 0.0
    assert point_mse(*tensors(groups)).item() == pytest.approx(25.0)


@pytest.mark.parametrize(("loss", "_"), LOSSES)
def test_the_teacher_itself_has_no_loss_and_no_gradient(loss: Loss, _: object) -> None:
    groups = [[(5.0, 5.0), (6.0, 6.0)], [(1.0, 1.0)]]
    assert loss(*tensors(groups)).item() == 0.0
    assert gradient(loss, groups)[tensors(groups)[2]].tolist() == [0.0] * 3


def test_one_document_has_no_margin() -> None:
    assert margin_mse(*tensors([[(5.0, 1.0)]])).item() == 0.0
    assert gradient(margin_mse, [[(5.0, 1.0)]]).tolist() == [[0.0]]


@pytest.mark.parametrize(("loss", "_"), LOSSES)
def test_all_masked_is_zero_with_a_zero_gradient(loss: Loss, _: object) -> None:
    scores = torch.full((2, 3), math.nan, requires_grad=True)
    value = loss(scores, torch.full((2, 3), math.nan), torch.zeros(2, 3, dtype=torch.bool))
    value.backward()
    assert value.item() == 0.0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(2, 3))


@pytest.mark.parametrize(("loss", "of_group"), LOSSES)
def test_bfloat16_scores_are_compared_in_float32(loss: Loss, of_group: Callable[[Group], float]) -> None:
    scores = torch.tensor([[3.0, 2.984375]], dtype=torch.bfloat16, requires_grad=True)
    value = loss(scores, torch.tensor([[1.0009765625, 0.0]]), torch.ones(1, 2, dtype=torch.bool))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(of_group([(3.0, 1.0009765625), (2.984375, 0.0)]), rel=1e-6)
    value.backward()
    assert scores.grad is not None
