"""Evaluating one system: its scores of a set of rows, what they are worth, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from disranker.config.evaluation import LatencyConfig
from disranker.evaluation.baselines import bm25_scores, random_scores
from disranker.evaluation.efficiency import measure_latency
from disranker.evaluation.judged_set import TestSet
from disranker.evaluation.measures import DEFAULT_RULES, Rules, group_scores, measure_run
from disranker.evaluation.runs import Efficiency, System, write_system
from disranker.models.bundle import read_facts
from disranker.schema import Candidate, Judgment, Pair

_WARM_UP_PAIRS = 32


class PairScorer(Protocol):
    """Whatever scores pairs: a bundle, an export."""

    @property
    def num_parameters(self) -> int: ...

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a test set's rows and what they cost."""

    scores: NDArray[np.float32]
    efficiency: Efficiency


def score_with(
    scorer: PairScorer,
    rows: Sequence[Judgment | Candidate],
    latency: LatencyConfig | None = None,
    seed: int = 0,
    **about: Any,
) -> Scored:
    """Scores of a model, timed after a short warm-up; `about` goes into the efficiency (bytes, dtype, threads).

    With `latency`, single requests are timed too; `seed` draws their rows, and lengths are in characters, so that every
    system gets the same requests.
    """
    pairs = [row.pair for row in rows]
    scorer.score(pairs[:_WARM_UP_PAIRS])
    began = time.perf_counter()
    scores = scorer.score(pairs)
    seconds = time.perf_counter() - began
    speed = len(pairs) / seconds
    if latency is not None:
        about["latency"] = measure_latency(
            scorer, pairs, documents=latency.documents, seconds=latency.seconds, seed=seed
        )
    return Scored(
        scores,
        Efficiency(parameters=scorer.num_parameters, pairs_per_second=speed, seconds=seconds, **about),
    )


def score_bm25(rows: Sequence[Judgment | Candidate], **about: Any) -> Scored:
    """BM25 over the documents of the rows; `about` goes into the efficiency (price_per_hour, currency)."""
    began = time.perf_counter()
    scores = bm25_scores(rows)
    seconds = time.perf_counter() - began
    return Scored(scores, Efficiency(pairs_per_second=len(rows) / seconds, seconds=seconds, **about))


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


def describe_model(path: Path) -> dict[str, Any]:
    """Where a bundle or an export comes from and what training it took, for the provenance of its figures.

    Raises:
        ValueError: the folder is neither.
    """
    facts = read_facts(path)
    return {"path": str(path), "fingerprint": facts["fingerprint"], "training": facts.get("training", {})}


def record_system(
    out: str | Path,
    name: str,
    kind: str,
    test_set: TestSet,
    scored: Scored,
    measures: Sequence[str],
    provenance: Mapping[str, Any],
    rules: Rules = DEFAULT_RULES,
) -> System:
    """Measure a system's scores and write its run and its metrics."""
    query_ids = [row.query_id for row in test_set.rows]
    doc_ids = [row.doc_id for row in test_set.rows]
    measured = measure_run(test_set.labels, group_scores(query_ids, doc_ids, scored.scores), measures, rules)
    system = System(
        name=name,
        kind=kind,
        measured=measured,
        efficiency=scored.efficiency,
        provenance={"judged": {"path": test_set.path, "hash": test_set.hash}, **provenance},
        rules=rules,
    )
    return write_system(out, system, query_ids, doc_ids, scored.scores)
