"""Losses of inner states against their formulas written out as loops, and what must hold for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from disranker.losses.states import (
    hidden_mse,
    pooled_cosine,
    pooled_mse,
    relation_divergence,
    rkd_angle,
    rkd_distance,
    score_consistency,
)

Array = np.ndarray[Any, Any]
Group = tuple[Array, Array]
"""Student's and teacher's [documents, width] of one query; [documents] for scores."""
Loss = Callable[..., Tensor]
OfGroup = Callable[[Array, Array], float]


def huber(left: float, right: float) -> float:
    error = abs(left - right)
    return error**2 / 2 if error < 1.0 else error - 0.5


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def mse_of(student: Array, teacher: Array) -> float:
    return float(((student - teacher) ** 2).mean())


def cosine_of(student: Array, teacher: Array) -> float:
    return mean([1 - s @ t / np.linalg.norm(s) / np.linalg.norm(t) for s, t in zip(student, teacher, strict=True)])


def distance_of(student: Array, teacher: Array) -> float:
    pairs = list(combinations(range(len(student)), 2))
    if len(student) < 3:
        return 0.0
    ours, theirs = ([float(np.linalg.norm(one[i] - one[j])) for i, j in pairs] for one in (student, teacher))
    return mean([huber(s / mean(ours), t / mean(theirs)) for s, t in zip(ours, theirs, strict=True)])


def angle_of(student: Array, teacher: Array) -> float:
    def cosine(states: Array, i: int, j: int, k: int) -> float:
        left, right = states[i] - states[j], states[k] - states[j]
        return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))

    triplets = permutations(range(len(student)), 3)
    return mean([huber(cosine(student, *ijk), cosine(teacher, *ijk)) for ijk in triplets])


# (loss, the loss of one query as a loop, whether it reads states or scores)
LOSSES = [
    pytest.param(pooled_mse, mse_of, True, id="pooled-mse"),
    pytest.param(pooled_cosine, cosine_of, True, id="pooled-cosine"),
    pytest.param(rkd_distance, distance_of, True, id="rkd-distance"),
    pytest.param(rkd_angle, angle_of, True, id="rkd-angle"),
    pytest.param(score_consistency, mse_of, False, id="score-consistency"),
]
every_loss = pytest.mark.parametrize(("loss", "of_group", "is_wide"), LOSSES)
sizes = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def groups_of(sizes: Sequence[int], *, is_wide: bool, seed: int = 0, scale: float = 2.0) -> list[Group]:
    random = np.random.default_rng(seed)
    shapes = [(size, 5) if is_wide else (size,) for size in sizes]
    return [(scale * random.normal(size=shape), scale * random.normal(size=shape)) for shape in shapes]


def tensors(groups: Sequence[Group], *, width: int = 0, fill: float = math.nan) -> tuple[Tensor, Tensor, Tensor]:
    """The student's, which want a gradient, the teacher's and the mask, filled up with `fill`."""
    width = max(width, *(len(student) for student, _ in groups))
    shape = (len(groups), width, *groups[0][0].shape[1:])
    student, teacher = torch.full((2, *shape), fill)
    mask = torch.zeros(shape[:2], dtype=torch.bool)
    for query, group in enumerate(groups):
        size = len(group[0])
        student[query, :size], teacher[query, :size] = (torch.from_numpy(part) for part in group)
        mask[query, :size] = True
    return student.requires_grad_(), teacher, mask


def gradient(loss: Loss, groups: Sequence[Group], **options: Any) -> Tensor:
    student, teacher, mask = tensors(groups, **options)
    loss(student, teacher, mask).backward()
    assert student.grad is not None
    return student.grad


@every_loss
@settings(max_examples=15, deadline=None)
@given(sizes=sizes, seed=st.integers(0, 1000))
def test_the_formula_written_out(loss: Loss, of_group: OfGroup, is_wide: bool, sizes: list[int], seed: int) -> None:
    groups = groups_of(sizes, is_wide=is_wide, seed=seed)
    value = loss(*tensors(groups))
    assert value.dtype == torch.float32 and value.shape == ()
    assert value.item() == pytest.approx(mean([of_group(*group) for group in groups]), rel=1e-4, abs=1e-5)
    assert loss(*tensors(groups), reduction="sum").item() == pytest.approx(value.item() * len(groups), rel=1e-5)


@every_loss
@pytest.mark.parametrize("fill", [math.nan, 100.0, math.inf])
def test_padding_changes_neither_value_nor_gradient(loss: Loss, of_group: OfGroup, is_wide: bool, fill: float) -> None:
    groups = groups_of([4, 1, 3, 2], is_wide=is_wide)
    bare, wide = tensors(groups), tensors(groups, width=7, fill=fill)
    assert loss(*wide).item() == pytest.approx(loss(*bare).item(), rel=1e-5, abs=1e-6)
    ours, theirs = gradient(loss, groups, width=7, fill=fill), gradient(loss, groups)
    torch.testing.assert_close(ours[:, :4], theirs, rtol=1e-5, atol=1e-7)
    assert torch.equal(ours[~wide[2]], torch.zeros_like(ours[~wide[2]]))
    assert theirs.abs().max() > 1e-3


@every_loss
def test_the_order_of_documents_and_queries_is_nothing(loss: Loss, of_group: OfGroup, is_wide: bool) -> None:
    groups = groups_of([5, 3, 4], is_wide=is_wide)
    turned = [(student[::-1].copy(), teacher[::-1].copy()) for student, teacher in groups[::-1]]
    assert loss(*tensors(turned)).item() == pytest.approx(loss(*tensors(groups)).item(), rel=1e-5)


@every_loss
def test_the_teacher_itself_has_no_loss_and_no_gradient(loss: Loss, of_group: OfGroup, is_wide: bool) -> None:
    groups = [(teacher, teacher) for _, teacher in groups_of([4, 1, 2], is_wide=is_wide)]
    assert loss(*tensors(groups)).item() == pytest.approx(0.0, abs=1e-6)
    found = gradient(loss, groups)
    assert found[tensors(groups)[2]].abs().max() < 1e-6


@every_loss
def test_steps_against_the_gradient_come_nearer_to_the_teacher(loss: Loss, of_group: OfGroup, is_wide: bool) -> None:
    student, teacher, mask = tensors(groups_of([4, 5], is_wide=is_wide), fill=0.0)
    before = loss(student, teacher, mask)
    (found,) = torch.autograd.grad(before, student)
    after = loss(student - 0.1 * found, teacher, mask)
    assert after.item() < before.item()


@every_loss
@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_extremes_stay_finite(loss: Loss, of_group: OfGroup, is_wide: bool, scale: float) -> None:
    groups = groups_of([4, 3], is_wide=is_wide, scale=scale)
    # a document that lies on another, and one at the origin
    for student, teacher in groups:
        student[1], teacher[2], student[2] = student[0], teacher[0], 0.0
    assert math.isfinite(loss(*tensors(groups)).item())
    assert gradient(loss, groups).isfinite().all()


@every_loss
def test_all_masked_is_zero_with_a_zero_gradient(loss: Loss, of_group: OfGroup, is_wide: bool) -> None:
    shape = (2, 3, 5) if is_wide else (2, 3)
    student = torch.full(shape, math.nan, requires_grad=True)
    value = loss(student, torch.full(shape, math.nan), torch.zeros(2, 3, dtype=torch.bool))
    value.backward()
    assert value.item() == 0.0
    assert student.grad is not None and torch.equal(student.grad, torch.zeros(shape))


@every_loss
def test_bfloat16_is_compared_in_float32(loss: Loss, of_group: OfGroup, is_wide: bool) -> None:
    student, teacher, mask = tensors(groups_of([4], is_wide=is_wide))
    low = student.detach().bfloat16()
    value = loss(low, teacher.half(), mask)
    assert value.dtype == torch.float32
    assert value.item() == loss(low.float(), teacher.half().float(), mask).item()


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle])
def test_groups_too_small_for_a_relation_are_zero_with_a_zero_gradient(loss: Loss) -> None:
    small = groups_of([1, 2], is_wide=True)
    assert loss(*tensors(small)).item() == 0.0
    assert torch.equal(gradient(loss, small, fill=0.0), torch.zeros_like(tensors(small)[0]))
    assert loss(*tensors(groups_of([3], is_wide=True))).item() > 1e-3


def test_relations_by_hand() -> None:
    # Distances 3, 4, 5 around their mean 4, against 1, 1, 2 around 4/3.
    student, teacher = np.array([[0.0, 0], [3, 0], [0, 4]]), np.array([[0.0], [1], [-1]])
    ours, theirs = torch.tensor(student)[None], torch.tensor(teacher)[None]
    mask = torch.ones(1, 3, dtype=torch.bool)
    expected = ((3 / 4 - 3 / 4) ** 2 + (4 / 4 - 3 / 4) ** 2 + (5 / 4 - 6 / 4) ** 2) / 2 / 3
    assert rkd_distance(ours, theirs, mask).item() == pytest.approx(expected)
    # Angles with cosines 0, 3/5, 4/5 against those of a line: -1, 1, 1; each stands for two triplets.
    expected = (0.5 * 1.0 + 0.5 * 0.4**2 + 0.5 * 0.2**2) / 3
    assert rkd_angle(ours, theirs, mask).item() == pytest.approx(expected)


def test_relations_see_neither_scale_nor_place_nor_direction_nor_width() -> None:
    random = np.random.default_rng(0)
    teacher = random.normal(size=(5, 4))
    turn, _ = np.linalg.qr(random.normal(size=(7, 4)))
    student = 3.0 * teacher @ turn.T + random.normal(size=7)
    ours, theirs = torch.from_numpy(student)[None], torch.from_numpy(teacher)[None]
    mask = torch.ones(1, 5, dtype=torch.bool)
    for loss in (rkd_distance, rkd_angle):
        assert loss(ours, theirs, mask).item() == pytest.approx(0.0, abs=1e-9)


def test_where_all_states_are_equal_there_is_nothing_to_take_over() -> None:
    same, mask = torch.ones(1, 4, 3, requires_grad=True), torch.ones(1, 4, dtype=torch.bool)
    for loss in (rkd_distance, rkd_angle):
        value = loss(same, torch.full((1, 4, 2), 7.0), mask)
        assert value.item() == 0.0
        assert torch.equal(torch.autograd.grad(value, same)[0], torch.zeros_like(same))


# --- the tokens of a row ---

RUNS = ((2, 3), (1, 4), (3, 6))
NUM_TOKENS = 28


def row_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(NUM_TOKENS, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def texts_of(row: Tensor) -> list[Array]:
    lengths = [length for count, length in RUNS for _ in range(count)]
    return [part.detach().numpy() for part in row.split(lengths)]


def test_hidden_states_by_sequence() -> None:
    ours, theirs = row_of(5).requires_grad_(), row_of(5, seed=1)
    found = hidden_mse(ours, theirs, RUNS)
    expected = [((left - right) ** 2).mean() for left, right in zip(texts_of(ours), texts_of(theirs), strict=True)]
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    found.sum().backward()
    assert ours.grad is not None and (ours.grad.abs().amax(dim=1) > 0).all()


def relation(states: Array, heads: int) -> Array:
    """[heads, L, L] relations of one sequence's [L, A, W], the heads cut anew."""
    flat = states.reshape(len(states), -1)
    width = flat.shape[1] // heads
    parts = [flat[:, head * width : (head + 1) * width] for head in range(heads)]
    logits = np.stack([part @ part.T / math.sqrt(width) for part in parts])
    return np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_attention_relations_by_sequence(heads: int) -> None:
    # 2 heads of width 4 against 4 heads of width 6: only the product must be a multiple of the relation heads
    ours, theirs = row_of(2, 4).requires_grad_(), row_of(4, 6, seed=1)
    found = relation_divergence(ours, theirs, RUNS, relation_heads=heads)
    expected = []
    for mine, its in zip(texts_of(ours), texts_of(theirs), strict=True):
        left, right = relation(mine, heads), relation(its, heads)
        expected.append((right * np.log(right / left)).sum(axis=2).mean())
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0.01
    found.sum().backward()
    assert ours.grad is not None and (ours.grad.abs().amax(dim=(1, 2)) > 0).all()


def test_relations_of_equal_states_are_equal_and_extremes_stay_finite() -> None:
    states = row_of(2, 4)
    assert relation_divergence(states, states, RUNS, relation_heads=2).abs().max() < 1e-6
    far = (1e4 * row_of(2, 4)).requires_grad_()
    value = relation_divergence(far, -states, RUNS, relation_heads=2)
    value.sum().backward()
    assert value.isfinite().all() and far.grad is not None and far.grad.isfinite().all()


def test_a_sequence_of_one_token_relates_to_itself_alone() -> None:
    states = row_of(2, 4)[:2]
    assert relation_divergence(states, 3 * states, ((2, 1),), relation_heads=2).tolist() == [0.0, 0.0]
