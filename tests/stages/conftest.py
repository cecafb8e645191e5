"""One tiny world and one run of all stages for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from disranker.launch import run_stage
from tests import tiny_runs


@dataclass(frozen=True)
class Pipeline:
    """What the stages wrote, and the command line of each."""

    folder: Path
    world: Path
    commands: dict[str, tuple[str, list[str]]]
    """name of the output folder -> (stage, arguments)"""

    def judged(self, split: str) -> list[str]:
        return [str(self.world / f"judged.{split}.parquet")]

    @property
    def candidates(self) -> list[str]:
        return [str(self.world / "candidates.parquet")]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def pipeline(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Everything from the click log to the report, each stage by its own command line."""
    out = tmp_path_factory.mktemp("pipeline")
    made = Pipeline(out, world, {})
    dev = {"judged_dev": made.judged("dev")}

    def stage(name: str, command: str, settings: Mapping[str, Any]) -> None:
        argv = tiny_runs.arguments(out / name, settings)
        made.commands[name] = (command, argv)
        assert run_stage(command, argv) == 0, name

    decoder = tiny_runs.fresh(world / "decoder", tiny_runs.DECODER)
    encoder = tiny_runs.fresh(world / "encoder", tiny_runs.ENCODER)
    clicks = [str(world / "clicks.parquet")]
    stage("pretrained", "pretrain", {**decoder, **tiny_runs.short_run(5), "clicks": clicks, "dev_share": 0.2})
    start = {"model.name": str(out / "pretrained"), "judged": made.judged("train"), **dev}
    stage("teacher", "rank", {**start, **tiny_runs.short_run(6, evaluate_every=2)})
    lora = {"model.lora": {"r": 4, "alpha": 8}, "optim.learning_rate": 0.02}
    stage("teacher-lora", "rank", {**start, **tiny_runs.short_run(4), **lora})
    score = {"teacher": str(out / "teacher"), "candidates": made.candidates, "pairs_per_shard": 30}
    stage("store", "score", score)
    learn = {"store": str(out / "store"), "candidates": made.candidates, **dev, **encoder}
    stage("student", "distill", {**learn, "training.epochs": 2, "training.tokens_per_step": 800, **_student()})
    systems = {
        "random": {"kind": "random"},
        "bm25": {"kind": "bm25"},
        "teacher": {"kind": "bundle", "path": str(out / "teacher")},
        "student": {"kind": "bundle", "path": str(out / "student")},
    }
    stage("evaluated", "eval", {"judged": made.judged("test"), "systems": systems})
    stage("report", "report", {"evaluated": [str(out / "evaluated")], "judged": made.judged("test")})
    return made


def _student() -> dict[str, Any]:
    return {"text.max_tokens": 48, "optim.learning_rate": 3e-3, "training.evaluate_every": 3}
