"""The settings of evaluation and its report."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from disranker.config.parts import Positive, Share, Weight
from disranker.settings import InputPath, OutputFolder, Settings

Seconds = Annotated[float, Field(gt=0.0)]
Inside = Annotated[float, Field(gt=0.0, lt=1.0)]
"""Between 0 and 1, neither of them."""


class RulesConfig(Settings):
    """What measuring does with the cases on which evaluation tools differ; the defaults are those of trec_eval -c."""

    unjudged: Literal["zero", "error", "skip"] = "zero"
    """Scored documents without a label: label 0; refused; or taken out of the run (condensed list)."""
    missing: Literal["zero", "error", "skip"] = "zero"
    """Judged queries that a run lacks: value 0; refused; or in no figure."""
    no_relevant: Literal["zero", "skip"] = "zero"
    """Judged queries without a label above 0: value 0 in every measure of positives; or in no figure."""
    ties: Literal["doc_id", "pessimistic"] = "doc_id"
    """Places of documents with equal scores: by doc_id, descending; or the lower label first."""


class LatencyConfig(Settings):
    """Latency of single requests: one query with so many documents, short, middle and long ones."""

    documents: list[Positive] = [1, 10, 100]
    """Documents of a request; each makes three cells, one a third of the rows by length."""
    seconds: Seconds = 2.0
    """Time budget of a cell, in seconds of scoring; a bundle or export takes 3 x this for each number of documents."""

    @model_validator(mode="after")
    def _different_numbers(self) -> Self:
        if not self.documents or len(set(self.documents)) < len(self.documents):
            raise ValueError(f"documents: {self.documents} must be different numbers, at least one")
        return self


class SystemConfig(Settings):
    """One system to evaluate."""

    kind: Literal["bundle", "onnx", "run", "bm25", "random"]
    """bundle: a ranker; onnx: an export folder; run: a TREC run; bm25 and random need no path."""
    path: InputPath | None = None
    """The bundle, export folder or run."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of a bundle's weights while it scores."""
    variant: str | None = None
    """Variant of an export; null: the one that was fastest when it was made."""
    price_per_hour: Weight | None = None
    """Price of the machine that it runs on, per hour; the report has the cost of a million pairs from it."""

    @model_validator(mode="after")
    def _path_fits(self) -> Self:
        if (self.path is None) != (self.kind in ("bm25", "random")):
            raise ValueError(f"kind {self.kind} {'takes no' if self.path else 'needs a'} path")
        if self.variant is not None and self.kind != "onnx":
            raise ValueError(f"kind {self.kind} has no variants; leave variant out")
        if self.price_per_hour is not None and self.kind in ("run", "random"):
            raise ValueError(f"kind {self.kind} is not timed, so a price_per_hour says nothing; leave it out")
        return self


class EvalConfig(Settings):
    """Evaluation: systems score judged pairs (or rerank candidates) and are measured."""

    out: OutputFolder
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
    rules: RulesConfig = RulesConfig()
    """Queries without positives, unjudged documents, missing queries, ties."""
    latency: LatencyConfig | None = None
    """Also measure the latency of single requests, of bundles and exports; null does not."""
    currency: str = ""
    """Unit of the systems' price_per_hour, as the report writes it."""
    tokens_per_batch: Positive | None = None
    """Tokens scored at once, halved by itself when memory runs out; null: 2,048 on a CPU, 8,192 on a GPU."""
    seed: int = 0
    """Seed of the random order."""

    @model_validator(mode="after")
    def _some_judgments(self) -> Self:
        if not self.judged and self.qrels is None:
            raise ValueError("give judged, or qrels together with candidates")
        if self.qrels is not None and not self.candidates:
            raise ValueError("qrels hold no texts: give the candidates to rank")
        return self


class SlicesConfig(Settings):
    """Measures by slice of the queries."""

    by: list[Literal["length", "script", "label", "relevant", "clicks"]] = ["length", "script", "label"]
    """length: words of the query; script: zh, en or other; label: the best one of the query; relevant: how many
    documents have a label above 0; clicks: the query's clicks in the click log (needs clicks.log)."""
    table: InputPath | None = None
    """CSV, JSONL or Parquet with a column query_id and others to slice by."""
    columns: list[str] = []
    """Columns of the table; numbers are cut into quarters, texts stand as they are."""

    @model_validator(mode="after")
    def _table_fits(self) -> Self:
        if (self.table is None) != (not self.columns):
            raise ValueError("table and columns go together: give both or neither")
        if not self.by and not self.columns:
            raise ValueError("nothing to slice by: name something in by or columns")
        return self


class CutoffsConfig(Settings):
    """Cut-offs on the score (show or hide), and how well scores read as probabilities."""

    relevant: Positive = 1
    """A document is positive from this label on."""
    thresholds: list[float] = []
    """Scores to cut at, besides the one with the best F1."""


class CascadeConfig(Settings):
    """What a cascade would be worth: the student ranks everything, the teacher re-orders what is uncertain."""

    rules: list[Literal["depth", "band", "margin"]] = ["band", "depth"]
    """What is sent on first. depth: the first documents of every query; band: documents whose score is near the cut;
    margin: whole queries with the smallest gap at the cut."""
    cut: Positive = 10
    """Position after which the cut of band and margin lies."""
    shares: list[Share] = [0.05, 0.1, 0.2, 0.3, 0.5, 0.75]
    """Shares of the pairs to send on; 0 and 1 are always there."""

    @model_validator(mode="after")
    def _different_rules(self) -> Self:
        if not self.rules or len(set(self.rules)) < len(self.rules):
            raise ValueError(f"rules: {self.rules} must be different rules, at least one")
        return self


class ClicksConfig(Settings):
    """What users would have done with each ranking, estimated from a click log by inverse propensity scoring."""

    log: list[InputPath]
    """Click logs with impressions and positions, of the queries that were measured; with the rows of 0 clicks, if the
    log has them, estimates need fewer assumptions."""
    depth: Positive = 10
    """Positions that count, from the first."""
    propensities: list[Seconds] | None = None
    """How likely each position is examined, from the first; null estimates them from the log."""
    clip: Annotated[float, Field(gt=0.0)] | None = 10.0
    """Largest weight of a click; null bounds none."""
    long_click_seconds: Seconds = 30.0
    """Dwell time from which a click is a long one."""

    @model_validator(mode="after")
    def _depth_fits(self) -> Self:
        if self.propensities is not None and self.depth != type(self).model_fields["depth"].default:
            raise ValueError("depth is the number of propensities when they are given; leave it out")
        return self


class InterleavingConfig(Settings):
    """Team-draft interleaving of the two systems in focus, with the simulated users of the built-in world."""

    sessions: Positive = 20
    """Sessions of every query."""


class ReportConfig(Settings):
    """The report over evaluated systems.

    Two systems are in focus: the student, or the best one where none is named, against the baseline, the teacher or
    the second best, whichever comes first.  They are sliced and interleaved, and stand side by side at first.
    """

    evaluated: list[InputPath]
    """Folders that eval/run.py wrote."""
    out: OutputFolder
    """Folder for report.html, report.md and report.json."""
    judged: list[InputPath] = []
    """The judged pairs that were measured: gives the page its query texts and rankings side by side."""
    candidates: list[InputPath] = []
    """The candidates that were ranked, where they are not the judged pairs."""
    qrels: InputPath | None = None
    """The TREC qrels that were measured with, where judged was not."""
    more_sets: dict[str, list[InputPath]] = {}
    """Other judged sets: name → folders that eval/run.py wrote on them; each gets its systems and comparisons,
    against the baseline where it is among them."""
    title: str = "Ranker evaluation"
    """Heading of the report."""
    measures: list[str] | None = None
    """Measures to show; null takes the standard ones (nDCG@5, nDCG@10, PNR) that every system has."""
    baseline: str | None = None
    """System that the others are compared with; null compares each with the next better one."""
    teacher: str | None = None
    """System that taught the student: retention, agreement and speed-up are against it."""
    student: str | None = None
    """System that the teacher taught; give both or neither."""
    slices: SlicesConfig | None = None
    """Measures by slice of the queries; null leaves them out."""
    cutoffs: CutoffsConfig | None = None
    """Cut-offs on the score and its calibration; null leaves them out."""
    cascade: CascadeConfig | None = None
    """Student first, teacher for what is uncertain; needs teacher and student; null leaves it out."""
    clicks: ClicksConfig | None = None
    """Estimates of online metrics from a click log; null leaves them out."""
    interleaving: InterleavingConfig | None = None
    """Interleaving with simulated users; null leaves it out."""
    gsb_threshold: Inside = 0.05
    """Difference of a query's measure from which on it is good or bad."""
    power_delta: Annotated[float, Field(gt=0.0)] | None = None
    """Difference that matters to you: the report says how many queries would show it; null takes the observed one."""
    samples: Positive = 10_000
    """Random exchanges of a test, and bootstrap samples of an interval."""
    seed: int = 0
    """Seed of both, and of all other draws."""
    confidence: Inside = 0.95
    """Share of bootstrap samples that an interval holds."""
    notes: dict[str, str] = {}
    """Sections of your own: heading → text; blank lines part paragraphs, lines that begin with | make a table."""
    generated: str | None = None
    """A line under the heading, such as a date; without one the same input gives the same files."""

    @model_validator(mode="after")
    def _teacher_and_student(self) -> Self:
        if (self.teacher is None) != (self.student is None):
            raise ValueError("teacher and student go together: name both systems or neither")
        if self.teacher is not None and self.teacher == self.student:
            raise ValueError(f"teacher and student are both {self.teacher}; name two systems")
        if self.cascade is not None and self.teacher is None:
            raise ValueError("cascade needs teacher and student: name both systems")
        return self

    @model_validator(mode="after")
    def _judgments_are_there(self) -> Self:
        if self.qrels is not None and not self.candidates:
            raise ValueError("qrels hold no texts: give the candidates that were ranked too")
        asked: dict[str, Any] = {
            "teacher and student": self.teacher,
            "slices": self.slices,
            "cutoffs": self.cutoffs,
            "interleaving": self.interleaving,
            "clicks": self.clicks,
            "candidates": self.candidates,
        }
        needing = [name for name, part in asked.items() if part]
        if needing and not self.judged and self.qrels is None:
            raise ValueError(f"{', '.join(needing)}: needs the judgments that were measured; give judged, or qrels")
        return self

    @model_validator(mode="after")
    def _clicks_are_there(self) -> Self:
        if self.slices is not None and "clicks" in self.slices.by and self.clicks is None:
            raise ValueError("slices.by has clicks: give clicks.log")
        return self
