"""The settings of scoring: candidates into a store."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from disranker.config.parts import Positive
from disranker.settings import InputPath, OutputFolder, Settings


class ScoreConfig(Settings):
    """Teacher scores of candidates into a store."""

    out: OutputFolder
    """Folder of the store; a store that was begun is gone on with."""
    candidates: list[InputPath]
    """Pairs to score: query_id, doc_id, query, title, summary (other columns are ignored)."""
    teacher: str | None = None
    """Bundle of the teacher; exactly one of `teacher`, `run`, `scores` and `ordering`."""
    run: InputPath | None = None
    """TREC run with the scores of someone else's teacher."""
    scores: InputPath | None = None
    """CSV, TSV, JSONL or Parquet with someone else's scores: query_id, doc_id, score."""
    ordering: InputPath | None = None
    """Someone else's orderings without scores, rows of query_id, doc_ids (best first) and, where doc_ids is the list
    that was shown to a language model, its answer as permutation: "[3] > [1] > [2]"; position p becomes score -p."""
    pairs_per_shard: Positive = 4096
    """Distinct pairs in a shard: what a killed run loses at most on each rank."""
    tokens_per_batch: Positive | None = None
    """Tokens scored at once, halved by itself when memory runs out; null: 2,048 on a CPU, 8,192 on a GPU."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the teacher's weights while it scores."""
    representation: Literal["pooled"] | None = None
    """Also keep the hidden state that the score is read from, in float16: 2 bytes x hidden size a pair."""

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if sum(one is not None for one in (self.teacher, self.run, self.scores, self.ordering)) != 1:
            raise ValueError("give exactly one of teacher, run, scores and ordering")
        of_bundles = ("dtype", "representation", "tokens_per_batch")
        unused = [name for name in of_bundles if getattr(self, name) != type(self).model_fields[name].default]
        if self.teacher is None and unused:
            raise ValueError(f"{', '.join(unused)} is for a teacher that is a bundle; leave it out")
        return self
