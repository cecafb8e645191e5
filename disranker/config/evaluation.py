"""The settings of evaluation and its report."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from disranker.config.parts import Positive
from disranker.settings import InputPath, Settings


class SystemConfig(Settings):
    """One system to evaluate."""

    kind: Literal["bundle", "onnx", "run", "bm25", "random"]
    """bundle: a ranker; onnx: an export folder; run: a TREC run; bm25 and random need no path."""
    path: InputPath | None = None
    """The bundle, export folder or run."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of a bundle's weights while it scores."""

    @model_validator(mode="after")
    def _path_fits(self) -> Self:
        if (self.path is None) != (self.kind in ("bm25", "random")):
            raise ValueError(f"kind {self.kind} {'takes no' if self.path else 'needs a'} path")
        return self


class EvalConfig(Settings):
    """Evaluation: systems score judged pairs (or rerank candidates) and are measured."""

    out: str
    """Folder for one run file and one metrics file per system."""
    judged: list[InputPath] = []
    """Judged pairs; by default every system ranks the judged documents of each query."""
    candidates: list[InputPath] = []
    """Rank these instead, and measure with the judgments; unjudged documents count as not relevant."""
    qrels: InputPath | None = None
    """TREC qrels that replace the labels of `judged`, for judgments whose text is not at hand."""
    systems: dict[str, SystemConfig]
    """Name → system."""
    measures: list[str] = ["nDCG@5", "nDCG@10", "PNR"]
    """Measures in ir-measures' syntax, and PNR."""
    tokens_per_batch: Positive = 8192
    """Tokens scored at once."""
    seed: int = 0
    """Seed of the random order."""

    @model_validator(mode="after")
    def _some_judgments(self) -> Self:
        if not self.judged and self.qrels is None:
            raise ValueError("give judged, or qrels together with candidates")
        if self.qrels is not None and not self.candidates:
            raise ValueError("qrels hold no texts: give the candidates to rank")
        return self


class ReportConfig(Settings):
    """The report over evaluated systems."""

    evaluated: list[InputPath]
    """Folders that eval/run.py wrote."""
    out: str
    """Folder for report.html, report.md and report.json."""
    judged: list[InputPath] = []
    """The judged pairs that were measured: gives the page its query texts and rankings side by side."""
    baseline: str | None = None
    """System that the others are compared with; null compares each with the next better one."""
    title: str = "Ranker evaluation"
    """Heading of the report."""
