"""The settings of scoring: candidates into a store."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from disranker.config.parts import Positive
from disranker.settings import InputPath, Settings


class ScoreConfig(Settings):
    """Teacher scores of candidates into a store."""

    out: str
    """Folder of the store; a store that was begun is gone on with."""
    candidates: list[InputPath]
    """Pairs to score: query_id, doc_id, query, title, summary (other columns are ignored)."""
    teacher: str | None = None
    """Bundle of the teacher; exactly one of `teacher` and `run`."""
    run: InputPath | None = None
    """TREC run with the scores of someone else's teacher."""
    pairs_per_shard: Positive = 4096
    """Distinct pairs in a shard: what a killed run loses at most."""
    tokens_per_batch: Positive = 8192
    """Tokens scored at once; halved by itself when memory runs out."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the teacher's weights while it scores."""

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if (self.teacher is None) == (self.run is None):
            raise ValueError("give exactly one of teacher and run")
        return self
