"""Stage 2 with sums of losses, quotas and negatives, by its command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from disranker.data.readers import read_judged, write_records, write_trec_run
from disranker.launch import run_stage
from disranker.models.bundle import read_facts
from disranker.schema import Candidate, Judgment
from disranker.train.journal import Journal
from tests import tiny_runs


@pytest.fixture(scope="module")
def sampled(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of a run over 20 queries of 5 judged documents, with a run of 3 unjudged documents for each."""
    folder = tmp_path_factory.mktemp("sampled")
    judged = list(read_judged(world / "judged.train.parquet"))
    texts = list(read_judged([world / "judged.dev.parquet", world / "judged.test.parquet"]))
    by_query: dict[str, list[Judgment]] = {}
    for row in judged:
        by_query.setdefault(row.query_id, []).append(row)
    candidates: list[Candidate] = []
    run: dict[str, dict[str, float]] = {}
    scores: dict[str, dict[str, float]] = {}
    for at, (query_id, rows) in enumerate(by_query.items()):
        found = [
            Candidate(query_id, f"hard-{at}-{place}", rows[0].query, one.title, one.summary)
            for place, one in enumerate(texts[3 * at : 3 * at + 3])
        ]
        candidates += found
        run[query_id] = {rows[0].doc_id: 9.0, **{one.doc_id: float(-place) for place, one in enumerate(found)}}
        # The guard's teacher finds the first unjudged document of every query as good as the labelled ones.
        scores[query_id] = {row.doc_id: float(row.label) for row in rows}
        scores[query_id] |= {one.doc_id: 9.0 if place == 0 else -9.0 for place, one in enumerate(found)}
    write_records(folder / "candidates.parquet", Candidate, candidates)
    write_trec_run(folder / "bm25.trec", run, "bm25")
    write_trec_run(folder / "scores.trec", scores, "teacher")
    hard = {
        "runs": [str(folder / "bm25.trec")],
        "candidates": [str(folder / "candidates.parquet")],
        "num_per_query": 1,
    }
    return {
        **tiny_runs.fresh(world / "encoder", tiny_runs.ENCODER),
        **tiny_runs.short_run(6),
        "judged": [str(world / "judged.train.parquet")],
        "sampling.hard_negatives": hard,
        "sampling.guard": {"scores": str(folder / "scores.trec"), "margin": 1.0},
    }


def train(out: Path, settings: Mapping[str, Any]) -> int:
    return run_stage("rank", tiny_runs.arguments(out, settings))


def test_what_is_sampled_is_printed_and_trained_on(
    sampled: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = [{"name": "hinge"}, {"name": "lambda", "weight": 0.5, "k": 3}, {"name": "bce", "max_label": 4}]
    assert train(tmp_path, {**sampled, "loss": losses, "sampling.quotas": {"0": 2}}) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "judged 20 queries, 100 pairs, 5 to 5, median 5 documents per query" in shown
    assert "quotas label 0 at most 2 a query, which leaves " in shown
    assert "hard 1 a query and epoch of 60 at positions 1 to 100 as label 0; besides, 20 are judged" in shown
    assert "of 60 hard negatives left out, less than 1 below a label of 1 or more; " in shown
    assert "of 20 groups have documents of one label only" in shown
    assert "loss hinge (margin 1) + 0.5 x lambda (k 3, mu 10) + bce (max_label 4)" in shown
    for line in tiny_runs.step_lines(tmp_path):
        total = line["hinge"] + 0.5 * line["lambda"] + line["bce"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        assert 0.0 <= line["share_without_pairs"] <= 1.0
    facts = read_facts(tmp_path)
    assert 140 <= facts["training"]["distinct_pairs"] < 160  # the judged ones, and those that the guard lets through
    assert facts["config"]["sampling"]["quotas"] == {"0": 2}
    assert [term["name"] for term in facts["config"]["loss"]] == ["hinge", "lambda", "bce"]


def test_an_epoch_is_as_large_as_the_settings_say(sampled: dict[str, Any], tmp_path: Path) -> None:
    """5 judged documents, 1 hard and 2 random negatives a query; then at most 6, of which 3 are judged."""
    unguarded = {name: value for name, value in sampled.items() if name not in ("sampling.guard", "training.steps")}
    for docs_per_query, expected in ((16, 8), (6, 6)):
        out = tmp_path / str(docs_per_query)
        words = {"sampling.random_negatives": 2, "docs_per_query": docs_per_query, "training.epochs": 1}
        assert train(out, {**unguarded, **words}) == 0
        found = tiny_runs.step_lines(out)
        assert (sum(line["count"] for line in found), sum(line["pairs"] for line in found)) == (20, 20 * expected)


def test_a_run_that_is_killed_samples_on_as_if_it_had_not_been(
    sampled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**sampled, "sampling.quotas": {"0": 1}, "training.checkpoint_every": 2}
    assert train(tmp_path / "straight", settings) == 0
    write = Journal.step

    def killed(journal: Journal, step: int, metrics: dict[str, float]) -> None:
        if step == 4:
            raise KeyboardInterrupt
        write(journal, step, metrics)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "step", killed)
        assert train(tmp_path / "killed", settings) == 130
    assert (tmp_path / "killed" / "checkpoint" / "latest").read_text() == "step-00000002"
    assert train(tmp_path / "killed", settings) == 0
    assert tiny_runs.step_lines(tmp_path / "killed") == tiny_runs.step_lines(tmp_path / "straight")
    one, two = (read_facts(tmp_path / name)["fingerprint"] for name in ("straight", "killed"))
    assert one == two


def test_the_files_that_negatives_come_from_are_inputs(sampled: dict[str, Any], tmp_path: Path) -> None:
    assert train(tmp_path, {**sampled, "training.steps": 1}) == 0
    inputs = [line for line in (tmp_path / "config.yaml").read_text().splitlines() if line.startswith("# input ")]
    names = [Path(line.split()[2]).name for line in inputs]
    assert sorted(names) == ["bm25.trec", "candidates.parquet", "judged.train.parquet", "scores.trec"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sampling.quotas": {"9": 2}}, "sampling.quotas names label 9, which no judged pair has; there are 0, "),
        (
            {"loss": [{"name": "ordinal", "max_label": 1}]},
            "but max_label of ordinal is 1: raise it to the highest grade",
        ),
        ({"sampling.random_negatives": 1}, "20 of 20 pairs have no score in "),
    ],
)
def test_what_does_not_go_with_the_data_gives_1(
    sampled: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    message: str,
) -> None:
    assert train(tmp_path, {**sampled, **changed}) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_store_guards_as_well(sampled: dict[str, Any], world: Path, tmp_path: Path) -> None:
    """Scores of the judged pairs and of the candidates, made into a store from a run."""
    run = Path(sampled["sampling.guard"]["scores"])
    judged = [
        Candidate(row.query_id, row.doc_id, row.query, row.title, row.summary)
        for row in read_judged(world / "judged.train.parquet")
    ]
    write_records(tmp_path / "judged.parquet", Candidate, judged)
    files = [str(tmp_path / "judged.parquet"), *sampled["sampling.hard_negatives"]["candidates"]]
    words = ["--out", str(tmp_path / "store"), "--run", str(run), "--candidates", json.dumps(files)]
    assert run_stage("score", words) == 0
    guarded = {**sampled, "sampling.guard": {"scores": str(tmp_path / "store"), "margin": 1.0}}
    assert train(tmp_path / "by-store", {**guarded, "training.steps": 2}) == 0
    assert train(tmp_path / "by-run", {**sampled, "training.steps": 2}) == 0
    assert tiny_runs.step_lines(tmp_path / "by-store") == tiny_runs.step_lines(tmp_path / "by-run")
