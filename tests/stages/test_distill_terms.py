"""Stage 3 by its command line on a teacher's scores or order and on labels: sums of terms, windows, faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from disranker.data.readers import read_candidates, read_judged, write_records
from disranker.launch import run_stage
from disranker.models.bundle import read_facts
from disranker.schema import Judgment
from tests import tiny_runs
from tests.stages.test_multiprocess import check_equal_runs, on_two_ranks
from tests.teacher import fakes

RESPONSE = [
    "point-mse",
    {"name": "margin-mse", "against": "first", "weight": 0.5},
    {"name": "kl", "temperature": 2.0, "end": 3},
    {"name": "cross-entropy", "weight": 0.0},
    {"name": "weighted-kl", "start": 2},
    "ranknet",
    {"name": "adr-mse", "weight": 0.1},
    "score-differences",
]


@pytest.fixture(scope="module")
def settings(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of a short run: 20 queries of 5 scored candidates."""
    store = tmp_path_factory.mktemp("taught") / "store"
    fakes.score(store, fakes.Counting(), list(read_candidates(world / "candidates.parquet")), per_shard=40)
    student = tiny_runs.fresh(world / "encoder", tiny_runs.ENCODER)
    learn = {"store": str(store), "candidates": [str(world / "candidates.parquet")]}
    return {**student, **tiny_runs.short_run(5), **learn}


@pytest.fixture(scope="module")
def labelled(world: Path, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same with labels: of half the candidates of 10 queries, and of 20 other queries."""
    candidates = list(read_candidates(world / "candidates.parquet"))[:50:2]
    judged = [
        Judgment(one.query_id, one.doc_id, one.query, one.title, one.summary, label=at % 3)
        for at, one in enumerate(candidates)
    ]
    path = tmp_path_factory.mktemp("labelled") / "judged.parquet"
    write_records(path, Judgment, [*judged, *read_judged(world / "judged.train.parquet")])
    supervised = [{"name": "softmax", "weight": 0.5}, {"name": "bce", "max_label": 4, "start": 1}]
    return {**settings, "judged": [str(path)], "supervised": supervised, "distill": ["point-mse", "kl"]}


def train(out: Path, settings: dict[str, Any]) -> int:
    return run_stage("distill", tiny_runs.arguments(out, settings))


def test_all_that_reads_scores_in_one_sum(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, {**settings, "distill": RESPONSE}) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "loss point-mse + 0.5 x margin-mse (against first) + kl (temperature 2) before step 3 + "
        "0 x cross-entropy (temperature 1) + weighted-kl (temperature 1) from step 2 + ranknet + "
        "0.1 x adr-mse (temperature 1) + score-differences"
    ) in shown
    for step, line in enumerate(tiny_runs.step_lines(tmp_path)):
        total = line["point-mse"] + 0.5 * line["margin-mse"] + line["ranknet"] + 0.1 * line["adr-mse"]
        total += line["kl"] * (step < 3) + line["weighted-kl"] * (step >= 2) + line["score-differences"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        assert line["cross-entropy"] > line["kl"] / 4.0 > 0.0
    terms = read_facts(tmp_path)["config"]["distill"]
    assert [term["name"] for term in terms] == [one if isinstance(one, str) else one["name"] for one in RESPONSE]


def test_labels_and_teacher_in_one_run(
    labelled: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    epoch = {name: value for name, value in labelled.items() if name != "training.steps"}
    assert train(tmp_path, {**epoch, "training.epochs": 1}) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "judged 30 queries, 125 pairs, 2 to 5, median 5 documents per query; 25 pairs are scored, too" in shown
    assert "scored 20 queries, 100 pairs" in shown
    lines = tiny_runs.step_lines(tmp_path)
    assert (sum(line["count"] for line in lines), sum(line["pairs"] for line in lines)) == (40, 200)
    # 20 of the 40 queries have scores, 30 have labels.
    for name, expected in (("share_taught", 20), ("share_judged", 30)):
        assert sum(line[name] * line["count"] for line in lines) == pytest.approx(expected)
    for step, line in enumerate(lines):
        total = line["point-mse"] + line["kl"] + 0.5 * line["supervised.softmax"]
        assert line["loss"] == pytest.approx(total + line["supervised.bce"] * (step >= 1), rel=1e-5)
    assert read_facts(tmp_path)["training"]["distinct_pairs"] == 200


def test_an_ordering_teaches_by_its_order(settings: dict[str, Any], tmp_path: Path) -> None:
    candidates = list(read_candidates(Path(settings["candidates"][0])))
    order: dict[str, list[str]] = {}
    for one in sorted(candidates, key=fakes.true_score):
        order.setdefault(one.query_id, []).append(one.doc_id)
    path, store = tmp_path / "order.jsonl", tmp_path / "store"
    path.write_text("".join(json.dumps({"query_id": q, "doc_ids": docs}) + "\n" for q, docs in order.items()))
    score = {"ordering": str(path), "candidates": settings["candidates"]}
    assert run_stage("score", tiny_runs.arguments(store, score)) == 0
    assert train(tmp_path / "out", {**settings, "store": str(store), "distill": ["ranknet", "adr-mse"]}) == 0
    first = tiny_runs.step_lines(tmp_path / "out")[0]
    assert first["loss"] == pytest.approx(first["ranknet"] + first["adr-mse"])
    assert train(tmp_path / "none", {**settings, "store": str(store)}) == 1


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (
            {"training.steps": None, "training.epochs": 1, "distill": ["kl", {"name": "point-mse", "start": 50}]},
            "point-mse of distill starts at step 50, and the run has 6 steps, 0 to 5: it would never count",
        ),
        (
            {"distill": ["point-mse", "pooled-mse"]},
            "pooled-mse of distill read the teacher's pooled states, but",
        ),
        (
            {"supervised": [{"name": "bce", "max_label": 1}]},
            "but max_label of bce is 1: raise it to the highest grade",
        ),
    ],
)
def test_faults_of_the_data_are_one_line_before_training(
    labelled: dict[str, Any],
    changed: dict[str, Any],
    fault: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {name: value for name, value in {**labelled, **changed}.items() if value is not None}
    if "supervised" not in changed:
        words = {name: value for name, value in words.items() if name not in ("judged", "supervised")}
    assert train(tmp_path, words) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and fault in said[0]
    assert {path.name for path in tmp_path.iterdir()} <= {"config.yaml", "cache"}


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_ranks_equal_one_on_mixed_batches(labelled: dict[str, Any], tmp_path: Path) -> None:
    assert train(tmp_path / "one", labelled) == 0
    on_two_ranks("distill", tiny_runs.arguments(tmp_path / "two", {**labelled, "training.accumulation": 3}))
    check_equal_runs(tmp_path / "one", tmp_path / "two")
    first, second = (tiny_runs.step_lines(tmp_path / name) for name in ("one", "two"))
    for name in ("kl", "supervised.softmax", "supervised.bce", "share_taught", "share_judged"):
        assert [line[name] for line in second] == pytest.approx([line[name] for line in first], abs=1e-5)
