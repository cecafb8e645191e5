"""Stages as real processes: two ranks equal one, and a process that is killed is gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from disranker.data.readers import read_judged
from disranker.launch import run_stage, stage_script
from disranker.models.bundle import read_facts
from disranker.models.scorer import Scorer
from tests import tiny_runs
from tests.stages.conftest import Pipeline
from tests.teacher.fakes import store_bytes


def on_two_ranks(stage: str, argv: Sequence[str]) -> str:
    """Run a stage by DeepSpeed's launcher on two ranks; what they printed."""
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2"]
    command = [*launcher, "--master_port", str(tiny_runs.free_port()), str(stage_script(stage)), *argv]
    done = subprocess.run(command, env=tiny_runs.environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_equal_runs(one: Path, two: Path) -> None:
    first, second = tiny_runs.step_lines(one), tiny_runs.step_lines(two)
    assert [line["step"] for line in second] == [line["step"] for line in first] != []
    for name in ("loss", "count", "tokens", "learning_rate"):
        assert [line[name] for line in second] == pytest.approx([line[name] for line in first], abs=1e-5), name
    assert tiny_runs.largest_difference(tiny_runs.weights(one), tiny_runs.weights(two)) < 1e-4


@pytest.mark.multiprocess
def test_two_ranks_train_the_teacher_of_one(pipeline: Pipeline, tmp_path: Path) -> None:
    stage, argv = pipeline.commands["teacher"]
    shown = on_two_ranks(stage, [*argv, "--out", str(tmp_path)])
    check_equal_runs(pipeline.folder / "teacher", tmp_path)
    assert "= 2 ranks x 1 micro-batches" in shown
    assert shown.count(f"wrote {tmp_path}: ") == 1  # one rank speaks
    one, two = (read_facts(folder)["training"] for folder in (pipeline.folder / "teacher", tmp_path))
    assert [two[name] for name in ("steps", "tokens", "best_step")] == [
        one[name] for name in ("steps", "tokens", "best_step")
    ]
    dev = [
        [line["dev"]["nDCG@10"] for line in tiny_runs.lines(out) if "dev" in line]
        for out in (pipeline.folder / "teacher", tmp_path)
    ]
    assert dev[1] == pytest.approx(dev[0], abs=1e-6) and len(dev[0]) == 3


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("name", ["pretrained", "student"])
@pytest.mark.parametrize("accumulation", ["1", "3"])
def test_two_ranks_equal_one_in_the_other_stages(
    pipeline: Pipeline, name: str, accumulation: str, tmp_path: Path
) -> None:
    stage, argv = pipeline.commands[name]
    on_two_ranks(stage, [*argv, "--out", str(tmp_path), "--training.accumulation", accumulation])
    check_equal_runs(pipeline.folder / name, tmp_path)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("zero_stage", ["0", "2", "3"])
@pytest.mark.parametrize("name", ["teacher", "teacher-lora"])
def test_zero_on_two_ranks_saves_a_whole_bundle(pipeline: Pipeline, name: str, zero_stage: str, tmp_path: Path) -> None:
    """Under ZeRO-3 no rank holds a whole weight; the bundle must, and must score as that of one rank without."""
    stage, argv = pipeline.commands[name]
    on_two_ranks(stage, [*argv, "--out", str(tmp_path), "--training.zero_stage", zero_stage])
    check_equal_runs(pipeline.folder / name, tmp_path)
    assert read_facts(tmp_path)["num_parameters"] == read_facts(pipeline.folder / name)["num_parameters"]
    pairs = [row.pair for row in read_judged(pipeline.judged("test"))]
    expected = Scorer.load(pipeline.folder / name).score(pairs)
    assert Scorer.load(tmp_path).score(pairs).tolist() == pytest.approx(expected.tolist(), abs=1e-3)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("zero_stage", ["1", "3"])
def test_two_ranks_resume_exactly(pipeline: Pipeline, zero_stage: str, tmp_path: Path) -> None:
    """Both ranks and their launcher killed at some moment after the first checkpoint, with dropout."""
    stage, argv = pipeline.commands["student"]
    words = ["--model.dropout", "0.2", "--training.checkpoint_every", "4", "--training.zero_stage", zero_stage]
    argv = [*argv, *words, "--training.tokens_per_step", "200"]
    on_two_ranks(stage, [*argv, "--out", str(tmp_path / "straight")])
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2"]
    command = [*launcher, "--master_port", str(tiny_runs.free_port()), str(stage_script(stage)), *argv]
    out = tmp_path / "killed"
    assert kill_when([*command, "--out", str(out)], lambda: num_lines(out) > 6)
    assert (out / "checkpoint" / "latest").exists()
    shown = on_two_ranks(stage, [*argv, "--out", str(out)])
    assert "going on from the checkpoint at step" in shown
    assert tiny_runs.step_lines(out) == tiny_runs.step_lines(tmp_path / "straight")
    straight, killed = (tiny_runs.weights(at) for at in (tmp_path / "straight", out))
    assert tiny_runs.largest_difference(straight, killed) == 0.0


# --- killed processes ---


def num_lines(out: Path) -> int:
    path = out / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def kill_when(command: Sequence[str], ripe: Callable[[], bool]) -> bool:
    """Start a process and kill it and its children as soon as `ripe` says so; whether it was still running then."""
    process = subprocess.Popen(
        command,
        env=tiny_runs.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a process group of its own, which no one else is in
    )
    try:
        until = time.monotonic() + 200
        while process.poll() is None and not ripe():
            assert time.monotonic() < until, "the process never came so far"
            time.sleep(0.0005)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait(timeout=60)
    return code != 0


@pytest.mark.slow
def test_training_that_is_killed_goes_on_exactly(pipeline: Pipeline, tmp_path: Path) -> None:
    """With dropout, over epochs of about 4 steps, killed twice at moments that no checkpoint knows."""
    stage, argv = pipeline.commands["student"]
    words = ["--model.dropout", "0.2", "--training.checkpoint_every", "3", "--training.epochs", "12"]
    argv = [*argv, *words]
    assert run_stage(stage, [*argv, "--out", str(tmp_path / "straight")]) == 0
    out = tmp_path / "killed"
    command = [sys.executable, str(stage_script(stage)), *argv, "--out", str(out)]
    assert kill_when(command, lambda: num_lines(out) >= 8)
    assert kill_when(command, lambda: num_lines(out) >= 25)
    assert (out / "checkpoint" / "latest").exists()
    assert run_stage(stage, [*argv, "--out", str(out)]) == 0
    assert tiny_runs.step_lines(out) == tiny_runs.step_lines(tmp_path / "straight")
    facts = [read_facts(folder) for folder in (tmp_path / "straight", out)]
    assert facts[0]["fingerprint"] == facts[1]["fingerprint"]
    for name in ("steps", "tokens", "best_step", "best_value"):
        assert facts[0]["training"][name] == facts[1]["training"][name]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_ranks_score_the_bytes_of_one(pipeline: Pipeline, tmp_path: Path) -> None:
    stage, argv = pipeline.commands["store"]
    on_two_ranks(stage, [*argv, "--out", str(tmp_path / "two")])
    command = [sys.executable, str(stage_script(stage)), *argv, "--out", str(tmp_path / "one")]
    subprocess.run(command, env=tiny_runs.environment(), check=True, timeout=200)
    assert store_bytes(tmp_path / "two") == store_bytes(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_fault_on_the_launcher_ends_all_ranks(pipeline: Pipeline, tmp_path: Path) -> None:
    stage, argv = pipeline.commands["teacher"]
    broken = tmp_path / "judged.jsonl"
    broken.write_text(json.dumps({"query_id": "q"}) + "\n")
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2"]
    command = [*launcher, "--master_port", str(tiny_runs.free_port()), str(stage_script(stage)), *argv]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--judged", f"[{broken}]"],
        env=tiny_runs.environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1
    assert f"error: {broken}:1" in done.stderr + done.stdout
