"""The settings of stage 1, continued pretraining."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from disranker.config.parts import Positive, TrainedStage
from disranker.settings import InputPath


class PretrainConfig(TrainedStage):
    """Stage 1: continued pretraining of a decoder on query → clicked title + summary."""

    clicks: list[InputPath]
    """Click logs: Parquet, JSONL, CSV or TSV."""
    max_clicks: Positive | None = None
    """Read no more rows than this; null reads all."""
    dev_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    """Share of the queries held out to measure the loss; all clicks of a query stay together."""
