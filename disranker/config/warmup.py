"""The settings of the warm-up of an encoder by masked-language modelling."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from disranker.config.parts import TrainedStage
from disranker.settings import InputPath


class WarmupConfig(TrainedStage):
    """Warm-up of an encoder on the domain's own texts, before it learns to rank."""

    clicks: list[InputPath] = []
    """Click logs: every row is a query with the document that was clicked for it, masked together, so that the words of
    one are learnt from those of the other."""
    candidates: list[InputPath] = []
    """Candidates or judged pairs: their documents alone, for nobody said that they answer the query."""
    dev_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    """Share of the documents held out to measure perplexity on; all rows of a document stay together."""
    mask_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Share of a row's tokens that are to be predicted, drawn anew in every epoch."""

    @model_validator(mode="after")
    def _some_texts(self) -> Self:
        if not self.clicks and not self.candidates:
            raise ValueError("there are no texts: give clicks or candidates")
        return self

    @model_validator(mode="after")
    def _no_score_yet(self) -> Self:
        if self.model.head != "last-token":
            raise ValueError(f"model.head is {self.model.head}, but there is no score head yet: leave it out")
        return self
