"""Objectives: sums over the units of a batch and the counts that normalise them."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from disranker.config.losses import LossName
from disranker.config.rank import RankConfig
from disranker.data.batches import GroupBatch
from disranker.models.packed import pack
from disranker.train.objectives import RankObjective, scores_by_query
from tests import tiny

OPTIM = {"learning_rate": 1.0}
PARTS: dict[str, Any] = {"out": "x", "model": {"name": "x"}, "optim": OPTIM, "training": {"steps": 1}}


def rank_config(**changed: Any) -> RankConfig:
    return RankConfig(**{**PARTS, "judged": [], **changed})


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


def test_a_stand_in_counts_nothing_and_pulls_nothing() -> None:
    objective = RankObjective(rank_config())
    batch, model = groups([[0.3, 0.9]], [[1.0, 0.0]], weight=0.0)
    parts = objective.loss(model, batch, step=0)
    assert objective.count(batch) == 0
    assert {part.item() for part in parts.values()} == {0.0}
    (gradient,) = torch.autograd.grad(parts["loss"], model(None))
    assert gradient.tolist() == [0.0, 0.0]
