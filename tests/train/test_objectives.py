"""Objectives: sums over the units of a batch and the counts that normalise them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from disranker.config.distill import DistillConfig
from disranker.config.losses import LossName
from disranker.config.rank import RankConfig
from disranker.data.batches import GroupBatch, TextBatch
from disranker.models.packed import pack
from disranker.train.objectives import DistillObjective, LanguageModelObjective, RankObjective, scores_by_query
from tests import tiny

OPTIM = {"learning_rate": 1.0}
PARTS: dict[str, Any] = {"out": "x", "model": {"name": "x"}, "optim": OPTIM, "training": {"steps": 1}}


def rank_config(**changed: Any) -> RankConfig:
    return RankConfig(**{**PARTS, "judged": [], **changed})


def distill_config(**changed: Any) -> DistillConfig:
    return DistillConfig(**{**PARTS, "store": Path("x"), "candidates": [], **changed})


def groups(scores: list[list[float]], targets: list[list[float]], weight: float = 1.0) -> tuple[GroupBatch, Any]:
    """A batch of groups, and a model that gives exactly these scores."""
    sizes = tuple(len(group) for group in targets)
    mask_QD = torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]
    targets_QD = torch.zeros(mask_QD.shape).masked_scatter(
        mask_QD, torch.tensor([target for group in targets for target in group])
    )
    packed = pack(tiny.sequences([5] * sum(sizes)))
    flat = torch.tensor([score for group in scores for score in group], requires_grad=True)
    return GroupBatch(packed, sizes, targets_QD, mask_QD, weight), lambda packed: flat


def test_scores_stand_where_their_document_is() -> None:
    mask_QD = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    placed = scores_by_query(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), mask_QD)
    assert placed.tolist() == [[1.0, 2.0, 0.0], [3.0, 0.0, 0.0], [4.0, 5.0, 6.0]]


def test_hinge_is_a_sum_over_queries() -> None:
    # query 1: one pair, 1 - (0.5 - 0) = 0.5; query 2: pairs (2,1): 1-(-1)=2, (2,0): 1-0=1, (1,0): 1-1=0 -> mean 1
    batch, model = groups([[0.5, 0.0], [0.0, 1.0, 0.0]], [[1.0, 0.0], [2.0, 1.0, 0.0]])
    objective = RankObjective(rank_config(loss="hinge"))
    assert objective.count(batch) == 2
    assert objective.loss(model, batch, step=0)["loss"].item() == pytest.approx(1.5)
    wider = RankObjective(rank_config(loss=[{"name": "hinge", "margin": 2.0}]))
    assert wider.loss(model, batch, step=0)["loss"].item() == pytest.approx(1.5 + 2.0)


def test_ranknet_is_a_sum_over_queries() -> None:
    batch, model = groups([[0.5, 0.0], [3.0]], [[1.0, 0.0], [2.0]])
    loss = RankObjective(rank_config(loss="ranknet")).loss(model, batch, step=0)["loss"]
    assert loss.item() == pytest.approx(float(np.log1p(np.exp(-0.5))))


def test_several_losses_are_a_weighted_sum_with_every_part_beside_it() -> None:
    batch, model = groups([[0.5, 0.0], [1.0, 1.0]], [[1.0, 0.0], [2.0, 2.0]])
    terms = [{"name": "hinge", "margin": 2.0}, {"name": "mse", "weight": 0.5}, {"name": "ranknet", "weight": 0.0}]
    parts = RankObjective(rank_config(loss=terms)).loss(model, batch, step=0)
    expected = {"hinge": 1.5, "mse": 0.125 + 1.0, "ranknet": float(np.log1p(np.exp(-0.5))), "share_without_pairs": 1.0}
    assert {name: part.item() for name, part in parts.items()} == pytest.approx({"loss": 1.5 + 0.5 * 1.125, **expected})


def test_one_loss_is_no_part_of_itself() -> None:
    batch, model = groups([[0.5, 0.0], [3.0], [1.0, 2.0]], [[1.0, 0.0], [2.0], [0.0, 0.0]])
    parts = RankObjective(rank_config(loss=["ranknet"])).loss(model, batch, step=0)
    assert list(parts) == ["loss", "share_without_pairs"]
    assert parts["share_without_pairs"].item() == 2.0  # summed, as every part; the engine divides by the queries


@pytest.mark.parametrize("name", get_args(LossName))
def test_every_loss_can_be_named_and_pulls(name: str) -> None:
    batch, model = groups([[0.1, 0.0, 0.2]], [[1.0, 0.0, 2.0]])
    term = {"name": name, **({"max_label": 4} if name in ("bce", "ordinal") else {})}
    loss = RankObjective(rank_config(loss=[term])).loss(model, batch, step=0)["loss"]
    (gradient,) = torch.autograd.grad(loss, model(None))
    assert loss.item() > 0.0 and gradient.abs().sum() > 0.0


@pytest.mark.parametrize(("point", "margin"), [(1.0, 1.0), (0.5, 2.0), (0.0, 1.0), (3.0, 0.0)])
def test_distillation_weighs_its_two_parts(point: float, margin: float) -> None:
    # errors 1 and -1 -> point 1, margin (1 - (-1))^2 = 4; second query: error 2 -> point 4, no pair
    batch, model = groups([[1.0, 0.0], [2.0]], [[0.0, 1.0], [0.0]])
    parts = DistillObjective(distill_config(point_weight=point, margin_weight=margin)).loss(model, batch, step=0)
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {"loss": point * 5.0 + margin * 4.0, "point_mse": 5.0, "margin_mse": 4.0}
    )


@pytest.mark.parametrize("objective", [RankObjective(rank_config()), DistillObjective(distill_config())])
def test_a_stand_in_counts_nothing_and_pulls_nothing(objective: RankObjective | DistillObjective) -> None:
    batch, model = groups([[0.3, 0.9]], [[1.0, 0.0]], weight=0.0)
    parts = objective.loss(model, batch, step=0)
    assert objective.count(batch) == 0
    assert {part.item() for part in parts.values()} == {0.0}
    (gradient,) = torch.autograd.grad(parts["loss"], model(None))
    assert gradient.tolist() == [0.0, 0.0]


def text_batch(weight: float) -> TextBatch:
    packed = pack(tiny.sequences([6, 4]))
    return TextBatch(packed, packed.token_type_ids[0].bool(), weight)


def test_the_language_model_counts_predicted_tokens() -> None:
    # documents are the second half of 6 and of 4 tokens
    objective = LanguageModelObjective()
    assert (objective.count(text_batch(1.0)), objective.count(text_batch(0.0))) == (5, 0)

    def model(packed: Any, predict_T: Tensor) -> Tensor:
        return torch.arange(1.0, 1.0 + int(predict_T.sum()))

    assert objective.loss(model, text_batch(1.0), step=0)["loss"].item() == 15.0
    assert objective.loss(model, text_batch(0.0), step=0)["loss"].item() == 0.0
