"""Ranking losses against their formulas written out as loops, and what must hold for all of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from disranker.config.losses import LossTerm
from disranker.losses.ranking import (
    approx_ndcg,
    gap_hinge,
    has_pairs,
    lambda_loss,
    listwise_softmax,
    ordinal,
    pairwise_hinge,
    pointwise_bce,
    pointwise_mse,
    ranknet,
)

Loss = Callable[..., Tensor]
Group = list[tuple[float, int]]
Groups = list[Group]
Scores = NDArray[np.float64]
OfQuery = Callable[[Scores, Scores], float]
"""(scores, labels) of one query -> its loss, written out."""

# --- the formulas, for one query --------------------------------------------------------------------------------------


def preferred(labels: Scores) -> list[tuple[int, int]]:
    return [(i, j) for i in range(len(labels)) for j in range(len(labels)) if labels[i] > labels[j]]


def hinge_of(scores: Scores, labels: Scores) -> float:
    return mean([max(0.0, 1.0 - (scores[i] - scores[j])) for i, j in preferred(labels)])


def gap_hinge_of(scores: Scores, labels: Scores) -> float:
    gaps = [labels[i] - labels[j] for i, j in preferred(labels)]
    terms = [max(0.0, 1.5 - (scores[i] - scores[j])) for i, j in preferred(labels)]
    return float(np.average(terms, weights=gaps)) if terms else 0.0


def ranknet_of(scores: Scores, labels: Scores) -> float:
    return mean([math.log1p(math.exp(-(scores[i] - scores[j]))) for i, j in preferred(labels)])


def bce_of(scores: Scores, labels: Scores) -> float:
    probs = 1.0 / (1.0 + np.exp(-scores))
    targets = labels / 3
    return float(-(targets * np.log(probs) + (1 - targets) * np.log(1 - probs)).mean())


def mse_of(scores: Scores, labels: Scores) -> float:
    return float(((scores - labels) ** 2).mean())


def ordinal_of(scores: Scores, labels: Scores) -> float:
    total = 0.0
    for score, label in zip(scores, labels, strict=True):
        for step, threshold in [(1, -1.0), (2, 0.0), (3, 1.0)]:
            prob = 1.0 / (1.0 + math.exp(-(score - threshold)))
            total -= math.log(prob if label >= step else 1.0 - prob)
    return total / len(scores)


def softmax_of(scores: Scores, labels: Scores) -> float:
    gains = 2.0**labels - 1.0
    if not preferred(labels):
        return 0.0
    return float(-(gains / gains.sum() * np.log(np.exp(scores) / np.exp(scores).sum())).sum())


def lambda_of(scores: Scores, labels: Scores, *, k: int | None, mu: float) -> float:
    if not preferred(labels):
        return 0.0
    k = len(scores) if k is None else k
    gains = 2.0**labels - 1.0
    ideal = sum(gain / math.log2(1 + p) for p, gain in enumerate(sorted(gains, reverse=True)[:k], start=1))
    # The worst order of equal scores; equal labels among them share their mean position.
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], labels[i]))
    position = {
        i: float(np.mean([p for p, j in enumerate(order, start=1) if (scores[j], labels[j]) == (scores[i], labels[i])]))
        for i in order
    }

    def discount(at: float) -> float:
        return 1.0 / math.log2(1 + at) if at <= k else 0.0

    total = 0.0
    for i, j in preferred(labels):
        if min(position[i], position[j]) > k:
            continue
        apart = abs(position[i] - position[j])
        step = 1.0 / math.log2(1 + apart) - 1.0 / math.log2(2 + apart)
        weight = abs(discount(position[i]) - discount(position[j])) + mu * step
        total += (gains[i] - gains[j]) / ideal * weight * math.log2(1 + math.exp(-(scores[i] - scores[j])))
    return total


def approx_of(scores: Scores, labels: Scores) -> float:
    if not preferred(labels):
        return 0.0
    gains = 2.0**labels - 1.0
    dcg = 0.0
    for i in range(len(scores)):
        ahead = [1.0 / (1.0 + math.exp((scores[i] - scores[j]) / 0.5)) for j in range(len(scores)) if j != i]
        dcg += gains[i] / math.log2(2 + sum(ahead))
    return 1.0 - dcg / sum(gain / math.log2(1 + p) for p, gain in enumerate(sorted(gains, reverse=True), start=1))


def mean(terms: list[float]) -> float:
    return sum(terms) / len(terms) if terms else 0.0


CASES: dict[str, tuple[Loss, OfQuery]] = {
    "hinge": (pairwise_hinge, hinge_of),
    "gap-hinge": (partial(gap_hinge, margin=1.5), gap_hinge_of),
    "ranknet": (ranknet, ranknet_of),
    "bce": (partial(pointwise_bce, max_label=3), bce_of),
    "mse": (pointwise_mse, mse_of),
    "ordinal": (partial(ordinal, max_label=3), ordinal_of),
    "softmax": (listwise_softmax, softmax_of),
    "lambda": (lambda_loss, partial(lambda_of, k=None, mu=10.0)),
    "lambda@2": (partial(lambda_loss, k=2), partial(lambda_of, k=2, mu=10.0)),
    "lambdarank@2": (partial(lambda_loss, k=2, mu=0.0), partial(lambda_of, k=2, mu=0.0)),
    "approx-ndcg": (partial(approx_ndcg, temperature=0.5), approx_of),
}
POINTWISE = ("bce", "mse", "ordinal")
EVERY = pytest.mark.parametrize("name", CASES)
OF_ORDER = pytest.mark.parametrize("name", [name for name in CASES if name not in POINTWISE])

SCORE = st.floats(-8, 8, width=32)
GROUPS = st.lists(st.lists(st.tuples(SCORE, st.integers(0, 3)), min_size=1, max_size=5), min_size=1, max_size=4)
TIED: Groups = [[(1.0, 0), (1.0, 2), (1.0, 2), (0.5, 3), (1.0, 1)], [(0.0, 1), (0.0, 0), (0.0, 0)]]


def written_out(groups: Groups, of_query: OfQuery) -> float:
    return mean([of_query(*np.array(group, dtype=np.float64).T) for group in groups])


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


def gradient(loss: Loss, groups: Groups) -> Tensor:
    scores, labels, mask = tensors(groups)
    loss(scores, labels, mask).backward()
    assert scores.grad is not None
    return scores.grad


# --- values -----------------------------------------------------------------------------------------------------------


@EVERY
@settings(max_examples=20, deadline=None)
@given(groups=GROUPS)
@example(groups=TIED)
def test_the_formula_written_out(name: str, groups: Groups) -> None:
    loss, of_query = CASES[name]
    value = loss(*tensors(groups))
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert value.item() == pytest.approx(written_out(groups, of_query), rel=1e-4, abs=2e-6)
    # reduction="sum" is the mean times the number of queries.
    assert loss(*tensors(groups), reduction="sum").item() == pytest.approx(value.item() * len(groups), rel=1e-5)


def test_values_by_hand() -> None:
    # Pairs (0 over 1) and (0 over 2), (2 over 1): differences 0.5, 2.5, -2; gaps 2, 1, 1.
    group = [[(1.0, 2), (0.5, 0), (-1.5, 1)]]
    assert pairwise_hinge(*tensors(group)).item() == pytest.approx((0.5 + 0.0 + 3.0) / 3)
    assert pairwise_hinge(*tensors(group), margin=3.0).item() == pytest.approx((2.5 + 0.5 + 5.0) / 3)
    assert gap_hinge(*tensors(group)).item() == pytest.approx((2 * 0.5 + 0.0 + 3.0) / 4)
    assert ranknet(*tensors([[(0.0, 1), (0.0, 0)]])).item() == pytest.approx(math.log(2.0))
    assert pointwise_bce(*tensors([[(0.0, 1)]]), max_label=4).item() == pytest.approx(math.log(2.0))
    assert pointwise_mse(*tensors(group)).item() == pytest.approx((1.0 + 0.25 + 6.25) / 3)
    # thresholds -0.5 and 0.5
    at_half = math.log1p(math.exp(-1.0)) + math.log(2.0)
    assert ordinal(*tensors([[(0.5, 1)]]), max_label=2).item() == pytest.approx(at_half)
    # gains 1 and 3: shares 1/4 and 3/4 of log 2
    assert listwise_softmax(*tensors([[(0.0, 1), (0.0, 2)]])).item() == pytest.approx(math.log(2.0))
    # one pair in the wrong order, ideal DCG 1: swap 1 - 1/log2(3), step the same, log2(1 + e) of difference -1
    swap = 1.0 - 1.0 / math.log2(3.0)
    wrong = tensors([[(0.0, 1), (1.0, 0)]])
    assert lambda_loss(*wrong, mu=0.0).item() == pytest.approx(swap * math.log2(1 + math.e))
    assert lambda_loss(*wrong).item() == pytest.approx(11 * swap * math.log2(1 + math.e))
    # both at position 1.5
    level = tensors([[(0.0, 1), (0.0, 0)]])
    assert approx_ndcg(*level).item() == pytest.approx(1.0 - 1.0 / math.log2(2.5))


def test_with_labels_of_0_and_1_some_losses_are_others() -> None:
    groups: Groups = [[(0.3, 1), (-0.4, 0), (1.1, 0), (0.2, 1)], [(2.0, 0), (-1.0, 1)]]
    same = [(gap_hinge, pairwise_hinge), (partial(ordinal, max_label=1), partial(pointwise_bce, max_label=1))]
    for one, other in same:
        assert one(*tensors(groups)).item() == pytest.approx(other(*tensors(groups)).item())


def test_approx_ndcg_approaches_ndcg() -> None:
    # order 2, 0, 1 by score: DCG = 0 + 3/log2(3) + 1/2 over 3 + 1/log2(3)
    ndcg = (3 / math.log2(3) + 0.5) / (3 + 1 / math.log2(3))
    group: Groups = [[(0.5, 2), (0.0, 1), (1.0, 0)]]
    found = [1.0 - approx_ndcg(*tensors(group), temperature=heat).item() for heat in (1.0, 0.1, 0.001)]
    assert found[2] == pytest.approx(ndcg, abs=1e-6)
    assert abs(found[1] - ndcg) < abs(found[0] - ndcg)


def test_the_cut_off_leaves_pairs_beyond_it_alone() -> None:
    group: Groups = [[(9.0, 0), (2.0, 1), (1.0, 0), (0.0, 2)]]
    assert (gradient(partial(lambda_loss, k=1), group)[0, 2] == 0.0).item()
    assert (gradient(partial(lambda_loss, k=3), group)[0, 2] > 0.0).item()
    assert gradient(partial(lambda_loss, k=4), group).tolist() == gradient(lambda_loss, group).tolist()


def test_the_defaults_of_the_settings_are_those_of_the_functions() -> None:
    functions = {"hinge": pairwise_hinge, "gap-hinge": gap_hinge, "lambda": lambda_loss, "approx-ndcg": approx_ndcg}
    for name, function in functions.items():
        defaults = {
            parameter: at.default
            for parameter, at in inspect.signature(function).parameters.items()
            if parameter != "reduction" and at.default not in (inspect.Parameter.empty, None)
        }
        assert LossTerm(name=name).parameters == defaults


# --- what must hold for all -------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("fill", [0.0, math.nan, math.inf])
@settings(max_examples=8, deadline=None)
@given(groups=GROUPS)
def test_padding_changes_neither_value_nor_gradient(name: str, fill: float, groups: Groups) -> None:
    loss, _ = CASES[name]
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


@EVERY
@settings(max_examples=8, deadline=None)
@given(groups=GROUPS, random=st.randoms(use_true_random=False))
@example(groups=TIED, random=None)
def test_the_order_of_documents_and_queries_is_nothing(name: str, groups: Groups, random: object) -> None:
    loss, _ = CASES[name]
    if random is None:
        orders = [list(reversed(range(len(group)))) for group in groups]
    else:
        orders = [random.sample(range(len(group)), len(group)) for group in groups]
    shuffled = [[group[at] for at in order] for group, order in zip(groups, orders, strict=True)]
    assert loss(*tensors(shuffled)).item() == pytest.approx(loss(*tensors(groups)).item(), rel=1e-4, abs=1e-6)
    assert loss(*tensors(groups[::-1])).item() == pytest.approx(loss(*tensors(groups)).item(), rel=1e-4, abs=1e-6)
    found, expected = gradient(loss, shuffled), gradient(loss, groups)
    for query, order in enumerate(orders):
        torch.testing.assert_close(found[query, : len(order)], expected[query, order], rtol=1e-4, atol=1e-6)


@EVERY
@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_the_formula(name: str, seed: int) -> None:
    """Differences of the formula in double precision; positions do not change over so small a step."""
    loss, of_query = CASES[name]
    scores = np.random.default_rng(seed).normal(size=5).round(2)
    labels = np.array([0.0, 2.0, 1.0, 3.0, 1.0])
    found = gradient(loss, [list(zip(scores.tolist(), labels.astype(int).tolist(), strict=True))])
    step = 1e-6
    for at in range(5):
        ahead, behind = scores.copy(), scores.copy()
        ahead[at] += step
        behind[at] -= step
        slope = (of_query(ahead, labels) - of_query(behind, labels)) / (2 * step)
        assert found[0, at].item() == pytest.approx(slope, rel=1e-3, abs=1e-5)


@EVERY
def test_extreme_scores_stay_finite(name: str) -> None:
    loss, _ = CASES[name]
    for high, low in [(1e4, -1e4), (-1e4, 1e4)]:
        groups: Groups = [[(high, 1), (low, 0), (0.0, 0)]]
        value = loss(*tensors(groups)).item()
        assert math.isfinite(value)
        if name not in POINTWISE and name != "approx-ndcg":
            assert (value > 1e3) == (high < low)
        assert gradient(loss, groups).isfinite().all()


@EVERY
def test_grades_beyond_fp32_stay_finite(name: str) -> None:
    loss, _ = CASES[name]
    groups: Groups = [[(1.0, 255), (0.0, 254), (2.0, 0)]]
    assert math.isfinite(loss(*tensors(groups)).item())
    assert gradient(loss, groups).isfinite().all()


@EVERY
def test_the_gradient_lifts_the_better_document(name: str) -> None:
    loss, _ = CASES[name]
    found = gradient(loss, [[(0.0, 0), (0.0, 2), (0.0, 0)]])
    assert found[0, 1] < 0 and found[0, 1] < found[0, 0]
    assert found[0, 0] == found[0, 2]
    if name not in POINTWISE:
        assert found[0, 0] > 0
        # The same for all documents is nothing.
        assert found.sum().item() == pytest.approx(0.0, abs=1e-6)


def test_hinge_stops_pulling_at_the_margin_and_ranknet_does_not() -> None:
    apart: Groups = [[(2.0, 1), (0.0, 0)]]
    assert gradient(pairwise_hinge, apart).tolist() == [[0.0, 0.0]]
    assert gradient(gap_hinge, apart).tolist() == [[0.0, 0.0]]
    assert gradient(ranknet, apart)[0, 0] < 0


@OF_ORDER
@pytest.mark.parametrize(
    "groups",
    [[[(1.0, 1), (2.0, 1)]], [[(1.0, 0), (2.0, 0)]], [[(1.0, 3)]]],
    ids=["equal labels", "all zero", "one document"],
)
def test_a_query_without_a_pair_is_zero_with_a_zero_gradient(name: str, groups: Groups) -> None:
    loss, _ = CASES[name]
    scores, labels, mask = tensors(groups)
    value = loss(scores, labels, mask)
    value.backward()
    assert value.item() == 0.0
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0.0] * len(groups[0])]
    # Beside others it takes its share of the mean, and nothing else.
    beside = loss(*tensors([*groups, [(0.0, 1), (1.0, 0)]])).item()
    assert beside == pytest.approx(loss(*tensors([[(0.0, 1), (1.0, 0)]])).item() / 2)


@pytest.mark.parametrize("name", POINTWISE)
def test_single_documents_learn_without_a_pair(name: str) -> None:
    loss, _ = CASES[name]
    assert gradient(loss, [[(0.0, 3)]])[0, 0] < 0 < gradient(loss, [[(1.0, 0), (1.0, 0)]])[0, 0]


@EVERY
def test_all_masked_is_zero_with_a_zero_gradient(name: str) -> None:
    loss, _ = CASES[name]
    scores = torch.full((2, 3), math.nan, requires_grad=True)
    value = loss(scores, torch.full((2, 3), math.nan), torch.zeros(2, 3, dtype=torch.bool))
    value.backward()
    assert value.item() == 0.0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("name", ["hinge", "gap-hinge", "ranknet", *POINTWISE])
def test_a_query_weighs_the_same_with_few_documents_or_many(name: str) -> None:
    loss, _ = CASES[name]
    few: Groups = [[(0.0, 1), (1.0, 0)]]
    many: Groups = [[(0.0, 1)] * 3 + [(1.0, 0)] * 3]
    assert loss(*tensors(few)).item() == pytest.approx(loss(*tensors(many)).item())
    pulls = gradient(loss, few + many).abs().sum(dim=1)
    assert pulls[0].item() == pytest.approx(pulls[1].item())


@EVERY
def test_bfloat16_scores_are_compared_in_float32(name: str) -> None:
    loss, of_query = CASES[name]
    scores = torch.tensor([[3.0, 2.984375]], dtype=torch.bfloat16, requires_grad=True)
    value = loss(scores, torch.tensor([[1, 0]]), torch.ones(1, 2, dtype=torch.bool))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(of_query(np.array([3.0, 2.984375]), np.array([1.0, 0.0])), rel=1e-5)
    value.backward()
    assert scores.grad is not None
    assert scores.grad.dtype == torch.bfloat16


def test_which_queries_have_pairs() -> None:
    _, labels, mask = tensors([[(0.0, 1), (0.0, 1)], [(0.0, 0), (0.0, 2)], [(0.0, 3)]])
    assert has_pairs(labels, mask).tolist() == [False, True, False]
    assert has_pairs(labels, torch.zeros_like(mask)).tolist() == [False] * 3
