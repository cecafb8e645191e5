"""The objective of stage 3: one forward of the student a group, and the weighted sum of all signals of its outputs.

How terms are normalised: each is summed over the queries that have something for it, and all are divided by one count,
the queries of the step.  A query without a judged document adds nothing to the terms on labels, and a query weighs the
same whatever else is in its step; so the cut into steps, micro-batches and ranks changes nothing, and over an epoch the
sum is the mean over all queries of what each has.  Where few queries are judged, terms on labels are small: a weight of
queries / judged queries makes them a mean over the judged ones.  `share_taught` and `share_judged` say how many queries
of a step had something; a part divided by its share is the mean over those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from disranker.config.distill_terms import NEED_TEACHER
from disranker.models.build import count_parameters, describe
from disranker.train.robustness import make_robust
from disranker.train.signals import LabelSignal, score_signals
from disranker.train.state_signals import build_student

if TYPE_CHECKING:
    from disranker.config.distill import DistillConfig
    from disranker.config.distill_terms import Term
    from disranker.data.batches import DistillBatch
    from disranker.models.ranker import Ranker
    from disranker.models.states import Outputs
    from disranker.models.student import Student
    from disranker.teacher.store import Store
    from disranker.text.encode import PairEncoder
    from disranker.train.engine import Objective
    from disranker.train.signals import Signal


class Weighed(NamedTuple):
    """A signal with the term that it comes from."""

    term: Term
    signal: Signal


def build_objective(
    config: DistillConfig, ranker: Ranker, encoder: PairEncoder, store: Store
) -> tuple[Student, Objective]:
    """What is trained, and what it learns.

    Raises:
        ValueError: a term does not go with the student, the teacher or the store.
    """
    student, of_states = build_student(ranker, config, encoder, store)
    signals = {signal.name: signal for signal in (*score_signals(config.distill), *of_states)}
    terms = [Weighed(term, signals[term.name]) for term in config.distill]
    terms += [Weighed(term, LabelSignal(term)) for term in config.supervised]
    objective = DistillObjective(terms, log_shares=bool(config.supervised))
    return student, make_robust(objective, student, config)


def describe_student(student: Student) -> str:
    """One line on what is trained for a run's plan."""
    _, num_projected = count_parameters(student.projections)
    beside = f"; {num_projected:,} parameters of projections, no part of the bundle" if num_projected else ""
    return describe(student.ranker.model) + beside


class DistillObjective:
    """Stage 3: the weighted sum of what the teacher and the labels say of the student's outputs."""

    unit = "queries"

    def __init__(self, terms: Sequence[Weighed], *, log_shares: bool = False) -> None:
        """`log_shares`: log the shares of queries with a scored and with a judged document, too."""
        self._terms, self._log_shares = terms, log_shares

    def count(self, batch: DistillBatch) -> float:
        """Queries of the batch."""
        return batch.weight * len(batch.docs_per_query)

    def loss(self, model: Callable[..., Outputs], batch: DistillBatch, step: int) -> dict[str, Tensor]:
        """One forward, and the parts of its outputs."""
        return self.parts(model(batch.packed), batch, step)

    def parts(self, outputs: Outputs, batch: DistillBatch, step: int) -> dict[str, Tensor]:
        """The sum as `loss`, and every term before weighting, each summed over queries.

        A term outside its window is not in the sum; it is logged all the same, unless it needs the teacher to run.
        """
        parts = {
            signal.name: signal.loss(outputs, batch)
            for term, signal in self._terms
            if term.covers(step) or term.name not in NEED_TEACHER
        }
        parts = {"loss": self._sum(parts, step), **parts}
        if self._log_shares:
            parts["share_taught"] = batch.taught_QD.any(dim=1).sum()
            parts["share_judged"] = batch.judged_QD.any(dim=1).sum()
        return {name: batch.weight * part for name, part in parts.items()}

    def _sum(self, parts: Mapping[str, Tensor], step: int) -> Tensor:
        weighed = [
            term.weight * parts[signal.name] for term, signal in self._terms if term.weight > 0.0 and term.covers(step)
        ]
        return sum(weighed[1:], start=weighed[0])
