"""The judged set that systems are measured on: its rows, its labels, and the hash by which it is known again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from disranker.data.readers import read_candidates, read_judged, read_trec_qrels
from disranker.evaluation.measures import group_labels
from disranker.schema import Candidate, Judgment
from disranker.shards import file_hash


@dataclass(frozen=True, slots=True)
class TestSet:
    """What is ranked, and the labels that judge it."""

    rows: Sequence[Judgment | Candidate]
    labels: dict[str, dict[str, int]]
    hash: str
    """Of the judgments: systems with different ones must not be compared."""
    path: str


def read_test_set(judged: Sequence[Path], candidates: Sequence[Path], qrels: Path | None) -> TestSet:
    """The judged rows themselves, or candidates re-ranked and measured with the judgments (of `qrels`, if given)."""
    judgments = list(read_judged(judged)) if judged else []
    rows: list[Judgment | Candidate] = [*read_candidates(candidates)] if candidates else [*judgments]
    labels = read_trec_qrels(qrels) if qrels else group_labels(judgments)
    sources = [qrels] if qrels else list(judged)
    # A query without a judgment measures nothing; TREC's topic files list some.
    rows = [row for row in rows if row.query_id in labels]
    return TestSet(rows, labels, " ".join(map(file_hash, sources)), " ".join(map(str, sources)))
