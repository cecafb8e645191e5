"""Objectives: (model, micro-batch) -> summed loss parts, and the count that normalises them.

The engine divides by the count over all ranks and accumulation, so the shape of a micro-batch cannot change the
result.  Ranking objectives count queries; stage 1's, which counts predicted tokens, is in `language.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

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
    from disranker.config.losses import LossName, LossTerm
    from disranker.config.rank import RankConfig
    from disranker.data.batches import GroupBatch

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


def ranking_loss(term: LossTerm, scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor) -> Tensor:
    """One ranking loss of a sum, summed over queries, before its weight."""
    return _LOSSES[term.name](scores_QD, labels_QD, mask_QD, reduction="sum", **term.parameters)


def weighted_parts(
    terms: Sequence[LossTerm], scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor
) -> dict[str, Tensor]:
    """The weighted sum of ranking losses as `loss`, each summed over queries.

    Where there are several, each of them is there before weighting, too, under its name.
    """
    parts: dict[str, Tensor] = {}
    for term in terms:
        parts[term.name] = ranking_loss(term, scores_QD, labels_QD, mask_QD)
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
