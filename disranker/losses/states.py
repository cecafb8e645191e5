"""Losses of a student's inner states against a teacher's; pure functions of tensors and a mask, fp32 inside.

Shapes: Q queries, D documents per query, H width of a state, B sequences in a packed row of T tokens, A attention
heads of width W, R relation heads, N sequences of one length L.  Reductions are those of `disranker.losses.ranking`:
first the loss of one query, then over queries; whatever stands in a masked place reaches neither value nor gradient.

    one document      pooled_mse, pooled_cosine                    the state that the score is read from
                      score_consistency                            its score against that of another pass
    a query's list    rkd_distance, rkd_angle                      how the documents lie to one another
    inside a text     hidden_mse, relation_divergence              token by token; the same tokens, so one tokenizer

The last two give a value for each sequence of the row; `reduction.mean_over_documents` makes a loss of those.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, log_softmax, smooth_l1_loss

from disranker.losses.reduction import Reduction, mean_over_documents, over_queries

Runs = Sequence[tuple[int, int]]
"""(number of sequences, their length) for each run of equally long sequences in a packed row."""


# --- single documents -------------------------------------------------------------------------------------------------


def pooled_mse(projected_QDH: Tensor, teacher_QDH: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Mean over documents of |projected_i - teacher_i|² / H, the student's states projected to the teacher's width.

    Feature distillation after FitNets (Romero et al. 2015, arXiv 1412.6550), on the state that the head reads.  Prefer
    it with few documents a query: a state says more of a document than its score.  Its size is that of the teacher's
    states, so a weight that suits one teacher may not suit another.
    """
    student_QDH, teacher_QDH = _unmasked(projected_QDH, teacher_QDH, mask_QD)
    return mean_over_documents((student_QDH - teacher_QDH).square().mean(dim=2), mask_QD, reduction=reduction)


def pooled_cosine(
    projected_QDH: Tensor, teacher_QDH: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    """Mean over documents of 1 - cos(projected_i, teacher_i), the student's states projected to the teacher's width.

    As in DistilBERT (Sanh et al. 2019, arXiv 1910.01108), on the state that the head reads.  Prefer it to the squared
    error where the teacher's states are long or have a few dimensions far larger than the rest, as decoders' have:
    only the direction counts.
    """
    student_QDH, teacher_QDH = _unmasked(projected_QDH, teacher_QDH, mask_QD)
    return mean_over_documents(1.0 - cosine_similarity(student_QDH, teacher_QDH, dim=2), mask_QD, reduction=reduction)


def score_consistency(first_QD: Tensor, second_QD: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Mean over documents of (first_i - second_i)², two scores of one document under different dropout.

    R-Drop (Liang et al. 2021, arXiv 2106.14448) for a score: its divergence ½ (KL(P ‖ P') + KL(P' ‖ P)) between normal
    distributions of variance 1 around the two scores is half of this.  Prefer it to no second pass where a student is
    large for its data, and dropout moves its scores; it works for a single document, too.  Both scores are moved.
    """
    first_QD, second_QD = (torch.where(mask_QD, scores.float(), 0.0) for scores in (first_QD, second_QD))
    return mean_over_documents((first_QD - second_QD).square(), mask_QD, reduction=reduction)


# --- the documents of a query -----------------------------------------------------------------------------------------


def rkd_distance(states_QDH: Tensor, teacher_QDH: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Mean over pairs i < j of a query of Huber(d_ij / mean d, t_ij / mean t), d and t the distances of the states.

    Relational knowledge distillation, distance-wise (Park et al. 2019, arXiv 1904.05068), with the Huber loss bent at
    1 and the mean taken over the pairs of the query.  Prefer it where widths differ and no projection is wanted: how
    the documents of a query lie to one another is all that is learnt.  Of two documents the divided distance is always
    1, so below three the loss is 0; where all states of a query are equal, their distances count as 0.  It holds
    [Q, D, D, H] numbers.
    """
    pairs_QDD = _pairs(mask_QD & (mask_QD.sum(dim=1, keepdim=True) >= 3))
    student_QDD, teacher_QDD = (
        _per_mean(_lengths(_differences(states)), pairs_QDD) for states in _unmasked(states_QDH, teacher_QDH, mask_QD)
    )
    return over_queries(_mean(_huber(student_QDD, teacher_QDD), pairs_QDD), reduction)


def rkd_angle(states_QDH: Tensor, teacher_QDH: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Mean over triplets of a query of Huber(cos ∠ijk of the student's states, cos ∠ijk of the teacher's).

    Relational knowledge distillation, angle-wise (Park et al. 2019, arXiv 1904.05068): ∠ijk is the angle at document j
    between i and k, all three different.  Prefer it beside `rkd_distance`: angles do not change with scale, and the
    paper weighs them twice as much.  Below three documents there is no angle: 0.  A document whose state equals that
    of j has no direction from there; its cosine counts as 0.  It holds [Q, D, D, H] and [Q, D, D, D] numbers.
    """
    others_QDD = mask_QD[:, :, None] & mask_QD[:, None, :] & ~_diagonal(mask_QD)
    # j first: i and k differ from j and from each other
    triplets_QDDD = others_QDD[:, :, :, None] & others_QDD[:, :, None, :] & others_QDD[:, None, :, :]
    student_QDDD, teacher_QDDD = (
        _cosines(_differences(states)) for states in _unmasked(states_QDH, teacher_QDH, mask_QD)
    )
    return over_queries(_mean(_huber(student_QDDD, teacher_QDDD), triplets_QDDD), reduction)


# --- the tokens of a document -----------------------------------------------------------------------------------------


def hidden_mse(hidden_TH: Tensor, teacher_TH: Tensor, runs: Runs) -> Tensor:
    """[B] mean over the tokens of each sequence of |hidden_t - teacher_t|² / H, in the order of the row.

    Layer-wise distillation as in TinyBERT (Jiao et al. 2020, arXiv 1909.10351), the student's states projected where
    widths differ.  Prefer it for a student cut from its teacher, or far from trained: it takes over representations
    before there is a ranking to speak of.
    """
    errors_T = (hidden_TH.float() - teacher_TH.float()).square().mean(dim=1)
    return torch.cat([run.unflatten(0, shape).mean(dim=1) for run, shape in _by_runs(errors_T, runs)])


def relation_divergence(states_TAW: Tensor, teacher_TAW: Tensor, runs: Runs, *, relation_heads: int) -> Tensor:
    """[B] mean over tokens and relation heads of KL(teacher's relation ‖ student's), in the order of the row.

    MiniLMv2 (Wang et al. 2021, arXiv 2012.15828): the queries (or keys, or values) of one layer, all heads side by
    side, are cut anew into relation heads; a relation is softmax(X Xᵀ / √width of a relation head) between the tokens
    of one sequence.  Prefer it with one tokenizer and any two depths and widths: it needs neither projection nor layer
    map.  Both widths A W must be multiples of `relation_heads`.
    """
    both_TS = (states_TAW.float().flatten(1), teacher_TAW.float().flatten(1))
    parts = zip(*(_by_runs(states_TS, runs) for states_TS in both_TS), strict=True)
    divergences = []
    for (student, shape), (teacher, _) in parts:
        ours_NRLL, theirs_NRLL = (_log_relations(run.unflatten(0, shape), relation_heads) for run in (student, teacher))
        kl_NRL = (theirs_NRLL.exp() * (theirs_NRLL - ours_NRLL)).sum(dim=3)
        divergences.append(kl_NRL.mean(dim=(1, 2)))
    return torch.cat(divergences)


def _log_relations(states_NLS: Tensor, relation_heads: int) -> Tensor:
    """[N, R, L, L] logarithms of the relations of tokens."""
    heads_NRLW = states_NLS.unflatten(2, (relation_heads, -1)).transpose(1, 2)
    width = heads_NRLW.shape[3]
    return log_softmax(heads_NRLW @ heads_NRLW.transpose(2, 3) / width**0.5, dim=3)


def _by_runs(rows: Tensor, runs: Runs) -> list[tuple[Tensor, tuple[int, int]]]:
    """The rows of each run of equally long sequences, and (number of sequences, length)."""
    return list(zip(rows.split([count * length for count, length in runs]), runs, strict=True))


# --- shared -----------------------------------------------------------------------------------------------------------


def _unmasked(states_QDH: Tensor, teacher_QDH: Tensor, mask_QD: Tensor) -> tuple[Tensor, Tensor]:
    """Both in fp32, 0 in masked places."""
    mask_QD1 = mask_QD[:, :, None]
    return torch.where(mask_QD1, states_QDH.float(), 0.0), torch.where(mask_QD1, teacher_QDH.float(), 0.0)


def _diagonal(mask_QD: Tensor) -> Tensor:
    return torch.eye(mask_QD.shape[1], dtype=torch.bool, device=mask_QD.device)


def _pairs(mask_QD: Tensor) -> Tensor:
    """[Q, D, D] where i < j and both are there."""
    return (mask_QD[:, :, None] & mask_QD[:, None, :]).triu(diagonal=1)


def _differences(states_QDH: Tensor) -> Tensor:
    """[Q, D, D, H] state of the second document minus that of the first."""
    return states_QDH[:, None, :, :] - states_QDH[:, :, None, :]


def _lengths(differences_QDDH: Tensor) -> Tensor:
    """[Q, D, D] Euclidean lengths, with a gradient of 0 where one is 0."""
    squares_QDD = differences_QDDH.square().sum(dim=3)
    apart_QDD = squares_QDD > 0.0
    return torch.where(apart_QDD, torch.where(apart_QDD, squares_QDD, 1.0).sqrt(), 0.0)


def _per_mean(lengths_QDD: Tensor, pairs_QDD: Tensor) -> Tensor:
    """The lengths divided by their mean over the pairs of the query; 0 where that is 0."""
    mean_Q = _mean(lengths_QDD, pairs_QDD)
    divisor_Q = torch.where(mean_Q > 0.0, mean_Q, 1.0)
    return lengths_QDD / divisor_Q[:, None, None]


def _cosines(differences_QDDH: Tensor) -> Tensor:
    """[Q, D, D, D] cosine of the angle at the first document between the other two."""
    lengths_QDD = _lengths(differences_QDDH)
    units_QDDH = differences_QDDH / torch.where(lengths_QDD > 0.0, lengths_QDD, 1.0)[:, :, :, None]
    return units_QDDH @ units_QDDH.transpose(2, 3)


def _huber(student: Tensor, teacher: Tensor) -> Tensor:
    return smooth_l1_loss(student, teacher, reduction="none")


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """[Q] mean of the values of each query where the mask is True; 0 where it nowhere is."""
    sums_Q = torch.where(mask, values, 0.0).flatten(1).sum(dim=1)
    return sums_Q / mask.flatten(1).sum(dim=1).clamp(min=1)
