"""The settings of stage 2, training a ranker on judged pairs."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from disranker.config.losses import LossTerm, LossTerms, check_terms
from disranker.config.parts import RankerStage
from disranker.config.sampling import SamplingConfig
from disranker.settings import InputPath


class RankConfig(RankerStage):
    """Stage 2, and the baseline students: a ranker trained on judged pairs."""

    judged: list[InputPath]
    """Judged pairs to train on."""
    loss: LossTerms = [LossTerm(name="hinge")]
    """What is minimised: a loss by its name, or a list of losses of which the weighted sum counts, as in
    [hinge, {name: lambda, weight: 0.5, k: 10}]."""
    sampling: SamplingConfig = SamplingConfig()
    """Which documents of a query are in its group, besides `docs_per_query`."""

    @model_validator(mode="after")
    def _loss_is_a_sum(self) -> Self:
        check_terms(self.loss)
        return self

    @model_validator(mode="after")
    def _room_for_judged_documents(self) -> Self:
        if self.sampling.num_negatives >= self.docs_per_query:
            raise ValueError(
                f"sampling gives a group {self.sampling.num_negatives} negatives, and docs_per_query is "
                f"{self.docs_per_query}: no place is left for a judged document"
            )
        return self
