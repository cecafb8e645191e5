"""The settings of stage 1, continued pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from disranker.config.clicks import EvidenceConfig
from disranker.config.parts import Positive, TrainedStage, Weight
from disranker.settings import InputPath, Settings


class ObjectivesConfig(Settings):
    """What a click is learnt as.

    Every epoch shows every click once, in a form drawn anew by (seed, epoch); the numbers are the shares of the clicks,
    of their sum.  A predicted token weighs the same in each form, and what is conditioned on carries no loss.
    """

    document_given_query: Weight = 1.0
    """Share of the clicks (of the sum of these three) that an epoch shows as title and summary given the query, which
    is the paper's objective; which clicks, is drawn anew in every epoch."""
    query_given_document: Weight = 0.0
    """Share of the clicks that an epoch shows as the query given title and summary: the model becomes a generator of
    queries, in the words of text.template."""
    document: Weight = 0.0
    """Share of the clicks that an epoch shows as title and summary alone."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not any(self.shares().values()):
            raise ValueError("every share of objectives is 0: nothing would be learned")
        return self

    def shares(self) -> dict[str, float]:
        """Objective → its share, those of 0 left out."""
        return {name: share for name, share in self if share > 0.0}


class ReplayConfig(Settings):
    """General text that is learnt beside the clicks, so that the model does not forget it."""

    texts: Annotated[list[InputPath], Field(min_length=1)]
    """JSONL, Parquet, CSV or TSV with a column `text`, or with `title` and `summary`; or .txt with one text a line.  A
    long text is cut into pieces of text.max_tokens."""
    share: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Share of general text among the tokens of an epoch; what is not seen in one epoch is seen in the next."""


class PenaltyConfig(Settings):
    """A pull of the weights back to where they started."""

    kind: Literal["l2-sp", "ewc"]
    """l2-sp pulls every weight alike (arXiv 1802.01483); ewc pulls each by how much general text depends on it, its
    diagonal Fisher information on replay.texts (arXiv 1612.00796)."""
    weight: Annotated[float, Field(gt=0.0)]
    """Factor of half the sum of squared moves.  With ewc that half estimates the nats that a token of general text
    loses, and 1 counts them like those of a token that is learnt."""
    fisher_texts: Positive = 256
    """Pieces of general text that the Fisher information is estimated on, one gradient each (kind ewc)."""

    @model_validator(mode="after")
    def _fisher_belongs_to_ewc(self) -> Self:
        if self.kind != "ewc" and self.fisher_texts != type(self).model_fields["fisher_texts"].default:
            raise ValueError(f"fisher_texts belongs to ewc; {self.kind} has none")
        return self

    def describe(self) -> str:
        """One line for the plan of a run."""
        told = f", Fisher information of {self.fisher_texts:,} pieces at most" if self.kind == "ewc" else ""
        return f"{self.weight:g} x {self.kind}{told}"


class PretrainConfig(TrainedStage):
    """Stage 1: continued pretraining of a decoder on query → clicked title + summary."""

    clicks: list[InputPath]
    """Click logs: Parquet, JSONL, CSV or TSV."""
    max_clicks: Positive | None = None
    """Read no more rows than this; null reads all."""
    dev_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    """Share of the queries (and of the general texts) held out to measure the loss; all clicks of a query stay
    together."""
    evidence: EvidenceConfig = EvidenceConfig()
    objectives: ObjectivesConfig = ObjectivesConfig()
    replay: ReplayConfig | None = None
    """Learn general text beside the clicks."""
    penalty: PenaltyConfig | None = None
    """Keep the weights near their start; in 0 to 2 of ZeRO, with LoRA (not DoRA) or all weights."""
    general_dev: list[InputPath] = []
    """General text to measure perplexity on, in the formats of replay.texts; empty: the held-out part of those."""

    @model_validator(mode="after")
    def _ewc_has_general_text(self) -> Self:
        if self.penalty is not None and self.penalty.kind == "ewc" and self.replay is None:
            raise ValueError("penalty ewc estimates what general text depends on: set replay too, or choose l2-sp")
        return self

    @model_validator(mode="after")
    def _there_is_a_start_to_stay_near(self) -> Self:
        if self.penalty is None:
            return self
        if self.model.name is None:
            raise ValueError("penalty keeps a model near its start, and model.architecture starts from random weights")
        if self.training.zero_stage == 3:
            raise ValueError("penalty compares whole weights, which training.zero_stage 3 partitions: use 0, 1 or 2")
        if self.model.lora is not None and self.model.lora.variant == "dora":
            raise ValueError("penalty knows how far lora and rslora move a weight, but not dora: set another variant")
        if self.penalty.kind == "ewc" and self.model.quantization is not None:
            raise ValueError("penalty ewc needs gradients of the weights, which 4-bit ones have none of: choose l2-sp")
        return self

    @model_validator(mode="after")
    def _general_dev_is_not_trained_on(self) -> Self:
        both = sorted({str(path) for path in self.general_dev} & {str(path) for path in self._replayed_files()})
        if both:
            raise ValueError(f"general_dev and replay.texts share {', '.join(both)}: measure on what is not learnt")
        return self

    @model_validator(mode="after")
    def _something_to_evaluate_on(self) -> Self:
        if self.training.evaluate_every is not None and self.dev_share == 0.0:
            raise ValueError("training.evaluate_every measures on held-out clicks: set dev_share above 0")
        return self

    def _replayed_files(self) -> list[Path]:
        return [] if self.replay is None else self.replay.texts
