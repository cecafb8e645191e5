"""Losses of scores against graded labels; pure functions of [Q, D] tensors and a mask, fp32 inside.

Shapes: Q queries, D documents per query (padded to the largest group; `mask_QD` is True where a document is real).
Every loss is a mean over the pairs of a query, then over queries, so that a query with many documents weighs as much
as one with few.  `reduction="sum"` sums over the queries instead, for a caller who divides by a global count.  A query
without a pair of different labels contributes zero, with a gradient of zero.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

Reduction = Literal["mean", "sum"]


def pairwise_hinge(
    scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor, *, margin: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Pairwise hinge: mean over pairs with label_i > label_j of max(0, margin - (score_i - score_j)).

    The loss of DisRanker's teacher (Ye et al. 2024, arXiv 2411.04539).  Prefer it with few, clean labels: a pair that
    is apart by the margin stops pulling.  Labels may be graded; scores are raw logits.
    """
    differences_QDD, preferred_QDD = _differences(scores_QD, labels_QD, mask_QD)
    return _mean_over_pairs((margin - differences_QDD).clamp(min=0.0), preferred_QDD, reduction)


def ranknet(scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """RankNet: mean over pairs with label_i > label_j of log(1 + exp(-(score_i - score_j))).

    Burges et al. 2005 (ICML).  Prefer it with noisy labels or an ordering: it never stops pulling, but ever more
    gently.
    """
    differences_QDD, preferred_QDD = _differences(scores_QD, labels_QD, mask_QD)
    return _mean_over_pairs(softplus(-differences_QDD), preferred_QDD, reduction)


def _differences(scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor) -> tuple[Tensor, Tensor]:
    """score_i - score_j, and where both are real and i is to be preferred; [Q, D, D] each."""
    # What stands in a masked place must not reach the gradient, not even as 0 * inf.
    scores_QD = torch.where(mask_QD, scores_QD.float(), 0.0)
    both_QDD = mask_QD[:, :, None] & mask_QD[:, None, :]
    preferred_QDD = both_QDD & (labels_QD[:, :, None] > labels_QD[:, None, :])
    return scores_QD[:, :, None] - scores_QD[:, None, :], preferred_QDD


def _mean_over_pairs(losses_QDD: Tensor, counted_QDD: Tensor, reduction: Reduction) -> Tensor:
    summed_Q = torch.where(counted_QDD, losses_QDD, 0.0).sum(dim=(1, 2))
    loss_Q = summed_Q / counted_QDD.sum(dim=(1, 2)).clamp(min=1)
    return loss_Q.sum() if reduction == "sum" else loss_Q.mean()
