"""Losses of a student's scores against a teacher's; pure functions of [Q, D] tensors and a mask, fp32 inside.

Shapes and reductions are those of `disranker.losses.ranking`: mean over documents (or pairs) of a query, then over
queries.  Teacher scores are standardised once per teacher by the caller; what comes here is what the student is to say.
"""

from __future__ import annotations

import torch
from torch import Tensor

from disranker.losses.ranking import Reduction


def point_mse(scores_QD: Tensor, teacher_QD: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Point-MSE: mean over documents of (score_i - teacher_i)².

    Prefer it with very many pairs, and where the absolute score is used later (thresholds, cascades).
    """
    errors_QD = torch.where(mask_QD, scores_QD.float() - teacher_QD.float(), 0.0)
    loss_Q = errors_QD.square().sum(dim=1) / mask_QD.sum(dim=1).clamp(min=1)
    return loss_Q.sum() if reduction == "sum" else loss_Q.mean()


def margin_mse(scores_QD: Tensor, teacher_QD: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Margin-MSE: mean over all pairs i < j of a group of ((score_i - score_j) - (teacher_i - teacher_j))².

    Hofstätter et al. 2020 (arXiv 2010.02666) take one pair a query; here every pair of the group counts, at the cost
    of D forwards for D(D-1)/2 margins.  Prefer it where only the order within a query matters: a constant by which
    the teacher likes or dislikes a whole query costs nothing.
    """
    # The pairs need not be written out: with e_i = score_i - teacher_i, sum over i<j of (e_i - e_j)² is D Σe² - (Σe)²,
    # which equals D Σ(e - mean)², the form that does not cancel.
    count_Q = mask_QD.sum(dim=1)
    errors_QD = torch.where(mask_QD, scores_QD.float() - teacher_QD.float(), 0.0)
    mean_Q = errors_QD.sum(dim=1) / count_Q.clamp(min=1)
    centred_QD = torch.where(mask_QD, errors_QD - mean_Q[:, None], 0.0)
    # D Σ(e - mean)² over D (D - 1) / 2 pairs
    loss_Q = 2.0 * centred_QD.square().sum(dim=1) / (count_Q - 1).clamp(min=1)
    return loss_Q.sum() if reduction == "sum" else loss_Q.mean()


def hybrid(
    scores_QD: Tensor,
    teacher_QD: Tensor,
    mask_QD: Tensor,
    *,
    point_weight: float = 1.0,
    margin_weight: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """point_weight x point-MSE + margin_weight x margin-MSE, the hybrid loss of DisRanker (arXiv 2411.04539).

    The point term keeps the student from drifting, the margin term keeps the order.
    """
    point = point_mse(scores_QD, teacher_QD, mask_QD, reduction=reduction)
    return point_weight * point + margin_weight * margin_mse(scores_QD, teacher_QD, mask_QD, reduction=reduction)
