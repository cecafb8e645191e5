"""`--dry-run` by its real command line: it plans, judges and writes nothing; the shipped plans are what it says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from disranker.launch import run_stage
from tests import tiny_runs
from tests.stages.conftest import Pipeline

ROOT = Path(__file__).resolve().parent.parent.parent
STAGE_OF_SCRIPT = {"pretrain/train.py": "pretrain", "rank/train.py": "rank", "distill/train.py": "distill"}
PLANNED = sorted(
    path
    for folder in ("pretrain", "rank")
    for path in (ROOT / folder / "configs").glob("*.yaml")
    if "--dry-run" in path.read_text("utf-8")
)
BY_DEFAULT = {"optim.learning_rate": 1e-3, "training.tokens_per_step": 800, "training.epochs": 2}


def dry(stage: str, settings: dict[str, Any], *flags: str) -> int:
    return run_stage(stage, [*tiny_runs.arguments(Path("out"), {**BY_DEFAULT, **settings}), *flags])


def lines(shown: str) -> dict[str, str]:
    """Name -> text of the indented lines."""
    found = re.findall(r"^  (\S+(?: \S+)?) +(.*)$", shown, re.MULTILINE)
    return {name.strip(): text for name, text in found}


def decoder(world: Path) -> dict[str, Any]:
    return tiny_runs.fresh(world / "decoder", tiny_runs.DECODER)


def test_the_plan_of_a_dry_run_is_that_of_the_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {**decoder(world), "clicks": [str(world / "clicks.parquet")], "text.max_tokens": 48}
    assert dry("pretrain", settings, "--dry-run") == 0
    said = lines(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
    assert dry("pretrain", {**settings, "training.zero_stage": 0}) == 0
    shown = capsys.readouterr().out
    steps = [line for line in tiny_runs.lines(tmp_path / "out") if "loss" in line]
    assert said["steps"].startswith(f"{len(steps)} steps of about 800 tokens")
    found = re.search(r"up to ([\d,]+)", said["steps"])
    assert found is not None
    most = int(found[1].replace(",", ""))
    assert most == max(line["tokens"] for line in steps[: len(steps) // 2])  # one rank and micro-batch: the whole step
    assert said["model"] in shown


def test_ranks_and_memory_decide(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {**decoder(world), "judged": [str(world / "judged.train.parquet")], "training.zero_stage": 2}
    said = []
    for ranks in ("1", "2"):
        assert dry("rank", settings, "--dry-run.world_size", ranks, "--dry-run.memory_gb", "3") == 0
        shown = capsys.readouterr().out
        assert "of 3 GB: it fits" in shown and f"ZeRO 2, {ranks} ranks" in shown
        said.append(lines(shown))
    optimizer = [float(one["optimizer"].split()[0]) for one in said]
    assert optimizer[1] == pytest.approx(optimizer[0] / 2, abs=0.01)
    assert dry("rank", settings, "--dry-run.memory_gb", "1.9", "--dry-run") == 1  # the flag keeps what stands before it
    assert "too much: see zero_stage" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_without_inputs_the_longest_examples_are_planned_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {
        "model.name": "someone/not-here",
        "model.architecture": {**tiny_runs.DECODER, "vocab_size": 500},
        "judged": ["none.parquet"],
        "docs_per_query": 5,
        "text.max_tokens": 30,
    }
    assert dry("rank", settings, "--dry-run") == 0
    said = lines(capsys.readouterr().out)
    assert said["examples"] == "not counted, for there is no none.parquet, no tokenizer someone/not-here"
    assert said["steps"].startswith("2 epochs of about 800 tokens = 1 ranks x 1 micro-batches of up to 900")
    assert dry("rank", {**settings, "model.architecture": None}, "--dry-run") == 1
    assert "someone/not-here: its config.json is neither on this disk nor within reach" in capsys.readouterr().err
    assert dry("rank", settings) == 2  # a run needs its inputs
    assert "none.parquet" in capsys.readouterr().err


def test_a_student_is_planned_for(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, argv = pipeline.commands["student"]
    monkeypatch.chdir(tmp_path)
    assert run_stage(stage, [*argv, "--out", "out", "--dry-run"]) == 0
    said = lines(capsys.readouterr().out)
    steps = [line for line in tiny_runs.lines(pipeline.folder / "student") if "loss" in line]
    assert said["steps"].startswith(f"{len(steps)} steps of")
    assert list(tmp_path.iterdir()) == []


def test_one_rank_of_a_launcher_speaks(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {**decoder(world), "judged": [str(world / "judged.train.parquet")]}
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    assert dry("rank", settings, "--dry-run") == 0
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    assert dry("rank", settings, "--dry-run") == 0
    assert "ZeRO 1, 4 ranks" in capsys.readouterr().out


def test_no_dump_has_a_dry_run(pipeline: Pipeline) -> None:
    assert "dry_run" not in (pipeline.folder / "teacher" / "config.yaml").read_text()
    assert "dry_run" not in json.dumps(json.loads((pipeline.folder / "teacher" / "disranker.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("path", PLANNED, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_arithmetic_in_a_shipped_config_is_what_its_dry_run_says(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    text = path.read_text("utf-8")
    (flags,) = re.findall(r"^# With (--dry-run.*), which needs no GPU, it says:$", text, re.MULTILINE)
    launch = shlex.split(text.splitlines()[0][2:])
    script = next(word for word in launch if word in STAGE_OF_SCRIPT)
    assert run_stage(STAGE_OF_SCRIPT[script], [*launch[launch.index(script) + 1 :], *shlex.split(flags)]) == 0
    shown = capsys.readouterr().out
    said = "".join(f"#   {line}\n" for line in shown[shown.index("bytes of a rank") :].splitlines())
    assert said in text


def test_there_are_plans_to_check() -> None:
    assert len(PLANNED) >= 7
