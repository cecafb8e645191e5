"""The settings of stage 3, distillation."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from disranker.config.distill_terms import (
    LEAST_DOCUMENTS,
    NEED_TEACHER,
    DistillTerm,
    DistillTerms,
    SupervisedTerms,
    check_sum,
)
from disranker.config.mining import MiningConfig, check_mining
from disranker.config.parts import RankerStage
from disranker.config.quantisation import QuantisationConfig, check_quantisation
from disranker.config.robustness import ConsistencyConfig, PerturbationConfig, check_perturbation
from disranker.settings import InputPath


class DistillConfig(RankerStage):
    """Stage 3: a student learns what a teacher, and labels if there are any, say of the documents of a query."""

    store: InputPath
    """Store with the teacher's scores; one of several teachers is made by `disranker store fuse`."""
    candidates: list[InputPath]
    """The pairs that were scored."""
    judged: list[InputPath] = []
    """Judged pairs for `supervised`; those that are candidates too have both, a score and a label."""
    teacher: InputPath | None = None
    """Bundle of the teacher, to run beside the student; for hidden-mse and attention-relation."""
    distill: DistillTerms = [DistillTerm(name="point-mse"), DistillTerm(name="margin-mse")]
    """Signals of the teacher, of which the weighted sum is minimised: names, or terms with parameters, as in
    [point-mse, {name: kl, temperature: 2, weight: 0.5, start: 100}].  The default is the paper's hybrid."""
    supervised: SupervisedTerms = []
    """Stage 2's losses on the labels of `judged`, added to the sum with their weights.  Every term is divided by all
    queries of a step, judged or not: with a weight of queries / judged queries it is a mean over the judged ones."""
    perturbation: PerturbationConfig | None = None
    """Learn from texts with moved embeddings, too; null: off."""
    consistency: ConsistencyConfig | None = None
    """Let two passes with different dropout agree; null: off."""
    mining: MiningConfig | None = None
    """Choose the queries and documents that are learned from; null: all of them, drawn evenly."""
    quantisation: QuantisationConfig | None = None
    """Learn the last steps under the rounding of an int8 export; null: off."""

    @model_validator(mode="after")
    def _sum_learns(self) -> Self:
        check_sum(self.distill, self.supervised, self.training.steps)
        return self

    @model_validator(mode="after")
    def _labels_for_supervised(self) -> Self:
        if self.supervised and not self.judged:
            raise ValueError("supervised learns from labels: give judged")
        if self.judged and not self.supervised:
            raise ValueError("judged is read by supervised terms only: name one, as in supervised: [ranknet]")
        return self

    @model_validator(mode="after")
    def _teacher_for_its_terms(self) -> Self:
        running = [term.name for term in self.distill if term.name in NEED_TEACHER]
        if running and self.teacher is None:
            raise ValueError(f"{running[0]} runs the teacher beside the student: give its bundle as teacher")
        if self.teacher is not None and not running:
            raise ValueError(f"teacher is run for {' and '.join(sorted(NEED_TEACHER))} only: leave it out")
        return self

    @model_validator(mode="after")
    def _groups_are_large_enough(self) -> Self:
        for term in self.distill:
            if LEAST_DOCUMENTS[term.name] > self.docs_per_query:
                least = f"{term.name} compares {LEAST_DOCUMENTS[term.name]} documents of a query"
                raise ValueError(f"{least}, and docs_per_query is {self.docs_per_query}: raise it")
        return self

    @model_validator(mode="after")
    def _mining_goes_with_the_rest(self) -> Self:
        if self.mining is not None:
            check_mining(self.mining, self.docs_per_query, self.training)
        return self

    @model_validator(mode="after")
    def _second_passes_can_run(self) -> Self:
        check_perturbation(self.perturbation, self.training.zero_stage)
        return self

    @model_validator(mode="after")
    def _rounded_weights_are_exported(self) -> Self:
        check_quantisation(self.quantisation, self.model, self.training)
        return self
