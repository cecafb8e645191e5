"""Distillation losses against their formulas written out as loops, and what must hold for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from disranker.losses.distill import (
    adr_mse,
    cross_entropy,
    hybrid,
    kl_divergence,
    margin_mse,
    point_mse,
    score_differences,
    teacher_positions,
    weighted_kl,
)

Loss = Callable[..., Tensor]
Group = Sequence[tuple[float, float]]

VALUE = st.floats(-8, 8, width=32)
GROUPS = st.lists(st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=6), min_size=1, max_size=4)


def point_of(group: Group) -> float:
    return sum((score - teacher) ** 2 for score, teacher in group) / len(group)


def margin_of(group: Group) -> float:
    terms = [((si - sj) - (ti - tj)) ** 2 for (si, ti), (sj, tj) in combinations(group, 2)]
    return sum(terms) / len(terms) if terms else 0.0


def margin_against_first_of(group: Group) -> float:
    best = max(teacher for _, teacher in group)
    of_firsts = []
    for first, (score, teacher) in enumerate(group):
        others = [pair for at, pair in enumerate(group) if at != first]
        if teacher == best and others:
            of_firsts.append(np.mean([((score - s) - (teacher - t)) ** 2 for s, t in others]))
    return float(np.mean(of_firsts)) if of_firsts else 0.0


def differences_of(group: Group) -> float:
    errors = [abs((si - sj) - (ti - tj)) for (si, ti), (sj, tj) in combinations(group, 2)]
    return sum(e**2 / 2 if e < 1.0 else e - 0.5 for e in errors) / len(errors) if errors else 0.0


def hybrid_of(group: Group) -> float:
    return point_of(group) + margin_of(group)


def softmax(values: Sequence[float], temperature: float) -> np.ndarray:
    raised = np.exp(np.array(values, dtype=np.float64) / temperature - max(values) / temperature)
    return raised / raised.sum()


def kl_of(group: Group, temperature: float = 1.0) -> float:
    q, p = (softmax(column, temperature) for column in zip(*group, strict=True))
    return temperature**2 * float((p * np.log(p / q)).sum())


def cross_entropy_of(group: Group, temperature: float = 1.0) -> float:
    q, p = (softmax(column, temperature) for column in zip(*group, strict=True))
    return -(temperature**2) * float((p * np.log(q)).sum())


def positions_of(group: Group) -> list[float]:
    teacher = [t for _, t in group]
    return [1 + sum(t > mine for t in teacher) + (sum(t == mine for t in teacher) - 1) / 2 for mine in teacher]


def weighted_kl_of(group: Group, temperature: float = 1.0) -> float:
    q, p = (softmax(column, temperature) for column in zip(*group, strict=True))
    weights = 1 / np.log2(1 + np.array(positions_of(group)))
    return temperature**2 * float((weights * (p * np.log(p / q) - p + q)).sum())


def adr_of(group: Group, temperature: float = 1.0) -> float:
    total = 0.0
    for at, ((score, _), position) in enumerate(zip(group, positions_of(group), strict=True)):
        behind = [s for other, (s, _) in enumerate(group) if other != at]
        approximate = 1 + sum(1 / (1 + math.exp((score - s) / temperature)) for s in behind)
        total += (position - approximate) ** 2 / math.log2(1 + position)
    return total / len(group)


margin_against_first = partial(margin_mse, against="first")
LOSSES = [
    pytest.param(point_mse, point_of, id="point"),
    pytest.param(margin_mse, margin_of, id="margin"),
    pytest.param(margin_against_first, margin_against_first_of, id="margin-first"),
    pytest.param(hybrid, hybrid_of, id="hybrid"),
    pytest.param(kl_divergence, kl_of, id="kl"),
    pytest.param(partial(kl_divergence, temperature=3.0), partial(kl_of, temperature=3.0), id="kl-3"),
    pytest.param(cross_entropy, cross_entropy_of, id="ce"),
    pytest.param(partial(cross_entropy, temperature=0.7), partial(cross_entropy_of, temperature=0.7), id="ce-0.7"),
    pytest.param(weighted_kl, weighted_kl_of, id="weighted-kl"),
    pytest.param(partial(weighted_kl, temperature=2.0), partial(weighted_kl_of, temperature=2.0), id="weighted-kl-2"),
    pytest.param(adr_mse, adr_of, id="adr"),
    pytest.param(partial(adr_mse, temperature=0.5), partial(adr_of, temperature=0.5), id="adr-0.5"),
    pytest.param(score_differences, differences_of, id="score-differences"),
]
SQUARES = [LOSSES[at] for at in range(4)]
"""The losses that grow with the square of an error."""
EXACT = [loss for loss in LOSSES if not str(loss.id).startswith(("ce", "adr"))]
"""The losses that are zero at the teacher."""
COMPARING = [loss for loss in LOSSES if loss.id not in ("point", "hybrid")]
"""The losses that need a second document."""


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
@settings(max_examples=25, deadline=None)
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


@pytest.mark.parametrize(("loss", "_"), LOSSES)
@settings(max_examples=15, deadline=None)
@given(groups=GROUPS, fill=st.sampled_from([math.nan, 100.0, -100.0]))
def test_padding_changes_neither_value_nor_gradient(loss: Loss, _: object, fill: float, groups: list[Group]) -> None:
    bare, wide = tensors(groups), tensors(groups, width=9, fill=fill)
    values = [loss(*bare), loss(*wide)]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5, abs=1e-6)
    for value in values:
        value.backward()
    width = bare[0].shape[1]
    assert bare[0].grad is not None
    assert wide[0].grad is not None
    torch.testing.assert_close(wide[0].grad[:, :width], bare[0].grad)
    # Whatever stands in the masked places, NaN too, has not come through.
    assert torch.equal(wide[0].grad[~wide[2]], torch.zeros_like(wide[0].grad[~wide[2]]))


@pytest.mark.parametrize(("loss", "_"), LOSSES)
@settings(max_examples=15, deadline=None)
@given(groups=GROUPS, random=st.randoms(use_true_random=False))
def test_the_order_of_documents_and_queries_is_nothing(
    loss: Loss, _: object, groups: list[Group], random: object
) -> None:
    shuffled = [random.sample(group, len(group)) for group in groups]
    random.shuffle(shuffled)
    assert loss(*tensors(shuffled)).item() == pytest.approx(loss(*tensors(groups)).item(), rel=1e-4, abs=1e-5)


EXTREME = [[(1e4, -1e4), (-1e4, 1e4), (0.0, 0.0)], [(1e30, -1e30), (-1e30, 1e30)]]


@pytest.mark.parametrize(("loss", "_"), LOSSES)
def test_extreme_scores_stay_finite(loss: Loss, _: object) -> None:
    assert math.isfinite(loss(*tensors(EXTREME[:1])).item())
    assert gradient(loss, EXTREME[:1]).isfinite().all()


@pytest.mark.parametrize(("loss", "_"), SQUARES)
def test_squares_grow_with_the_square(loss: Loss, _: object) -> None:
    assert loss(*tensors(EXTREME[:1])).item() > 1e8


@pytest.mark.parametrize(("loss", "_"), [loss for loss in LOSSES if loss not in SQUARES])
def test_the_others_bear_any_score(loss: Loss, _: object) -> None:
    value = loss(*tensors(EXTREME)).item()
    assert math.isfinite(value) and value > 0.0
    assert gradient(loss, EXTREME).isfinite().all()


@pytest.mark.parametrize(("loss", "_"), LOSSES)
def test_the_gradient_goes_towards_the_teacher(loss: Loss, _: object) -> None:
    found = gradient(loss, [[(0.0, 1.0), (0.0, -1.0)]])
    assert found[0, 0] < 0 < found[0, 1]


def test_a_constant_on_a_whole_query_costs_points_but_no_margins() -> None:
    groups = [[(5.0, 0.0), (6.0, 1.0), (3.0, -2.0)]]
    for loss in (margin_mse, margin_against_first, score_differences, kl_divergence, weighted_kl):
        assert loss(*tensors(groups)).item() == pytest.approx(0.0, abs=1e-6)
        assert gradient(loss, groups).abs().max() < 1e-6
    assert point_mse(*tensors(groups)).item() == pytest.approx(25.0)


@pytest.mark.parametrize(("loss", "_"), EXACT)
def test_the_teacher_itself_has_no_loss_and_no_gradient(loss: Loss, _: object) -> None:
    groups = [[(5.0, 5.0), (6.0, 6.0)], [(1.0, 1.0)]]
    assert loss(*tensors(groups)).item() == 0.0
    assert gradient(loss, groups).abs().max() < 1e-6


@pytest.mark.parametrize(("loss", "_"), COMPARING)
def test_one_document_has_nothing_to_be_compared_with(loss: Loss, _: object) -> None:
    assert loss(*tensors([[(5.0, 1.0)]])).item() == 0.0
    assert gradient(loss, [[(5.0, 1.0)]]).tolist() == [[0.0]]
    # nor has one that is left of a group
    scores, teacher, mask = tensors([[(5.0, 1.0), (3.0, 2.0)]])
    mask[0, 1] = False
    value = loss(scores, teacher, mask)
    value.backward()
    assert value.item() == 0.0 and scores.grad is not None and scores.grad.tolist() == [[0.0, 0.0]]


def test_margins_against_the_first_do_not_ask_which_of_the_firsts_came_first() -> None:
    # Errors 1, 0, -2; the second and the third are the teacher's firsts: mean of (1 + 4)/2 and (9 + 4)/2.
    group = [[(1.0, 0.0), (2.0, 2.0), (0.0, 2.0)]]
    assert margin_against_first(*tensors(group)).item() == pytest.approx((2.5 + 6.5) / 2)
    # with one first, its two margins
    group = [[(1.0, 0.0), (2.0, 2.5), (0.0, 2.0)]]
    assert margin_against_first(*tensors(group)).item() == pytest.approx((1.5**2 + 1.5**2) / 2)


def test_an_outlier_pulls_no_more_than_one_deviation() -> None:
    for far in (1.0, 50.0):
        group = [[(0.0, far), (0.0, 0.0)]]
        assert score_differences(*tensors(group)).item() == far - 0.5
        assert gradient(score_differences, group).tolist() == [[-1.0, 1.0]]


def test_a_kl_by_hand() -> None:
    # p = 1/2, 1/2; q = 4/5, 1/5
    group = [[(math.log(4.0), 3.0), (0.0, 3.0)]]
    expected = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    assert kl_divergence(*tensors(group)).item() == pytest.approx(expected, rel=1e-6)
    assert cross_entropy(*tensors(group)).item() == pytest.approx(expected + math.log(2.0), rel=1e-6)
    # both at position 1.5: the weight is 1 / log2(2.5), and - p + q sums to nothing
    assert weighted_kl(*tensors(group)).item() == pytest.approx(expected / math.log2(2.5), rel=1e-5)


def test_the_size_of_the_kl_gradient_is_the_same_at_high_temperatures() -> None:
    # T² p_i - q_i tends to (centred error) / D
    group = [[(1.0, 0.0), (2.0, 2.0), (0.0, 2.0)]]
    errors = torch.tensor([1.0, 0.0, -2.0])
    for temperature in (30.0, 300.0):
        found = gradient(partial(kl_divergence, temperature=temperature), group)[0]
        torch.testing.assert_close(found, (errors - errors.mean()) / 3, rtol=0.05, atol=0.01)


def test_the_cross_entropy_pulls_like_the_kl() -> None:
    group = [[(1.0, 0.0), (2.0, 2.0), (0.0, 2.5)]]
    torch.testing.assert_close(gradient(cross_entropy, group), gradient(kl_divergence, group))


@settings(max_examples=40, deadline=None)
@given(groups=GROUPS)
def test_divergences_are_never_negative(groups: list[Group]) -> None:
    for loss in (kl_divergence, weighted_kl):
        assert loss(*tensors(groups)).item() >= -1e-5


def test_a_weighted_kl_forgives_the_tail() -> None:
    # The same exchange of shares between neighbours, at the top and at the bottom of the teacher's list.
    teacher = [0.3, 0.2, 0.1, 0.0]
    top = [[(s, t) for s, t in zip([0.2, 0.3, 0.1, 0.0], teacher, strict=True)]]
    tail = [[(s, t) for s, t in zip([0.3, 0.2, 0.0, 0.1], teacher, strict=True)]]
    ratio = [loss(*tensors(top)).item() / loss(*tensors(tail)).item() for loss in (weighted_kl, kl_divergence)]
    assert ratio[0] > 1.4 * ratio[1]


def test_adr_mse_by_hand() -> None:
    # Equal scores: both stand at 1.5 approximately; errors of half a place, weighed 1 and 1 / log2(3).
    group = [[(0.0, 2.0), (0.0, 1.0)]]
    assert adr_mse(*tensors(group)).item() == pytest.approx(0.25 * (1 + 1 / math.log2(3.0)) / 2, rel=1e-6)
    # Far apart in the teacher's order nothing is left, in the other one a whole place each.
    assert adr_mse(*tensors([[(30.0, 2.0), (-30.0, 1.0)]])).item() == pytest.approx(0.0, abs=1e-12)
    expected = (1 + 1 / math.log2(3.0)) / 2
    assert adr_mse(*tensors([[(-30.0, 2.0), (30.0, 1.0)]])).item() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(groups=GROUPS)
def test_adr_mse_reads_the_order_alone(groups: list[Group]) -> None:
    ordered = [
        [(score, -float(position)) for (score, _), position in zip(group, positions_of(group), strict=True)]
        for group in groups
    ]
    assert adr_mse(*tensors(ordered)).item() == pytest.approx(adr_mse(*tensors(groups)).item(), rel=1e-5, abs=1e-6)


def test_positions_by_the_teacher() -> None:
    teacher = torch.tensor([[2.0, 5.0, 2.0, 9.0], [1.0, math.nan, math.nan, math.nan]])
    mask = torch.tensor([[True, True, True, False], [False, False, False, False]])
    assert teacher_positions(teacher, mask).tolist() == [[2.5, 1.0, 2.5, 1.0], [1.0, 1.0, 1.0, 1.0]]


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
    assert value.item() == pytest.approx(of_group([(3.0, 1.0009765625), (2.984375, 0.0)]), rel=1e-5)
    value.backward()
    assert scores.grad is not None
