"""Losses of a student's scores against a teacher's; pure functions of [Q, D] tensors and a mask, fp32 inside.

Shapes and reductions are those of `disranker.losses.ranking`: Q queries, D documents of the largest; the loss of one
query first, then the mean over queries, or their sum.  What stands in a masked place, NaN too, reaches neither value
nor gradient.  Teacher scores are standardised once per teacher by the caller; what comes here is what the student is
to say.  All of them are zero with a gradient of zero where the student says it, but the cross-entropy and `adr_mse`.

    one document      point_mse                                the score itself is learned
    differences       margin_mse, score_differences            a constant on a whole query costs nothing
    the whole list    kl_divergence, cross_entropy, weighted_kl    likewise; the top of the list weighs most
    order alone       adr_mse, and `ranking.ranknet` with teacher scores as labels

A query of one document has no difference and no order: all but point_mse give it zero, with a gradient of zero.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from disranker.losses.reduction import Reduction, mean_over_documents, over_queries


def point_mse(scores_QD: Tensor, teacher_QD: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Point-MSE: mean over documents of (score_i - teacher_i)².

    Prefer it with very many pairs, and where the absolute score is used later (thresholds, cascades).
    """
    errors_QD = torch.where(mask_QD, scores_QD.float() - teacher_QD.float(), 0.0)
    return mean_over_documents(errors_QD.square(), mask_QD, reduction=reduction)


def margin_mse(
    scores_QD: Tensor,
    teacher_QD: Tensor,
    mask_QD: Tensor,
    *,
    against: Literal["all", "first"] = "all",
    reduction: Reduction = "mean",
) -> Tensor:
    """Margin-MSE: mean over pairs of a group of ((score_i - score_j) - (teacher_i - teacher_j))².

    against="all": over all pairs i < j, D forwards for D(D-1)/2 margins.  against="first": i is the first document of
    the group, the one that the teacher puts first, and j every other, as Hofstätter et al. 2020 (arXiv 2010.02666)
    have one margin a pair of a relevant and another document; where the teacher has several firsts, their mean.

    Prefer it where only the order within a query matters: a constant by which the teacher likes or dislikes a whole
    query costs nothing.  Against the first, the order of the documents below is learned only through their distance to
    it: prefer that where one document a query is wanted, or the teacher is to be trusted at the top alone.
    """
    # The pairs need not be written out: with e_i = score_i - teacher_i, sum over i<j of (e_i - e_j)² is D Σe² - (Σe)²,
    # which equals D Σ(e - mean)², the form that does not cancel.
    count_Q = mask_QD.sum(dim=1)
    errors_QD = torch.where(mask_QD, scores_QD.float() - teacher_QD.float(), 0.0)
    mean_Q = errors_QD.sum(dim=1) / count_Q.clamp(min=1)
    centred_QD = torch.where(mask_QD, errors_QD - mean_Q[:, None], 0.0)
    if against == "all":
        # D Σ(e - mean)² over D (D - 1) / 2 pairs
        loss_Q = 2.0 * centred_QD.square().sum(dim=1) / (count_Q - 1).clamp(min=1)
        return over_queries(loss_Q, reduction)
    # Likewise sum over j of (e_first - e_j)² = D (e_first - mean)² + Σ(e - mean)², over D - 1 pairs.
    firsts_QD = _firsts(teacher_QD, mask_QD)
    share_QD = firsts_QD / firsts_QD.sum(dim=1, keepdim=True).clamp(min=1)
    of_first_Q = (share_QD * centred_QD.square()).sum(dim=1)
    loss_Q = (count_Q * of_first_Q + centred_QD.square().sum(dim=1)) / (count_Q - 1).clamp(min=1)
    return over_queries(loss_Q, reduction)


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


def score_differences(
    scores_QD: Tensor, teacher_QD: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    """Mean over pairs i < j of a query of Huber((score_i - score_j) - (teacher_i - teacher_j)), bent at 1.

    The differences of `margin_mse` with the loss of relational distillation (Park et al. 2019, arXiv 1904.05068): half
    the square up to an error of 1, one standard deviation of standardised teacher scores, and linear beyond.  Prefer it
    to margin-MSE where the teacher has outliers, which would outweigh all else when squared.
    """
    count_Q = mask_QD.sum(dim=1)
    errors_QD = torch.where(mask_QD, scores_QD.float() - teacher_QD.float(), 0.0)
    differences_QDD = errors_QD[:, :, None] - errors_QD[:, None, :]
    huber_QDD = smooth_l1_loss(differences_QDD, torch.zeros_like(differences_QDD), reduction="none")
    # Every pair is in it twice, and a document beside itself adds nothing.
    huber_QDD = torch.where(mask_QD[:, :, None] & mask_QD[:, None, :], huber_QDD, 0.0)
    return over_queries(huber_QDD.sum(dim=(1, 2)) / (count_Q * (count_Q - 1)).clamp(min=1), reduction)


def kl_divergence(
    scores_QD: Tensor,
    teacher_QD: Tensor,
    mask_QD: Tensor,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Listwise KL: T² times sum over documents of p_i log(p_i / q_i), p = softmax(teacher / T), q = softmax(score / T).

    Hinton et al. 2015 (arXiv 1503.02531) over the documents of a query in place of classes; T² keeps the size of the
    gradient whatever the temperature.  With T towards infinity it becomes margin-MSE up to a factor; with a low T only
    the teacher's top counts.  Prefer it where the top of the list is what matters and the tail may be anything.
    """
    p_QD, log_p_QD, log_q_QD = _distributions(scores_QD, teacher_QD, mask_QD, temperature)
    loss_Q = torch.where(mask_QD, p_QD * (log_p_QD - log_q_QD), 0.0).sum(dim=1)
    return over_queries(temperature**2 * loss_Q, reduction)


def cross_entropy(
    scores_QD: Tensor,
    teacher_QD: Tensor,
    mask_QD: Tensor,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Listwise cross-entropy: T² times -sum over documents of p_i log q_i, with p and q those of `kl_divergence`.

    ListNet's top-one form (Cao et al. 2007, ICML) with the teacher's scores as the truth.  It is the KL plus the
    entropy of the teacher, on which no weight depends: the gradients are the same, the KL is zero where nothing is
    left to learn.  Prefer it only where values are to be compared with others' that are reported so.
    """
    p_QD, _, log_q_QD = _distributions(scores_QD, teacher_QD, mask_QD, temperature)
    loss_Q = -torch.where(mask_QD, p_QD * log_q_QD, 0.0).sum(dim=1)
    return over_queries(temperature**2 * loss_Q, reduction)


def weighted_kl(
    scores_QD: Tensor,
    teacher_QD: Tensor,
    mask_QD: Tensor,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """KL with a weight for each document: T² times sum of w_i (p_i log(p_i / q_i) - p_i + q_i), w_i = 1 / log2(1 + i).

    i is the document's position by the teacher, from 1, equal scores all at their mean position; p and q are those of
    `kl_divergence`.  Uneven terms of the KL serve ranking better than even ones (Yang et al. 2024, SIGIR, arXiv
    2406.05977, whose weights ask for labels); weights that fall with the teacher's position are those of Ranking
    Distillation (Tang and Wang 2018, KDD, arXiv 1809.07428), the discount here is that of NDCG.  With uneven weights
    the plain terms would be smallest where q is proportional to w p; - p_i + q_i, whose sum is nothing where all
    weights are 1, makes each term a divergence of its own (Csiszár 1975, Annals of Probability), smallest at q = p.

    Prefer it to the KL where groups are long and the temperature high, so that a long tail has much of p.
    """
    p_QD, log_p_QD, log_q_QD = _distributions(scores_QD, teacher_QD, mask_QD, temperature)
    weights_QD = 1.0 / torch.log2(1.0 + teacher_positions(teacher_QD, mask_QD))
    terms_QD = p_QD * (log_p_QD - log_q_QD) - p_QD + log_q_QD.exp()
    loss_Q = torch.where(mask_QD, weights_QD * terms_QD, 0.0).sum(dim=1)
    return over_queries(temperature**2 * loss_Q, reduction)


def adr_mse(
    scores_QD: Tensor,
    teacher_QD: Tensor,
    mask_QD: Tensor,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """ADR-MSE: mean over documents of (position_i - approximate position_i)² / log2(1 + position_i).

    position_i is the teacher's, from 1 (equal scores all at their mean position), the approximate one the student's:
    1 + sum over j ≠ i of sigmoid((score_j - score_i) / temperature).  Approximate discounted rank MSE, Schlatt et al.
    2024 (Rank-DistiLLM, arXiv 2405.07920).  Positions are those among the documents at hand.

    Only the teacher's order counts, so a language model that answers with an ordering will do.  Prefer it for orderings
    whose top is right, after a first training (theirs is contrastive): it pulls little where scores are far apart in
    the wrong order.  Unlike the others it is never quite zero: the approximate positions come near the true ones only
    as scores move apart.
    """
    scores_QD = torch.where(mask_QD, scores_QD.float(), 0.0)
    ahead_QDD = torch.sigmoid((scores_QD[:, None, :] - scores_QD[:, :, None]) / temperature)
    # Its own sigmoid(0) is half of the 1.
    approximate_QD = 0.5 + torch.where(mask_QD[:, None, :], ahead_QDD, 0.0).sum(dim=2)
    positions_QD = teacher_positions(teacher_QD, mask_QD)
    errors_QD = torch.where(mask_QD, approximate_QD - positions_QD, 0.0)
    weighed_QD = errors_QD.square() / torch.log2(1.0 + positions_QD)
    return mean_over_documents(weighed_QD, mask_QD, reduction=reduction)


# --- what they share --------------------------------------------------------------------------------------------------


def teacher_positions(teacher_QD: Tensor, mask_QD: Tensor) -> Tensor:
    """[Q, D] places by falling teacher score, from 1; equal scores all at their mean place; 1 where masked."""
    differences_QDD = teacher_QD[:, None, :] - teacher_QD[:, :, None]
    ahead_QDD = (differences_QDD > 0.0) & mask_QD[:, None, :]
    level_QDD = (teacher_QD[:, None, :] == teacher_QD[:, :, None]) & mask_QD[:, None, :]
    # A document is level with itself.
    positions_QD = 0.5 + ahead_QDD.sum(dim=2) + 0.5 * level_QDD.sum(dim=2)
    return torch.where(mask_QD, positions_QD, 1.0)


def _firsts(teacher_QD: Tensor, mask_QD: Tensor) -> Tensor:
    """[Q, D] whether no document of the query has a higher teacher score."""
    known_QD = torch.where(mask_QD, teacher_QD.float(), -torch.inf)
    return mask_QD & (known_QD == known_QD.amax(dim=1, keepdim=True))


def _distributions(
    scores_QD: Tensor, teacher_QD: Tensor, mask_QD: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """p, log p of the teacher and log q of the student over a query's documents; what is masked has no share."""
    # The lowest finite number, not -inf: a query without a document has a softmax, too.
    lowest = torch.finfo(torch.float32).min
    log_p_QD = torch.where(mask_QD, teacher_QD.float() / temperature, lowest).log_softmax(dim=1)
    log_q_QD = torch.where(mask_QD, scores_QD.float() / temperature, lowest).log_softmax(dim=1)
    return log_p_QD.exp(), log_p_QD, log_q_QD
