"""Paths by their command line on a tiny world: teacher → assistant → student, again, and with a failure."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from disranker.launch import run_stage
from disranker.models.bundle import read_facts
from disranker.models.scorer import Scorer
from tests import tiny_runs
from tests.stages.conftest import Pipeline


def path_file(pipeline: Pipeline, folder: Path, **student: Any) -> Path:
    run = {**tiny_runs.short_run(4), "candidates": pipeline.candidates}
    store = str(pipeline.folder / "store")
    deep = {**tiny_runs.ENCODER, "num_hidden_layers": 4}
    steps = [
        {"stage": "warmup", "set": {**tiny_runs.fresh(pipeline.world / "encoder", deep), **tiny_runs.short_run(3)}},
        {"stage": "distill", "name": "assistant", "set": {**run, "store": store, "model.name": "{dir}/warmup"}},
        {"stage": "score", "name": "store", "set": {"teacher": "{dir}/assistant", "candidates": pipeline.candidates}},
        {"stage": "shrink", "set": {"model": "{dir}/assistant", "layers": "spaced", "num_layers": 2}},
        {
            "stage": "distill",
            "name": "student",
            "set": {**run, "store": "{dir}/store", "model.name": "{dir}/shrink", **student},
        },
    ]
    steps[0]["set"]["clicks"] = [str(pipeline.world / "clicks.parquet")]
    config = {
        "out": str(folder / "out"),
        "threads": 1,
        "steps": steps,
        "references": {"teacher": {"kind": "bundle", "path": str(pipeline.folder / "teacher")}},
        "evaluate": {"judged": pipeline.judged("test"), "measures": ["nDCG@10", "PNR"]},
    }
    file = folder / "path.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file


def steps_run(text: str) -> list[str]:
    return re.findall(r"^ +\d+/\d+ +seed-0/(\S+)", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_path(pipeline: Pipeline, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, argv = tmp_path / "out", ["--config", str(path_file(pipeline, tmp_path))]
    assert run_stage("path", argv) == 0
    printed = capfd.readouterr().out
    assert steps_run(printed) == ["warmup", "assistant", "store", "shrink", "student", "eval"]
    assert "warmup → assistant → store → shrink → student → evaluation" in printed
    assert (
        printed.splitlines()[-1] == f"wrote {out}: path.json and path.md, and in seed-S the rankers assistant, student"
    )
    content = json.loads((out / "path.json").read_text())
    hops = {hop["name"]: hop for hop in content["hops"]}
    assert {name: hop["teacher"] for name, hop in hops.items()} == {
        "teacher": None,
        "assistant": "teacher",
        "student": "assistant",
    }
    value = {name: hop["values"]["nDCG@10"] for name, hop in hops.items()}
    assert hops["student"]["kept"] == pytest.approx(value["student"] / value["assistant"])
    assert hops["student"]["kept_of_first"] == pytest.approx(value["student"] / value["teacher"])
    folder = out / "seed-0"
    assert Scorer.load(folder / "student").ranker.stock.config.num_hidden_layers == 2
    assert read_facts(folder / "shrink")["shrunk"]["layers"] == [0, 3]

    # again: nothing
    assert run_stage("path", argv) == 0
    assert "6 of 6 steps were done before" in (printed := capfd.readouterr().out) and steps_run(printed) == []

    # a step that fails: what was before it stands, the end of its log is shown, and nothing comes after it
    path_file(pipeline, tmp_path, **{"text.max_tokens": 200})
    assert run_stage("path", argv) == 1
    printed, errors = capfd.readouterr()
    assert steps_run(printed) == ["student"]
    assert f"seed-0/student failed; the end of {folder / 'steps' / 'student.log'}:" in errors
    assert "  error: text.max_tokens is 200, but the model has positions for 64 tokens only" in errors

    # mended: that step and the evaluation alone
    path_file(pipeline, tmp_path, **{"docs_per_query": 4})
    assert run_stage("path", argv) == 0
    assert steps_run(capfd.readouterr().out) == ["student", "eval"]


def test_faults_of_the_steps_end_with_2_before_anything_runs(
    pipeline: Pipeline, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(path_file(pipeline, tmp_path, docs_per_qery=3))]
    assert run_stage("path", argv) == 2
    assert "steps.student: docs_per_qery = 3: no such field; did you mean docs_per_query?" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_distillation_starts_from_a_ranker_with_its_head(pipeline: Pipeline, tmp_path: Path) -> None:
    """Warm start, then distillation: at a learning rate of nothing the student scores as the ranker it started from."""
    encoder = tiny_runs.fresh(pipeline.world / "encoder", tiny_runs.ENCODER)
    negatives = {"loss": "softmax", "docs_per_query": 8, "sampling.random_negatives": 3}
    warm = {**encoder, **tiny_runs.short_run(4), **negatives, "judged": pipeline.judged("train")}
    assert run_stage("rank", tiny_runs.arguments(tmp_path / "warm", warm)) == 0
    still = {"model.name": str(tmp_path / "warm"), **tiny_runs.short_run(1), "optim.learning_rate": 1e-12}
    data = {"store": str(pipeline.folder / "store"), "candidates": pipeline.candidates}
    assert run_stage("distill", tiny_runs.arguments(tmp_path / "student", {**still, **data})) == 0
    before, after = (tiny_runs.weights(tmp_path / name) for name in ("warm", "student"))
    assert tiny_runs.largest_difference(before, after) < 1e-6


def test_clicks_warm_a_ranker_up(pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Clicked documents as positives, documents of other queries as negatives: contrastive training without labels."""
    from disranker.cli import main

    clicks = pipeline.world / "clicks.parquet"
    assert main(["import", f"clicks:{clicks}", "--out", str(tmp_path)]) == 0
    assert "judged.clicks.parquet: " in capsys.readouterr().out
    settings = {
        **tiny_runs.fresh(pipeline.world / "encoder", tiny_runs.ENCODER),
        **tiny_runs.short_run(6, tokens_per_step=20_000),  # every step sees all groups
        "judged": [str(tmp_path / "judged.clicks.parquet")],
        "loss": "softmax",
        "docs_per_query": 8,
        "sampling.random_negatives": 4,
    }
    assert run_stage("rank", tiny_runs.arguments(tmp_path / "warm", settings)) == 0
    steps = tiny_runs.step_lines(tmp_path / "warm")
    assert steps[-1]["loss"] < steps[0]["loss"]
    # every group has something to learn from: a clicked document before drawn ones
    assert all(line["share_without_pairs"] == 0.0 for line in steps)
