"""Evaluating one system: its scores of a set of rows, what they are worth, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from disranker.data.readers import read_candidates, read_judged, read_trec_qrels
from disranker.evaluation.baselines import bm25_scores, random_scores
from disranker.evaluation.measures import group_labels, group_scores, measure_run
from disranker.evaluation.runs import Efficiency, System, write_system
from disranker.schema import Candidate, Judgment, Pair
from disranker.shards import file_hash

_WARM_UP_PAIRS = 32


class PairScorer(Protocol):
    """Whatever scores pairs: a bundle, an export."""

    @property
    def num_parameters(self) -> int: ...

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class TestSet:
    """What is ranked, and the labels that judge it."""

    rows: Sequence[Judgment | Candidate]
    labels: dict[str, dict[str, int]]
    hash: str
    """Of the judgments: systems with different ones must not be compared."""
    path: str


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a test set's rows and what they cost."""

    scores: NDArray[np.float32]
    efficiency: Efficiency


def read_test_set(judged: Sequence[Path], candidates: Sequence[Path], qrels: Path | None) -> TestSet:
    """The judged rows themselves, or candidates re-ranked and measured with the judgments (of `qrels`, if given)."""
    judgments = list(read_judged(judged)) if judged else []
    rows: list[Judgment | Candidate] = [*read_candidates(candidates)] if candidates else [*judgments]
    labels = read_trec_qrels(qrels) if qrels else group_labels(judgments)
    sources = [qrels] if qrels else list(judged)
    # A query without a judgment measures nothing; TREC's topic files list some.
    rows = [row for row in rows if row.query_id in labels]
    return TestSet(rows, labels, " ".join(map(file_hash, sources)), " ".join(map(str, sources)))


def score_with(scorer: PairScorer, rows: Sequence[Judgment | Candidate], **about: Any) -> Scored:
    """Scores of a model, timed after a short warm-up; `about` goes into the efficiency (bytes, dtype, threads)."""
    pairs = [row.pair for row in rows]
    scorer.score(pairs[:_WARM_UP_PAIRS])
    began = time.perf_counter()
    scores = scorer.score(pairs)
    seconds = time.perf_counter() - began
    speed = len(pairs) / seconds
    return Scored(
        scores,
        Efficiency(parameters=scorer.num_parameters, pairs_per_second=speed, seconds=seconds, **about),
    )


def score_bm25(rows: Sequence[Judgment | Candidate]) -> Scored:
    """BM25 over the documents of the rows."""
    began = time.perf_counter()
    scores = bm25_scores(rows)
    seconds = time.perf_counter() - began
    return Scored(scores, Efficiency(pairs_per_second=len(rows) / seconds, seconds=seconds))


def score_random(rows: Sequence[Judgment | Candidate], seed: int) -> Scored:
    """Random order."""
    return Scored(random_scores(rows, seed), Efficiency())


def score_run(rows: Sequence[Judgment | Candidate], run: Mapping[str, Mapping[str, float]], path: Path) -> Scored:
    """The scores that a TREC run gave the rows.

    Raises:
        ValueError: the run lacks a row; the first few are named.
    """
    missing = [(row.query_id, row.doc_id) for row in rows if row.doc_id not in run.get(row.query_id, {})]
    if missing:
        raise ValueError(f"{path} has no score for {len(missing)} rows, first: {', '.join(map(str, missing[:3]))}")
    return Scored(np.array([run[row.query_id][row.doc_id] for row in rows], dtype=np.float32), Efficiency())


def record_system(
    out: str | Path,
    name: str,
    kind: str,
    test_set: TestSet,
    scored: Scored,
    measures: Sequence[str],
    provenance: Mapping[str, Any],
) -> System:
    """Measure a system's scores and write its run and its metrics."""
    query_ids = [row.query_id for row in test_set.rows]
    doc_ids = [row.doc_id for row in test_set.rows]
    measured = measure_run(test_set.labels, group_scores(query_ids, doc_ids, scored.scores), measures)
    system = System(
        name=name,
        kind=kind,
        measured=measured,
        efficiency=scored.efficiency,
        provenance={"judged": {"path": test_set.path, "hash": test_set.hash}, **provenance},
    )
    return write_system(out, system, query_ids, doc_ids, scored.scores)
