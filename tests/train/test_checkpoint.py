"""Checkpoints: the newest is kept whole whatever moment a kill comes, and belongs to its settings."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from disranker.train.checkpoint import check_settings
from tests.tiny_runs import largest_difference
from tests.train.training import Killed, killed_at, make_model, run

SETTINGS = "learning_rate: 0.1\nsteps: 6\n"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps with a checkpoint every 2, killed after step 5; it must not be gone on with."""
    out = tmp_path_factory.mktemp("killed") / "run"
    with pytest.raises(Killed):
        run("llama-rank", out, checkpoint_every=2, wrap_plan=killed_at(5), config_text=SETTINGS)
    return out


@pytest.fixture
def begun(killed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(killed, tmp_path / "run")
    return tmp_path / "run"


def test_only_the_newest_is_kept(killed: Path) -> None:
    checkpoints = killed / "checkpoint"
    assert [path.name for path in checkpoints.glob("step-*")] == ["step-00000004"]
    assert (checkpoints / "latest").read_text() == "step-00000004"


def test_a_run_without_checkpoints_starts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Killed):
        run("llama-rank", tmp_path, wrap_plan=killed_at(3))
    assert not (tmp_path / "checkpoint").exists()
    assert [line["step"] for line in run("llama-rank", tmp_path).lines] == [1, 2, 3, 4, 5, 6]
    assert "going on" not in capsys.readouterr().out


def test_a_run_says_where_it_goes_on_and_removes_its_checkpoint_at_the_end(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run("llama-rank", begun, checkpoint_every=2, config_text=SETTINGS)
    assert "going on from the checkpoint at step 4" in capsys.readouterr().out
    assert [line["step"] for line in outcome.lines] == [1, 2, 3, 4, 5, 6]
    assert not (begun / "checkpoint").exists()


def test_a_checkpoint_that_was_half_written_is_passed_over(begun: Path, tmp_path: Path) -> None:
    """A kill while a checkpoint is written leaves a part of it, and `latest` on the one before."""
    half = begun / "checkpoint" / "step-00000006"
    half.mkdir()
    (half / "mp_rank_00_model_states.pt").write_bytes(b"half")
    resumed = run("llama-rank", begun, checkpoint_every=2, config_text=SETTINGS)
    whole = run("llama-rank", tmp_path / "whole", checkpoint_every=2, config_text=SETTINGS)
    assert resumed.lines == whole.lines
    assert largest_difference(resumed.weights, whole.weights) == 0.0


def test_other_settings_are_refused_and_named(begun: Path) -> None:
    before = (begun / "metrics.jsonl").read_text()
    with pytest.raises(ValueError) as caught:
        run("llama-rank", begun, checkpoint_every=2, config_text=SETTINGS.replace("0.1", "0.2"))
    message = str(caught.value)
    assert "checkpoint of a run with other settings" in message and "choose another out" in message
    assert "there  learning_rate: 0.1" in message and "here   learning_rate: 0.2" in message
    assert "steps" not in message
    assert (begun / "checkpoint" / "step-00000004").exists()
    assert (begun / "metrics.jsonl").read_text() == before


def test_other_settings_are_refused_before_weights_of_another_shape_are_touched(begun: Path) -> None:
    narrow = make_model("llama-rank", intermediate_size=24)
    with pytest.raises(ValueError, match="other settings"):
        run("llama-rank", begun, model=narrow, checkpoint_every=2, config_text="width: 24\n")


def test_another_number_of_ranks_is_refused(begun: Path) -> None:
    stored = begun / "checkpoint" / "config.yaml"
    check_settings(begun / "checkpoint", SETTINGS)
    stored.write_text(stored.read_text().replace("ranks: 1", "ranks: 2"))
    with pytest.raises(ValueError, match="there  ranks: 2\n  here   ranks: 1"):
        check_settings(begun / "checkpoint", SETTINGS)


def test_no_checkpoint_has_no_settings(tmp_path: Path) -> None:
    check_settings(tmp_path / "checkpoint", SETTINGS)
    assert not (tmp_path / "checkpoint").exists()


def test_a_checkpoint_holds_the_optimizer(begun: Path) -> None:
    """Resumed with fresh moments, Adam's first step would be a whole rate wide."""
    states = list((begun / "checkpoint" / "step-00000004").glob("*optim_states.pt"))
    assert len(states) == 1
    content = torch.load(states[0], weights_only=False)
    assert "optimizer_state_dict" in content
