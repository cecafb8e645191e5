"""Ranking losses against their formulas written out as loops, and what must hold for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from disranker.losses.ranking import pairwise_hinge, ranknet

Loss = Callable[..., Tensor]
Groups = list[list[tuple[float, int]]]

SCORE = st.floats(-8, 8, width=32)
GROUPS = st.lists(st.lists(st.tuples(SCORE, st.integers(0, 3)), min_size=1, max_size=5), min_size=1, max_size=4)


def hinge_of(difference: float) -> float:
    return max(0.0, 1.0 - difference)


def ranknet_of(difference: float) -> float:
    return math.log1p(math.exp(-difference))


LOSSES = [pytest.param(pairwise_hinge, hinge_of, id="hinge"), pytest.param(ranknet, ranknet_of, id="ranknet")]


def written_out(groups: Groups, of_difference: Callable[[float], float]) -> float:
    total = 0.0
    for group in groups:
        terms = [of_difference(si - sj) for si, li in group for sj, lj in group if li > lj]
        total += sum(terms) / len(terms) if terms else 0.0
    return total / len(groups)


def tensors(
    groups: Sequence[Sequence[tuple[float, float]]], *, width: int = 0, fill: float = math.nan
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores that want a gradient, targets and mask, [Q, D] each, filled up with `fill`."""
    width = max(width, *(len(group) for group in groups))
    scores, targets = torch.full((2, len(groups), width), fill)
    mask = torch.zeros(len(groups), width, dtype=torch.bool)
    for query, group in enumerate(groups):
        for at, (score, target) in enumerate(group):
            scores[query, at], targets[query, at], mask[query, at] = score, target, True
    return scores.requires_grad_(), targets, mask


def gradient(loss: Loss, groups: Groups, **options: object) -> Tensor:
    scores, labels, mask = tensors(groups)
    loss(scores, labels, mask, **options).backward()
    assert scores.grad is not None
    return scores.grad


@pytest.mark.parametrize(("loss", "of_difference"), LOSSES)
@settings(max_examples=40, deadline=None)
@given(groups=GROUPS)
def test_the_formula_written_out(loss: Loss, of_difference: Callable[[float], float], groups: Groups) -> None:
    value = loss(*tensors(groups))
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert value.item() == pytest.approx(written_out(groups, of_difference), rel=1e-5, abs=1e-6)
    # reduction="sum" is the mean times the number of queries.
    assert loss(*tensors(groups), reduction="sum").item() == pytest.approx(value.item() * len(groups), rel=1e-5)


def test_values_by_hand() -> None:
    # Pairs (0 over 1) and (0 over 2), (2 over 1): differences 0.5, 2.5, -2.
    group = [[(1.0, 2), (0.5, 0), (-1.5, 1)]]
    assert pairwise_hinge(*tensors(group)).item() == pytest.approx((0.5 + 0.0 + 3.0) / 3)
    assert pairwise_hinge(*tensors(group), margin=3.0).item() == pytest.approx((2.5 + 0.5 + 5.0) / 3)
    assert ranknet(*tensors([[(0.0, 1), (0.0, 0)]])).item() == pytest.approx(math.log(2.0))


@pytest.mark.parametrize("fill", [math.nan, 100.0, -100.0])
@pytest.mark.parametrize(("loss", "_"), LOSSES)
@settings(max_examples=20, deadline=None)
@given(groups=GROUPS)
def test_padding_changes_neither_value_nor_gradient(loss: Loss, _: object, fill: float, groups: Groups) -> None:
    bare, wide = tensors(groups), tensors(groups, width=9, fill=fill)
    values = [loss(*bare), loss(*wide)]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-6)
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
def test_the_order_of_documents_and_queries_is_nothing(loss: Loss, _: object, groups: Groups, random: object) -> None:
    shuffled = [random.sample(group, len(group)) for group in groups]
    random.shuffle(shuffled)
    assert loss(*tensors(shuffled)).item() == pytest.approx(loss(*tensors(groups)).item(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("loss", "_"), LOSSES)
def test_extreme_scores_stay_finite(loss: Loss, _: object) -> None:
    for high, low in [(1e4, -1e4), (-1e4, 1e4)]:
        groups: Groups = [[(high, 1), (low, 0), (0.0, 0)]]
        value = loss(*tensors(groups)).item()
        assert math.isfinite(value)
        assert (value > 1e3) == (high < low)
        assert gradient(loss, groups).isfinite().all()


@pytest.mark.parametrize(("loss", "_"), LOSSES)
def test_the_gradient_lifts_the_better_document(loss: Loss, _: object) -> None:
    found = gradient(loss, [[(0.0, 0), (0.0, 2), (0.0, 0)]])
    assert found[0, 1] < 0 < found[0, 0]
    assert found[0, 0] == found[0, 2]
    assert found.sum().item() == pytest.approx(0.0, abs=1e-7)


def test_hinge_stops_pulling_at_the_margin_and_ranknet_does_not() -> None:
    apart: Groups = [[(2.0, 1), (0.0, 0)]]
    assert gradient(pairwise_hinge, apart).tolist() == [[0.0, 0.0]]
    assert gradient(ranknet, apart)[0, 0] < 0


@pytest.mark.parametrize(("loss", "_"), LOSSES)
@pytest.mark.parametrize("groups", [[[(1.0, 1), (2.0, 1)]], [[(1.0, 3)]]], ids=["equal labels", "one document"])
def test_a_query_without_a_pair_is_zero_with_a_zero_gradient(loss: Loss, _: object, groups: Groups) -> None:
    scores, labels, mask = tensors(groups)
    value = loss(scores, labels, mask)
    value.backward()
    assert value.item() == 0.0
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0.0] * len(groups[0])]


@pytest.mark.parametrize(("loss", "_"), LOSSES)
def test_all_masked_is_zero_with_a_zero_gradient(loss: Loss, _: object) -> None:
    scores = torch.full((2, 3), math.nan, requires_grad=True)
    value = loss(scores, torch.full((2, 3), math.nan), torch.zeros(2, 3, dtype=torch.bool))
    value.backward()
    assert value.item() == 0.0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(2, 3))


@pytest.mark.parametrize(("loss", "_"), LOSSES)
def test_a_query_weighs_the_same_with_few_documents_or_many(loss: Loss, _: object) -> None:
    few: Groups = [[(0.0, 1), (1.0, 0)]]
    many: Groups = [[(0.0, 1)] * 3 + [(1.0, 0)] * 5]
    assert loss(*tensors(few)).item() == pytest.approx(loss(*tensors(many)).item())
    assert gradient(loss, few + many)[0].abs().sum().item() == pytest.approx(
        gradient(loss, few + many)[1].abs().sum().item()
    )


@pytest.mark.parametrize(("loss", "of_difference"), LOSSES)
def test_bfloat16_scores_are_compared_in_float32(loss: Loss, of_difference: Callable[[float], float]) -> None:
    scores = torch.tensor([[3.0, 2.984375]], dtype=torch.bfloat16, requires_grad=True)
    value = loss(scores, torch.tensor([[1, 0]]), torch.ones(1, 2, dtype=torch.bool))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(of_difference(3.0 - 2.984375), rel=1e-6)
    value.backward()
    assert scores.grad is not None
