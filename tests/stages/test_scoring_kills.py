"""Scoring that is killed at any moment and run again: the finished store is the one of an undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from disranker.launch import run_stage, stage_script
from disranker.shards import read_manifest
from disranker.teacher.audit import find_faults
from tests.stages.conftest import Pipeline
from tests.stages.test_multiprocess import kill_when
from tests.teacher.fakes import Counting, score, store_bytes


def killed(out: Path, after_seconds: float) -> bool:
    """Score in a child process and kill it after that time; whether it was still running then."""
    child = os.fork()
    if child == 0:
        try:
            score(out, Counting(represents=True), per_shard=2, representation="pooled")
        finally:
            os._exit(0)
    time.sleep(after_seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_store_that_is_killed_10_times_has_the_bytes_of_one_that_is_not(tmp_path: Path) -> None:
    for name in ("warm", "straight"):
        began = time.monotonic()
        score(tmp_path / name, Counting(represents=True), per_shard=2, representation="pooled")
        whole = time.monotonic() - began
    expected = store_bytes(tmp_path / "straight")
    moments, out, kills = random.Random(0), tmp_path / "killed", 0
    while kills < 10:
        kills += killed(out, moments.random() * whole * 0.7)
        if (out / "manifest.json").exists() and read_manifest(out)["complete"]:
            # The kill may have come between the last shard and the end of tidying up.
            score(out, Counting(fail_at=0, represents=True), per_shard=2, representation="pooled")
            assert store_bytes(out) == expected
            shutil.rmtree(out)
    score(out, Counting(represents=True), per_shard=2, representation="pooled")
    assert store_bytes(out) == expected
    assert find_faults(out) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_command_that_is_killed_20_times_ends_with_the_same_bytes(pipeline: Pipeline, tmp_path: Path) -> None:
    stage, argv = pipeline.commands["store"]
    argv = [*argv, "--pairs_per_shard", "1", "--representation", "pooled"]
    assert run_stage(stage, [*argv, "--out", str(tmp_path / "straight")]) == 0
    expected = store_bytes(tmp_path / "straight")
    moments, out, kills = random.Random(0), tmp_path / "killed", 0
    command = [sys.executable, str(stage_script(stage)), *argv, "--out", str(out)]
    for _ in range(20):
        wait, before, seen = moments.random(), set(out.rglob("*")), []

        def ripe(wait: float = wait, before: set[Path] = before, seen: list[float] = seen) -> bool:
            # The clock runs from the first file on that this process writes, not through its imports.
            if not seen and set(out.rglob("*")) != before:
                seen.append(time.monotonic())
            return bool(seen) and time.monotonic() - seen[0] > wait

        kills += kill_when(command, ripe)
        if read_manifest(out)["complete"]:
            assert run_stage(stage, [*argv, "--out", str(out)]) == 0
            assert store_bytes(out) == expected
            shutil.rmtree(out)
    assert kills >= 15
    assert run_stage(stage, [*argv, "--out", str(out)]) == 0
    assert store_bytes(out) == expected
