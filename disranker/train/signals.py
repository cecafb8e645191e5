"""Signals of stage 3: what a student's outputs of a batch are compared with, each as one summed loss.

Here are those that read scores alone: the teacher's scores or order, and stage 2's losses on labels.  Those that look
at states are in `disranker.train.state_signals`.  Weights and windows belong to `disranker.train.distilling`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from disranker.losses.distill import (
    adr_mse,
    cross_entropy,
    kl_divergence,
    margin_mse,
    point_mse,
    score_differences,
    weighted_kl,
)
from disranker.losses.ranking import ranknet
from disranker.train.objectives import ranking_loss, scores_by_query

if TYPE_CHECKING:
    from disranker.config.distill_terms import DistillTerm, SupervisedTerm, TermName
    from disranker.data.batches import DistillBatch
    from disranker.models.states import Outputs

_LOSSES: Mapping[TermName, Callable[..., Tensor]] = {
    "point-mse": point_mse,
    "margin-mse": margin_mse,
    "score-differences": score_differences,
    "kl": kl_divergence,
    "cross-entropy": cross_entropy,
    "weighted-kl": weighted_kl,
    "ranknet": ranknet,
    "adr-mse": adr_mse,
}


class Signal(Protocol):
    """One thing to learn from a batch."""

    @property
    def name(self) -> str:
        """What its part of the loss is called in metrics.jsonl."""

    def loss(self, outputs: Outputs, batch: DistillBatch) -> Tensor:
        """Summed over the queries of the batch, before any weight; a query with nothing to learn adds zero."""


class ScoreSignal:
    """The teacher's scores, or their order, against the student's scores of the documents that the teacher scored."""

    def __init__(self, term: DistillTerm) -> None:
        self.name = term.name
        self._loss, self._parameters = _LOSSES[term.name], term.parameters

    def loss(self, outputs: Outputs, batch: DistillBatch) -> Tensor:
        """Summed over queries."""
        scores_QD = scores_by_query(outputs.scores_B, batch.mask_QD)
        return self._loss(scores_QD, batch.teacher_QD, batch.taught_QD, reduction="sum", **self._parameters)


class LabelSignal:
    """One of stage 2's losses on the documents that are judged."""

    def __init__(self, term: SupervisedTerm) -> None:
        self.name = f"supervised.{term.name}"
        self._term = term

    def loss(self, outputs: Outputs, batch: DistillBatch) -> Tensor:
        """Summed over queries."""
        scores_QD = scores_by_query(outputs.scores_B, batch.mask_QD)
        return ranking_loss(self._term, scores_QD, batch.labels_QD, batch.judged_QD)


def score_signals(terms: Sequence[DistillTerm]) -> list[Signal]:
    """The signals of those terms that this module reads, in their order."""
    return [ScoreSignal(term) for term in terms if term.name in _LOSSES]
