"""Stage 3 with fused teachers and with mined examples, by its command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disranker.cli import main
from disranker.data.readers import read_candidates, write_trec_run
from disranker.launch import run_stage
from disranker.models.bundle import read_facts
from disranker.schema import stable_seed
from disranker.teacher.store import Store
from disranker.train.journal import Journal
from tests import tiny_runs
from tests.stages.test_multiprocess import check_equal_runs, on_two_ranks

MIXED = {"mix": {"top": 1, "middle": 1, "random": 1}, "disagreement": {"of": "documents"}, "curriculum": {"epochs": 2}}


@pytest.fixture(scope="module")
def stores(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two teachers who agree by half over 20 queries of 5 documents, their fusion, and the first one's order alone."""
    folder = tmp_path_factory.mktemp("stores")
    candidates = [str(world / "candidates.parquet")]
    rows = list(read_candidates(candidates))
    for name, scale in (("one", 1.0), ("two", 20.0)):
        run: dict[str, dict[str, float]] = {}
        for row in rows:
            shared, own = (stable_seed(*words, *row.pair) / 2**64 for words in (("both",), (name,)))
            run.setdefault(row.query_id, {})[row.doc_id] = scale * (shared + own)
        write_trec_run(folder / f"{name}.trec", run, name)
        words = tiny_runs.arguments(folder / name, {"run": str(folder / f"{name}.trec"), "candidates": candidates})
        assert run_stage("score", words) == 0
        if name == "one":
            lines = [
                {"query_id": query_id, "doc_ids": sorted(found, key=lambda doc_id: -found[doc_id])}
                for query_id, found in run.items()
            ]
            (folder / "order.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = {"ordering": str(folder / "order.jsonl"), "candidates": candidates}
    assert run_stage("score", tiny_runs.arguments(folder / "ordering", words)) == 0
    fuse = ["store", "fuse", str(folder / "one"), str(folder / "two"), "--out", str(folder / "fused")]
    assert main([*fuse, "--method", "mean"]) == 0
    return {name: folder / name for name in ("one", "two", "ordering", "fused")}


@pytest.fixture
def settings(world: Path, stores: dict[str, Path]) -> dict[str, Any]:
    """A run of 12 steps over epochs of 7, with the candidates of the world and three documents a query."""
    return {
        **tiny_runs.fresh(world / "encoder", tiny_runs.ENCODER),
        **tiny_runs.short_run(12, tokens_per_step=400),
        "store": str(stores["fused"]),
        "candidates": [str(world / "candidates.parquet")],
        "docs_per_query": 3,
    }


def train(out: Path, settings: Mapping[str, Any]) -> int:
    return run_stage("distill", tiny_runs.arguments(out, settings))


def test_a_student_learns_from_a_fused_store_as_from_any(settings: dict[str, Any], world: Path, tmp_path: Path) -> None:
    """What it learns is the mean of both teachers' standardised scores: a store of that mean makes the same student."""
    assert train(tmp_path / "fused", settings) == 0
    rows = list(read_candidates([world / "candidates.parquet"]))
    scores = Store(settings["store"]).lookup([row.pair for row in rows])
    run: dict[str, dict[str, float]] = {}
    for row, score in zip(rows, scores.tolist(), strict=True):
        run.setdefault(row.query_id, {})[row.doc_id] = score
    write_trec_run(tmp_path / "mean.trec", run, "mean")
    words = {"run": str(tmp_path / "mean.trec"), "candidates": settings["candidates"]}
    assert run_stage("score", tiny_runs.arguments(tmp_path / "store", words)) == 0
    assert train(tmp_path / "by-hand", {**settings, "store": str(tmp_path / "store")}) == 0
    one, two = (tiny_runs.step_lines(tmp_path / name) for name in ("fused", "by-hand"))
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in two], abs=1e-5)
    assert one[-1]["loss"] < one[0]["loss"]


def test_what_is_mined_is_printed_and_trained_on(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mining = {**MIXED, "queries": {"keep": "certain", "share": 0.8}, "documents": {"keep": "uncertain", "share": 0.8}}
    assert train(tmp_path, {**settings, "mining": mining}) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "queries 16 of 20, the most certain by margin" in shown
    assert "documents 64 of 80, the most uncertain of each query by margin" in shown
    assert "mix 1 of the top, 1 of the middle third, 1 of the rest; 0 of 16 queries have no more than 3" in shown
    assert "drawn documents by disagreement of student and teacher from epoch 1 on, 20% evenly" in shown
    assert "curriculum easy first by margin over the epochs of 2 epochs, 5 of 16 first" in shown
    assert "epoch 1: the student scored 64 training pairs in 0:00" in shown
    lines = tiny_runs.step_lines(tmp_path)
    counts = [line["count"] for line in lines]
    assert 5 in np.cumsum(counts)[:3]  # the first epoch
    assert [line["pairs"] for line in lines] == [3 * count for count in counts]
    assert not (tmp_path / "cache").exists()


def test_all_off_changes_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    assert train(tmp_path / "off", settings) == 0
    assert train(tmp_path / "all", {**settings, "mining": {"queries": {"keep": "certain", "share": 1.0}}}) == 0
    assert tiny_runs.step_lines(tmp_path / "off") == tiny_runs.step_lines(tmp_path / "all")


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, out: Path, settings: Mapping[str, Any]) -> None:
    """A run that dies while it records that step."""
    write = Journal.step

    def killed(journal: Journal, at: int, metrics: dict[str, float]) -> None:
        if at == step:
            raise KeyboardInterrupt
        write(journal, at, metrics)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "step", killed)
        assert train(out, settings) == 130


BY_QUERY = {
    "disagreement": {"of": "queries", "even_share": 0.3, "from_epoch": 0},
    "curriculum": {"by": "disagreement", "over": "steps"},
}


@pytest.mark.parametrize(
    "mining", [MIXED, pytest.param(BY_QUERY, marks=pytest.mark.slow)], ids=["documents", "queries"]
)
def test_a_run_that_is_killed_goes_on_with_what_its_epoch_was_drawn_by(
    mining: dict[str, Any],
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the middle of an epoch, so that the student that goes on is not the one that the epoch began with."""
    settings = {**settings, "mining": mining, "training.checkpoint_every": 5, "training.steps": 14}
    assert train(tmp_path / "straight", settings) == 0
    out, backup = tmp_path / "killed", tmp_path / "backup"
    scores = out / "cache" / "student-scores"
    killed_at(13, monkeypatch, out, settings)
    assert (out / "checkpoint" / "latest").read_text() == "step-00000010"
    first, *_, last = sorted(scores.iterdir())
    assert not np.array_equal(np.load(first), np.load(last))
    shutil.copytree(out, backup)
    assert train(out, settings) == 0
    assert tiny_runs.step_lines(out) == tiny_runs.step_lines(tmp_path / "straight")
    assert read_facts(out)["fingerprint"] == read_facts(tmp_path / "straight")["fingerprint"]

    # That it does so matters: what this student would say now draws other examples.
    shutil.rmtree(out)
    shutil.copytree(backup, out)
    last.unlink()
    assert train(out, settings) == 0
    assert tiny_runs.step_lines(out) != tiny_runs.step_lines(tmp_path / "straight")
    # And without any of it there is no going on.
    shutil.rmtree(out)
    shutil.copytree(backup, out)
    shutil.rmtree(out / "cache")
    capsys.readouterr()
    assert train(out, settings) == 1
    assert "is gone, which says what its epoch was drawn by" in capsys.readouterr().err


def test_scores_that_a_run_without_a_checkpoint_left_are_not_used(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**settings, "mining": MIXED}
    killed_at(9, monkeypatch, tmp_path / "other", {**settings, "training.seed": 5})
    assert list((tmp_path / "other" / "cache" / "student-scores").iterdir())
    assert train(tmp_path / "other", settings) == 0
    assert train(tmp_path / "fresh", settings) == 0
    assert tiny_runs.step_lines(tmp_path / "other") == tiny_runs.step_lines(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        (
            {"mining": {"mix": {"top": 2, "middle": 1, "random": 1}}},
            2,
            "mining.mix takes 2 + 1 + 1 = 4 documents, but docs_per_query is 3: make them equal",
        ),
        (
            {"mining": {"disagreement": {"of": "queries"}}, "training.steps": "null", "training.epochs": 2},
            2,
            "mining by disagreement decides at the start of each epoch",
        ),
        ({"mining": {"queries": {"keep": "certain", "share": 0.0}}}, 2, "mining.queries.share = 0.0"),
        ({"mining": {"queries": {"keep": "certain", "share": 1.5}}}, 2, "mining.queries.share = 1.5"),
        ({"mining": {}}, 2, "mining chooses nothing"),
        (
            {"mining": {"curriculum": {"over": "steps", "start_share": 0.5}}},
            2,
            "start_share belongs to a curriculum over epochs",
        ),
        (
            {"mining": {"disagreement": {"of": "documents"}}, "docs_per_query": 5},
            1,
            "no query has more than 5 documents: lower docs_per_query",
        ),
        (
            {"mining": {"disagreement": {"of": "documents"}, "mix": {"top": 2, "middle": 1, "random": 0}}},
            2,
            "draws what mix takes from anywhere, and mix.random is 0",
        ),
        (
            {"mining": {"disagreement": {"of": "queries", "from_epoch": 2}}},
            1,
            "mining.disagreement begins with epoch 2, at step 14, and the run has 12 steps: it would never count",
        ),
    ],
)
def test_what_does_not_go_together(
    settings: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    code: int,
    message: str,
) -> None:
    assert train(tmp_path, {**settings, **changed}) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "metrics.jsonl").exists()


def test_an_ordering_has_no_margins(
    settings: dict[str, Any], stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_order = {**settings, "store": str(stores["ordering"]), "distill": ["ranknet"]}
    for part, value in (
        ("curriculum", {"epochs": 1}),
        ("queries", {"keep": "certain", "share": 0.5}),
        ("disagreement", {"of": "documents"}),
    ):
        assert train(tmp_path / part, {**by_order, "mining": {part: value}}) == 1
        assert (
            f"by which mining.{part} goes, mean nothing; only mining.mix goes by the order" in capsys.readouterr().err
        )
    assert train(tmp_path / "mix", {**by_order, "mining": {"mix": MIXED["mix"]}}) == 0


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_student_in_parts_may_be_asked_before_its_first_step(settings: dict[str, Any], tmp_path: Path) -> None:
    """Under ZeRO-3 small weights that are first gathered in inference mode cannot be trained afterwards."""
    # No group is drawn from, so nobody asks before the weights are parted.
    settings = {**settings, "docs_per_query": 5, "mining": BY_QUERY, "training.zero_stage": 3, "training.steps": 2}
    on_two_ranks("distill", tiny_runs.arguments(tmp_path, settings))
    assert len(tiny_runs.step_lines(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("zero_stage", ["1", "3"])
def test_two_ranks_mine_what_one_does(settings: dict[str, Any], tmp_path: Path, zero_stage: str) -> None:
    settings = {**settings, "mining": MIXED, "training.zero_stage": int(zero_stage)}
    assert train(tmp_path / "one", settings) == 0
    shown = on_two_ranks("distill", tiny_runs.arguments(tmp_path / "two", settings))
    assert shown.count("training pairs in 0:0") == 2  # a line for each epoch but the first
    check_equal_runs(tmp_path / "one", tmp_path / "two")
