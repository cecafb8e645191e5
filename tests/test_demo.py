"""The demo: its commands are sound, and what it promises comes out (slow)."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from disranker.demo import main, steps
from disranker.launch import stage_script
from disranker.settings import Settings


def config_of(stage: str) -> type[Settings]:
    """The settings class that a stage script names."""
    source = stage_script(stage).read_text("utf-8")
    (name,) = re.findall(r"^CONFIG = (\w+)$", source, re.MULTILINE)
    (module,) = re.findall(rf"^from (disranker\.config\.\w+) import .*\b{name}\b", source, re.MULTILINE)
    return getattr(importlib.import_module(module), name)


def test_every_command_of_the_demo_is_sound(tmp_path: Path) -> None:
    inputs = [
        "world/clicks.parquet",
        "world/candidates.parquet",
        "teacher/x",
        "student-distilled/x",
        "student-labels/x",
    ]
    inputs += [f"world/judged.{split}.parquet" for split in ("train", "dev", "test")]
    inputs += ["store/x", "evaluated/x", "student-onnx/x", "teacher-without-pretraining/x"]
    for name in inputs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    settings = {}
    for stage, arguments in steps(tmp_path, seed=3):
        parsed = config_of(stage).parse(arguments)
        assert Path(parsed.out).parent == tmp_path
        settings[Path(parsed.out).name] = parsed
    assert list(settings) == [
        "pretrained", "teacher", "teacher-without-pretraining", "store", "student-distilled", "student-labels",
        "student-onnx", "evaluated", "report",
    ]  # fmt: skip
    # The baselines are not held back: same optimizer, same steps, same dev set, same model.
    for one, other in (("teacher", "teacher-without-pretraining"), ("student-distilled", "student-labels")):
        assert settings[one].optim == settings[other].optim
        assert settings[one].training == settings[other].training
        assert settings[one].judged_dev == settings[other].judged_dev
    assert settings["student-distilled"].model == settings["student-labels"].model
    assert settings["teacher-without-pretraining"].model.architecture == settings["pretrained"].model.architecture


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["--out", str(tmp_path)]) == 2
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert "holds something else" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_the_demo_promises(tmp_path: Path, seed: int) -> None:
    assert main(["--out", str(tmp_path / "demo"), "--seed", str(seed)]) == 0
    report = json.loads((tmp_path / "demo" / "report" / "report.json").read_text("utf-8"))
    systems = report["systems"]
    for measure in ("nDCG@10", "PNR"):
        assert systems["student-distilled"][measure] > systems["student-labels"][measure]
        assert systems["teacher"][measure] > systems["teacher-without-pretraining"][measure]
        assert systems["bm25"][measure] > systems["random"][measure]
    assert abs(systems["student-onnx"]["nDCG@10"] - systems["student-distilled"]["nDCG@10"]) < 1e-3
