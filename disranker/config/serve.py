"""The settings of the server."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from disranker.config.parts import Positive
from disranker.settings import InputPath, Settings

MAX_DOCUMENTS = 10_000
"""Documents of a request at the very most: beyond it a body is not even read to its end."""

Seconds = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]


class LimitsConfig(Settings):
    """What a request may ask for; whatever goes beyond is refused with a message, and nothing of it is scored."""

    documents: Annotated[int, Field(ge=1, le=MAX_DOCUMENTS)] = 1000
    """Documents of a request."""
    query_chars: Positive = 4000
    """Characters of a query."""
    document_chars: Positive = 100_000
    """Characters of a document, title and summary together; the ranker reads far fewer, but all are tokenized."""
    body_bytes: Positive = 8_000_000
    """Bytes of a request's body."""
    requests: Positive = 256
    """Requests at once, with those whose bodies are still coming; more are answered with 429."""
    queued_pairs: Positive = 4000
    """Pairs that wait or are being scored; a request that would take them beyond is answered with 429."""
    seconds: Seconds = 30.0
    """Time that a body has to come (408), and time that its scores have: 503 after it, and 429 where it is foreseen."""

    @model_validator(mode="after")
    def _the_queue_takes_a_request(self) -> Self:
        if self.queued_pairs < self.documents:
            raise ValueError(
                f"queued_pairs = {self.queued_pairs} would refuse a request of {self.documents} documents, "
                "which `documents` allows: raise it, or lower documents"
            )
        return self


class ServedCascadeConfig(Settings):
    """Documents that the student is not sure of: the teacher orders them, a file keeps them, or both."""

    teacher: InputPath | None = None
    """Bundle or export that scores them anew; null: the student's order stands."""
    uncertain_file: str | None = None
    """JSONL that each such pair is appended to once, with its scores: candidates for the next run of rank/score.py.
    It holds users' queries."""
    rule: Literal["band", "margin", "depth"] = "band"
    """band: documents whose score is near the cut between positions `cut` and `cut` + 1; margin: whole queries whose
    scores at these two positions are near one another; depth: the first documents.  eval/report.py shows what each is
    worth at which threshold (its field `cascade`)."""
    threshold: NotNegative
    """Distance from the cut, margin (both in units of the student's raw score), or number of first documents, up to
    which documents are uncertain."""
    cut: Positive = 10
    """Position after which the cut lies; rules band and margin."""
    documents: Annotated[int, Field(ge=2)] = 20
    """Uncertain documents of a request at most, the most uncertain first."""
    seconds: Seconds = 10.0
    """Time that the teacher has for a request; after it, or when it fails, the student's order is the answer."""
    max_bytes: Positive = 100_000_000
    """Size at which `uncertain_file` is not appended to any more."""

    @model_validator(mode="after")
    def _for_something(self) -> Self:
        if self.teacher is None and self.uncertain_file is None:
            raise ValueError(
                "give a teacher that scores uncertain documents, or an uncertain_file that they are written to"
            )
        if self.rule == "depth" and not self.threshold.is_integer():
            raise ValueError(f"threshold = {self.threshold:g}: with the rule depth it is a number of documents")
        if self.rule == "depth" and self.cut != type(self).model_fields["cut"].default:
            raise ValueError("cut belongs to the rules band and margin; depth has none")
        return self


class ServeConfig(Settings):
    """A ranker behind HTTP."""

    path: InputPath
    """Bundle (scored with torch) or export (scored with onnxruntime or OpenVINO); may stand first, without --path."""
    variant: str | None = None
    """Variant of an export; null: the one that it names as the fastest."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all.  There is no authentication."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    name: str | None = None
    """What clients call the model; null: the name of its folder."""
    threads: Positive | None = None
    """Threads of a forward pass on the CPU; null: as many as torch takes."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of a bundle's weights; scores in float32 are those of the offline evaluation to within 1e-5."""
    tokens_per_batch: Positive | None = None
    """Tokens of one forward pass, of one request or of several; null: 2,048 on a CPU, 8,192 on a GPU."""
    wait_milliseconds: NotNegative = 2.0
    """Time that a batch which is not full waits for other requests."""
    stop_seconds: Positive = 30
    """Time that running requests have after SIGTERM or Ctrl-C."""
    limits: LimitsConfig = LimitsConfig()
    cascade: ServedCascadeConfig | None = None
    """A second look at documents that the ranker is not sure of; null: none."""

    @model_validator(mode="after")
    def _the_teacher_leaves_time_for_an_answer(self) -> Self:
        cascade = self.cascade
        if cascade is not None and cascade.teacher is not None and cascade.seconds >= self.limits.seconds:
            raise ValueError(
                f"cascade.seconds = {cascade.seconds:g} is no less than limits.seconds = {self.limits.seconds:g}, "
                "which student and teacher have together: lower it"
            )
        return self
