"""The settings of stage 2, training a ranker on judged pairs."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from disranker.config.parts import RankerStage
from disranker.settings import InputPath


class RankConfig(RankerStage):
    """Stage 2, and the baseline students: a ranker trained on judged pairs."""

    judged: list[InputPath]
    """Judged pairs to train on."""
    loss: Literal["hinge", "ranknet"] = "hinge"
    """Pairwise hinge with margin (the paper's), or RankNet."""
    margin: Annotated[float, Field(gt=0.0)] = 1.0
    """Margin of the hinge, in units of the score."""

    @model_validator(mode="after")
    def _margin_is_the_hinge_s(self) -> Self:
        if self.loss != "hinge" and self.margin != 1.0:
            raise ValueError(f"margin belongs to the hinge loss; {self.loss} has none")
        return self
