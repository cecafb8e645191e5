"""Losses of scores against graded labels; pure functions of [Q, D] tensors and a mask, fp32 inside.

Shapes: Q queries, D documents per query (padded to the largest group; `mask_QD` is True where a document is real),
T thresholds between grades.  Scores are raw logits; labels are grades from 0, worst, upwards.  Whatever stands in a
masked place, NaN too, reaches neither value nor gradient.

Every loss is first the loss of one query, then the mean over queries, so that a query with many documents weighs as
much as one with few.  `reduction="sum"` sums over the queries instead, for a caller who divides by a global count.

    compare documents   pairwise_hinge, gap_hinge, ranknet        any number of positives, any grades
    one document        pointwise_bce, pointwise_mse, ordinal     the score itself gets a meaning
    the whole list      listwise_softmax, lambda_loss, approx_ndcg

A query without a pair of different labels (`has_pairs`) has no order to learn: the losses that compare documents and
those of the whole list give it zero, with a gradient of zero.  The losses of one document learn from it as from any.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from disranker.losses.reduction import Reduction, mean_over_documents, over_queries

# --- pairs of documents -----------------------------------------------------------------------------------------------


def pairwise_hinge(
    scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor, *, margin: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Pairwise hinge: mean over pairs with label_i > label_j of max(0, margin - (score_i - score_j)).

    The loss of DisRanker's teacher (Ye et al. 2024, arXiv 2411.04539).  Prefer it with few, clean labels: a pair that
    is apart by the margin stops pulling.  Only the order of the labels counts.
    """
    differences_QDD, preferred_QDD = _differences(scores_QD, labels_QD, mask_QD)
    return _mean_over_pairs((margin - differences_QDD).clamp(min=0.0), preferred_QDD.float(), reduction)


def gap_hinge(
    scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor, *, margin: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Pairwise hinge in which a pair weighs its label gap.

    Sum over pairs with label_i > label_j of gap_ij max(0, margin - (score_i - score_j)), divided by the sum of
    gap_ij = label_i - label_j; with labels of 0 and 1 it is the pairwise hinge.  The weights are those of a linear
    gain, under which a pair in the wrong order costs its gap.  Prefer it to the plain hinge where judges disagree
    about neighbouring grades, and grades are evenly spaced.
    """
    differences_QDD, preferred_QDD = _differences(scores_QD, labels_QD, mask_QD)
    gaps_QDD = torch.where(preferred_QDD, _of_pairs(labels_QD.float()), 0.0)
    return _mean_over_pairs((margin - differences_QDD).clamp(min=0.0), gaps_QDD, reduction)


def ranknet(scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """RankNet: mean over pairs with label_i > label_j of log(1 + exp(-(score_i - score_j))).

    Burges et al. 2005 (ICML).  Prefer it with noisy labels or an ordering: it never stops pulling, but ever more
    gently.  Only the order of the labels counts.
    """
    differences_QDD, preferred_QDD = _differences(scores_QD, labels_QD, mask_QD)
    return _mean_over_pairs(softplus(-differences_QDD), preferred_QDD.float(), reduction)


# --- single documents -------------------------------------------------------------------------------------------------


def pointwise_bce(
    scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor, *, max_label: int, reduction: Reduction = "mean"
) -> Tensor:
    """Cross-entropy of sigmoid(score) against label / max_label, mean over documents.

    With t = label / max_label: -(t log sigmoid(score) + (1 - t) log(1 - sigmoid(score))), as in monoBERT (Nogueira and
    Cho 2019, arXiv 1901.04085) for labels of 0 and 1.  Prefer it where sigmoid(score) is to be read as a probability,
    or most queries have a single document.  Labels must not exceed `max_label`.
    """
    scores_QD = torch.where(mask_QD, scores_QD.float(), 0.0)
    targets_QD = torch.where(mask_QD, labels_QD.float() / max_label, 0.0)
    return mean_over_documents(softplus(scores_QD) - targets_QD * scores_QD, mask_QD, reduction=reduction)


def pointwise_mse(scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Regression on the grade: mean over documents of (score_i - label_i)².

    Subset regression, Cossock and Zhang 2006 (COLT).  Prefer it where the score is to be read as a grade, and grades
    are evenly spaced; the pull grows with the error, so a few wrong labels of a high grade weigh much.
    """
    errors_QD = torch.where(mask_QD, scores_QD.float() - labels_QD.float(), 0.0)
    return mean_over_documents(errors_QD.square(), mask_QD, reduction=reduction)


def ordinal(
    scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor, *, max_label: int, reduction: Reduction = "mean"
) -> Tensor:
    """All-thresholds ordinal regression: is the label at least t? asked of one score for t = 1 … max_label.

    Mean over documents of the sum over t of log(1 + exp(-y_t (score - threshold_t))), with y_t = 1 where label >= t and
    -1 elsewhere (Rennie and Srebro 2005, IJCAI workshop).  The thresholds are fixed, one apart and centred on zero:
    threshold_t = t - (max_label + 1) / 2, so a score between threshold_t and threshold_t+1 says label t, and the scale
    of the score has to be learnt.  Prefer it where grades are ordered but the score is to keep a meaning across
    queries.  Labels must not exceed `max_label`; with 1 it is the pointwise cross-entropy.
    """
    steps_T = torch.arange(1, max_label + 1, device=scores_QD.device)
    scores_QD = torch.where(mask_QD, scores_QD.float(), 0.0)
    beyond_QDT = scores_QD[:, :, None] - (steps_T - (max_label + 1) / 2)
    reached_QDT = labels_QD[:, :, None] >= steps_T
    losses_QD = softplus(torch.where(reached_QDT, -beyond_QDT, beyond_QDT)).sum(dim=2)
    return mean_over_documents(losses_QD, mask_QD, reduction=reduction)


# --- whole lists ------------------------------------------------------------------------------------------------------


def listwise_softmax(scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Softmax cross-entropy over a query's documents: -sum over i of share_i log softmax(score)_i.

    share_i is the gain 2^label_i - 1 over the sum of the query's gains: ListNet's top-one form (Cao et al. 2007, ICML)
    with gains in place of exponentials, so documents of label 0 only stand in the denominator (Bruch et al. 2019,
    ICTIR, bound NDCG by it for labels of 0 and 1).  Prefer it with few positives among many negatives, sampled ones
    too: the negatives of the highest scores pull most.
    """
    scores_QD = torch.where(mask_QD, scores_QD.float(), 0.0)
    gains_QD = _gains(labels_QD, mask_QD)
    shares_QD = gains_QD / _or_one(gains_QD.sum(dim=1))[:, None]
    # The lowest finite number, not -inf: a query without a document has a log-sum-exp, too.
    lowest = torch.finfo(torch.float32).min
    denominator_Q = torch.where(mask_QD, scores_QD, lowest).logsumexp(dim=1)
    loss_Q = (shares_QD * (denominator_Q[:, None] - scores_QD)).sum(dim=1)
    return over_queries(torch.where(has_pairs(labels_QD, mask_QD), loss_Q, 0.0), reduction)


def lambda_loss(
    scores_QD: Tensor,
    labels_QD: Tensor,
    mask_QD: Tensor,
    *,
    k: int | None = None,
    mu: float = 10.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """LambdaLoss, NDCG-Loss2++: sum over pairs with label_i > label_j of weight_ij log2(1 + exp(-(score_i - score_j))).

    weight_ij = (gain_i - gain_j) (|d(i) - d(j)| + mu (d(n) - d(n + 1))), with gain = (2^label - 1) / ideal DCG@k, i and
    j the positions by falling score as it is now, d(p) = 1 / log2(1 + p) and 0 beyond k, and n = |i - j| for which d
    has no cut-off (Wang et al. 2018, CIKM).  Pairs of which both stand beyond k have no weight.  mu = 0 leaves
    LambdaRank: the weight is the change of NDCG@k when the two change places.  Equal scores stand in the worst order,
    lower labels first, those of equal labels all at their mean position.  Weights carry no gradient.

    Prefer it where NDCG at the top of the list is the aim and groups are large; start from a model that already ranks,
    for the weights are of the order that it makes.  A sum over pairs, not a mean: larger groups have larger values.
    """
    differences_QDD, preferred_QDD = _differences(scores_QD, labels_QD, mask_QD)
    with torch.no_grad():
        positions_QD = _positions(differences_QDD, labels_QD, mask_QD)
        depth = mask_QD.shape[1] if k is None else k
        within_QD = positions_QD <= depth
        gains_QD = _gains(labels_QD, mask_QD)
        gains_QD = gains_QD / _or_one(_ideal_dcg(gains_QD, k))[:, None]
        swaps_QDD = _of_pairs(torch.where(within_QD, _discounts(positions_QD), 0.0)).abs()
        # Two documents of different labels are at least one position apart.
        distances_QDD = _of_pairs(positions_QD).abs().clamp(min=1.0)
        steps_QDD = _discounts(distances_QDD) - _discounts(distances_QDD + 1.0)
        weighed_QDD = preferred_QDD & (within_QD[:, :, None] | within_QD[:, None, :])
        weights_QDD = torch.where(weighed_QDD, _of_pairs(gains_QD) * (swaps_QDD + mu * steps_QDD), 0.0)
    losses_QDD = softplus(-differences_QDD) / math.log(2.0)
    return over_queries((weights_QDD * losses_QDD).sum(dim=(1, 2)), reduction)


def approx_ndcg(
    scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor, *, temperature: float = 0.1, reduction: Reduction = "mean"
) -> Tensor:
    """ApproxNDCG: 1 - NDCG, with positions that can be differentiated.

    NDCG = sum over i of (2^label_i - 1) / log2(1 + position_i), over that of the ideal order; position_i = 1 + sum over
    j ≠ i of sigmoid((score_j - score_i) / temperature) (Qin et al. 2010, Information Retrieval 13).  A low temperature
    comes closer to NDCG and learns from near ties only.  Prefer it to finish a model that already ranks: it pulls
    little where an order is far wrong.
    """
    differences_QDD, _ = _differences(scores_QD, labels_QD, mask_QD)
    ahead_QDD = torch.where(mask_QD[:, None, :], torch.sigmoid(-differences_QDD / temperature), 0.0)
    positions_QD = 0.5 + ahead_QDD.sum(dim=2)  # its own sigmoid(0) is the other half
    gains_QD = _gains(labels_QD, mask_QD)
    ndcg_Q = (gains_QD * _discounts(positions_QD)).sum(dim=1) / _or_one(_ideal_dcg(gains_QD, None))
    return over_queries(torch.where(has_pairs(labels_QD, mask_QD), 1.0 - ndcg_Q, 0.0), reduction)


# --- what they share --------------------------------------------------------------------------------------------------


def has_pairs(labels_QD: Tensor, mask_QD: Tensor) -> Tensor:
    """[Q] whether two documents of the query have different labels."""
    labels_QD = labels_QD.float()
    highest_Q = torch.where(mask_QD, labels_QD, -torch.inf).amax(dim=1)
    return highest_Q > torch.where(mask_QD, labels_QD, torch.inf).amin(dim=1)


def _differences(scores_QD: Tensor, labels_QD: Tensor, mask_QD: Tensor) -> tuple[Tensor, Tensor]:
    """score_i - score_j, and where both are real and i is to be preferred; [Q, D, D] each."""
    # What stands in a masked place must not reach the gradient, not even as 0 * inf.
    scores_QD = torch.where(mask_QD, scores_QD.float(), 0.0)
    both_QDD = mask_QD[:, :, None] & mask_QD[:, None, :]
    preferred_QDD = both_QDD & (labels_QD[:, :, None] > labels_QD[:, None, :])
    return _of_pairs(scores_QD), preferred_QDD


def _of_pairs(values_QD: Tensor) -> Tensor:
    """value_i - value_j, [Q, D, D]."""
    return values_QD[:, :, None] - values_QD[:, None, :]


def _gains(labels_QD: Tensor, mask_QD: Tensor) -> Tensor:
    """2^label - 1 up to a factor for each query, which keeps labels beyond fp32's 2^127 finite; 0 where masked."""
    highest_QD = torch.where(mask_QD, labels_QD.float(), 0.0).amax(dim=1, keepdim=True)
    gains_QD = torch.exp2(labels_QD.float() - highest_QD) - torch.exp2(-highest_QD)
    return torch.where(mask_QD, gains_QD, 0.0)


def _discounts(positions: Tensor) -> Tensor:
    """1 / log2(1 + position)."""
    return 1.0 / torch.log2(1.0 + positions)


def _ideal_dcg(gains_QD: Tensor, k: int | None) -> Tensor:
    """[Q] DCG@k of the documents by falling gain."""
    best_QD = gains_QD.sort(dim=1, descending=True).values[:, :k]
    places_D = torch.arange(1, best_QD.shape[1] + 1, device=gains_QD.device)
    return (best_QD * _discounts(places_D)).sum(dim=1)


def _positions(differences_QDD: Tensor, labels_QD: Tensor, mask_QD: Tensor) -> Tensor:
    """[Q, D] places by falling score, from 1; equal scores by rising label, equal labels too at their mean place."""
    # Scores in bfloat16 are often equal; their order must not be that of the input.
    tied_QDD = differences_QDD == 0.0
    lower_QDD = labels_QD[:, None, :] < labels_QD[:, :, None]
    same_QDD = labels_QD[:, None, :] == labels_QD[:, :, None]
    ahead_QDD = (differences_QDD < 0.0) | (tied_QDD & lower_QDD)
    level_QDD = tied_QDD & same_QDD & ~torch.eye(mask_QD.shape[1], dtype=torch.bool, device=mask_QD.device)
    ahead_QD = (ahead_QDD & mask_QD[:, None, :]).sum(dim=2)
    return 1.0 + ahead_QD + 0.5 * (level_QDD & mask_QD[:, None, :]).sum(dim=2)


def _or_one(totals_Q: Tensor) -> Tensor:
    """Totals to divide by, 1 where there is nothing to divide."""
    return torch.where(totals_Q > 0.0, totals_Q, 1.0)


def _mean_over_pairs(losses_QDD: Tensor, weights_QDD: Tensor, reduction: Reduction) -> Tensor:
    loss_Q = (weights_QDD * losses_QDD).sum(dim=(1, 2)) / _or_one(weights_QDD.sum(dim=(1, 2)))
    return over_queries(loss_Q, reduction)
