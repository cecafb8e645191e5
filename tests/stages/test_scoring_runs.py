"""Further ways to score by the command line: with representations, and with an ordering for a teacher."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from disranker.cli import main
from disranker.data.readers import read_candidates, read_trec_run
from disranker.launch import run_stage
from disranker.models.scorer import Scorer
from disranker.teacher.store import Store
from tests.stages.conftest import Pipeline


def test_pooled_states_come_with_the_scores(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, argv = pipeline.commands["store"]
    assert run_stage(stage, [*argv, "--out", str(tmp_path), "--representation", "pooled"]) == 0
    shown = capsys.readouterr().out
    assert "  quantiles 1% " in shown and "entropy" in shown
    pairs = [candidate.pair for candidate in read_candidates(pipeline.candidates)]
    scores, states = Scorer.load(pipeline.folder / "teacher").score_and_represent(pairs)
    store = Store(tmp_path)
    np.testing.assert_allclose(store.lookup(pairs), scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(store.representations(pairs), states, rtol=0, atol=2e-3)
    assert np.ptp(states, axis=0).max() > 0.1
    assert store.lookup(pairs).tolist() == Store(pipeline.folder / "store").lookup(pairs).tolist()


def test_an_ordering_is_a_teacher_and_comes_back_as_a_run(pipeline: Pipeline, tmp_path: Path) -> None:
    listed: dict[str, list[str]] = {}
    for row in read_candidates(pipeline.candidates):
        listed.setdefault(row.query_id, []).append(row.doc_id)
    answer = "[2] > [1] > [5] > [4] > [3]"
    rows = [{"query_id": query_id, "doc_ids": docs, "permutation": answer} for query_id, docs in listed.items()]
    (tmp_path / "gpt.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--candidates", json.dumps(pipeline.candidates), "--ordering", str(tmp_path / "gpt.jsonl")]
    assert run_stage("score", ["--out", str(tmp_path / "store"), *words]) == 0
    assert main(["store", "verify", str(tmp_path / "store")]) == 0
    assert main(["store", "export-trec", str(tmp_path / "store"), "--out", str(tmp_path / "run.trec")]) == 0
    run = read_trec_run(tmp_path / "run.trec")
    assert {query_id: list(docs) for query_id, docs in run.items()} == {
        query_id: [docs[place - 1] for place in (2, 1, 5, 4, 3)] for query_id, docs in listed.items()
    }
    assert {score for docs in run.values() for score in docs.values()} == {-1.0, -2.0, -3.0, -4.0, -5.0}
