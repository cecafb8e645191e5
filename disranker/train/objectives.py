"""Objectives: (model, micro-batch) -> summed loss parts, and the count that normalises them.

The engine divides by the count over all ranks and accumulation, so the shape of a micro-batch cannot change the
result.  Ranking objectives count queries, the language-model objective counts predicted tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from disranker.losses.distill import margin_mse, point_mse
from disranker.losses.ranking import pairwise_hinge, ranknet

if TYPE_CHECKING:
    from disranker.config.distill import DistillConfig
    from disranker.config.rank import RankConfig
    from disranker.data.batches import GroupBatch, TextBatch


def scores_by_query(scores_B: Tensor, mask_QD: Tensor) -> Tensor:
    """[B] scores of all documents, query after query, into [Q, D] where the mask is True."""
    return scores_B.new_zeros(mask_QD.shape).masked_scatter(mask_QD, scores_B)


class RankObjective:
    """Stage 2: a ranking loss on graded labels."""

    unit = "queries"

    def __init__(self, config: RankConfig) -> None:
        self._config = config

    def count(self, batch: GroupBatch) -> float:
        """Queries of the batch."""
        return batch.weight * len(batch.docs_per_query)

    def loss(self, model: Callable[..., Tensor], batch: GroupBatch) -> dict[str, Tensor]:
        """The loss summed over queries."""
        scores_QD = scores_by_query(model(batch.packed), batch.mask_QD)
        if self._config.loss == "hinge":
            loss = pairwise_hinge(
                scores_QD, batch.targets_QD, batch.mask_QD, margin=self._config.margin, reduction="sum"
            )
        else:
            loss = ranknet(scores_QD, batch.targets_QD, batch.mask_QD, reduction="sum")
        return {"loss": batch.weight * loss}


class DistillObjective:
    """Stage 3: point-MSE + margin-MSE against standardised teacher scores."""

    unit = "queries"

    def __init__(self, config: DistillConfig) -> None:
        self._config = config

    def count(self, batch: GroupBatch) -> float:
        """Queries of the batch."""
        return batch.weight * len(batch.docs_per_query)

    def loss(self, model: Callable[..., Tensor], batch: GroupBatch) -> dict[str, Tensor]:
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

    def loss(self, model: nn.Module, batch: TextBatch) -> dict[str, Tensor]:
        """Negative log-likelihood in nats, summed over predicted tokens."""
        losses_N = model(batch.packed, batch.predict_T)
        return {"loss": batch.weight * torch.sum(losses_N)}
