"""Objectives: (model, micro-batch) -> summed loss parts, and the count that normalises them.

The engine divides by the count over all ranks and accumulation, so the shape of a micro-batch cannot change the
result.  Ranking objectives count queries, the language-model objective counts predicted tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from disranker.losses.distill import margin_mse, point_mse
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

if TYPE_CHECKING:
    from disranker.config.distill import DistillConfig
    from disranker.config.losses import LossName, LossTerm
    from disranker.config.rank import RankConfig
    from disranker.data.batches import GroupBatch, TextBatch

_LOSSES: Mapping[LossName, Callable[..., Tensor]] = {
    "hinge": pairwise_hinge,
    "gap-hinge": gap_hinge,
    "ranknet": ranknet,
    "bce": pointwise_bce,
    "mse": pointwise_mse,
    "ordinal": ordinal,
    "softmax": listwise_softmax,
    "lambda": lambda_loss,
    "approx-ndcg": approx_ndcg,
}


def scores_by_query(scores_B: Tensor, mask_QD: Tensor) -> Tensor:
    """[B] scores of all documents, query after query, into [Q, D] where the mask is True."""
    return scores_B.new_zeros(mask_QD.shape).masked_scatter(mask_QD, scores_B)


def weighted_parts(
    terms: Sequence[LossTerm], scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor
) -> dict[str, Tensor]:
    """The weighted sum of ranking losses as `loss`, each summed over queries.

    Where there are several, each of them is there before weighting, too, under its name.
    """
    parts: dict[str, Tensor] = {}
    for term in terms:
        loss = _LOSSES[term.name]
        parts[term.name] = loss(scores_QD, labels_QD, mask_QD, reduction="sum", **term.parameters)
    total = torch.stack([term.weight * parts[term.name] for term in terms]).sum()
    return {"loss": total, **(parts if len(parts) > 1 else {})}


class RankObjective:
    """Stage 2: a weighted sum of ranking losses on graded labels."""

    unit = "queries"

    def __init__(self, config: RankConfig) -> None:
        self._terms = config.loss

    def count(self, batch: GroupBatch) -> float:
        """Queries of the batch."""
        return batch.weight * len(batch.docs_per_query)

    def loss(self, model: Callable[..., Tensor], batch: GroupBatch, step: int) -> dict[str, Tensor]:
        """The loss and its parts, and how many queries have no pair to learn an order from."""
        scores_QD = scores_by_query(model(batch.packed), batch.mask_QD)
        parts = weighted_parts(self._terms, scores_QD, batch.targets_QD, batch.mask_QD)
        # The engine divides by the queries of the step: what is logged is a share.
        parts["share_without_pairs"] = (~has_pairs(batch.targets_QD, batch.mask_QD)).sum()
        return {name: batch.weight * part for name, part in parts.items()}


class DistillObjective:
    """Stage 3: point-MSE + margin-MSE against standardised teacher scores."""

    unit = "queries"

    def __init__(self, config: DistillConfig) -> None:
        self._config = config

    def count(self, batch: GroupBatch) -> float:
        """Queries of the batch."""
        return batch.weight * len(batch.docs_per_query)

    def loss(self, model: Callable[..., Tensor], batch: GroupBatch, step: int) -> dict[str, Tensor]:
        """The weighted sum, and its two parts before weighting, each summed over queries."""
        scores_QD = scores_by_query(model(batch.packed), batch.mask_QD)
        point = batch.weight * point_mse(scores_QD, batch.targets_QD, batch.mask_QD, reduction="sum")
        margin = batch.weight * margin_mse(scores_QD, batch.targets_QD, batch.mask_QD, reduction="sum")
        loss = self._config.point_weight * point + self._config.margin_weight * margin
        return {"loss": loss, "point_mse": point, "margin_mse": margin}


class LanguageModelObjective:
    """Stage 1: next-token loss on the clicked title and summary; the query's tokens carry no loss."""

    unit = "tokens"

    def count(self, batch: TextBatch) -> float:
        """Predicted tokens of the batch."""
        return batch.weight * int(batch.predict_T.sum())

    def loss(self, model: nn.Module, batch: TextBatch, step: int) -> dict[str, Tensor]:
        """Negative log-likelihood in nats, summed over predicted tokens."""
        losses_N = model(batch.packed, batch.predict_T)
        return {"loss": batch.weight * torch.sum(losses_N)}
