"""What `disranker check` found, as records and as lines for a terminal or a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from disranker.data.faults import Fault, Kind

Content = Literal["clicks", "judged", "candidates", "qrels", "run", "corpus", "queries"]


class Spread(NamedTuple):
    """Nearest-rank percentiles of whole numbers."""

    lowest: int
    median: int
    p95: int
    highest: int


@dataclass(frozen=True, slots=True)
class FileReport:
    """What one file holds; rows at fault are not counted among its rows."""

    path: str
    content: Content
    num_rows: int
    num_faults: int
    num_queries: int
    num_documents: int
    """Distinct doc_ids; in clicks, which have none, distinct texts."""
    docs_per_query: Spread | None
    chars: Mapping[str, Spread]
    """Text field -> its lengths over the rows, in characters."""
    labels: Mapping[int, int]
    """Label -> number of rows."""
    num_repeated: int
    """Rows that repeat an earlier pair; among clicks that is no fault."""
    ignored_columns: tuple[str, ...]


@dataclass(slots=True)
class CheckReport:
    """What all paths hold; `faults` are the first of `num_faults`."""

    files: list[FileReport] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    num_faults: int = 0
    num_faults_by_kind: Counter[Kind] = field(default_factory=Counter)

    @property
    def exit_code(self) -> int:
        """0: all sound; 1: there are faults; 2: a path is missing, unreadable or of no known kind."""
        if self.num_faults_by_kind["path"]:
            return 2
        return 1 if self.num_faults else 0


def format_report(report: CheckReport) -> str:
    """The report as lines for a terminal or a log: the files, then the faults, then one line that sums up."""
    lines: list[str] = []
    for file in report.files:
        lines.append(f"{file.path}: {file.content}, {file.num_rows:,} rows" + _faulty(file.num_faults))
        if file.num_queries:
            lines.append(f"  queries {file.num_queries:,}")
        if file.num_documents:
            lines.append(f"  documents {file.num_documents:,}")
        if file.docs_per_query is not None:
            sizes = file.docs_per_query
            lines.append(f"  documents per query: min {sizes.lowest}, median {sizes.median}, max {sizes.highest}")
        for name, spread in file.chars.items():
            lines.append(f"  {name} characters: median {spread.median}, p95 {spread.p95}, max {spread.highest}")
        if file.labels:
            histogram = ", ".join(f"{label}: {count:,}" for label, count in file.labels.items())
            lines.append(f"  labels {histogram}")
        if file.num_repeated:
            lines.append(f"  repeated pairs {file.num_repeated:,}")
        if file.ignored_columns:
            lines.append(f"  ignored columns: {', '.join(file.ignored_columns)}")
    lines += [str(fault) for fault in report.faults]
    if report.num_faults > len(report.faults):
        lines.append(f"… and {report.num_faults - len(report.faults):,} more faults")
    if report.num_faults:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in report.num_faults_by_kind.most_common())
        lines.append(f"{_count(report.num_faults, 'fault')} in {_count(len(report.files), 'file')} ({kinds})")
    else:
        lines.append(f"no fault in {_count(len(report.files), 'file')}")
    return "\n".join(lines)


def _faulty(num_faults: int) -> str:
    return f", {_count(num_faults, 'fault')}" if num_faults else ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
