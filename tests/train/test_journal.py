"""The journal: lines on disk, the short view, and what a resumed run drops."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from disranker.train.journal import Journal, clock

METRICS = {"loss": 0.5, "learning_rate": 1e-3, "tokens_per_second": 1234.0}


def journal(out: Path, *, first_step: int = 0, num_steps: int = 4, log_every: int = 2) -> Journal:
    return Journal(out, num_steps=num_steps, first_step=first_step, log_every=log_every, tensorboard=False)


def test_every_step_on_disk_and_some_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with journal(tmp_path / "run", num_steps=5) as told:
        for step in range(1, 6):
            told.step(step, METRICS)
        told.evaluation(5, {"nDCG@10": 0.25, "PNR": 2.0}, best=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, **METRICS} for step in range(1, 6)] + [
        {"step": 5, "dev": {"nDCG@10": 0.25, "PNR": 2.0}}
    ]
    shown = capsys.readouterr().out.splitlines()
    # steps 2 and 4 by log_every, 5 because it is the last
    assert [line.split()[1] for line in shown[:3]] == ["2/5", "4/5", "5/5"]
    assert shown[0].startswith("  step 2/5  loss 0.5000  rate 1.00e-03  1,234 tokens/s  left 0:0")
    assert shown[3:] == ["  step 5: dev nDCG@10 0.2500  PNR 2.0000  (best so far)"]


def test_bits_and_the_share_of_the_peak_are_shown_where_they_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with journal(tmp_path, num_steps=1) as told:
        told.step(1, {**METRICS, "bits_per_byte": 1.23456, "peak_share": 0.418})
    (line,) = capsys.readouterr().out.splitlines()
    assert line == ("  step 1/1  loss 0.5000  1.235 bits/byte  rate 1.00e-03  1,234 tokens/s (42% of peak)  left 0:00")


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with journal(tmp_path) as told:
        for step in range(1, 4):
            told.step(step, METRICS)
            told.evaluation(step, {"nDCG@10": 0.1}, best=False)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while it wrote
    journal(tmp_path, first_step=2)
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], "dev" in line) for line in kept] == [(1, False), (1, True), (2, False), (2, True)]


def test_a_run_from_the_start_drops_everything(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("what another run left\n")
    with journal(tmp_path) as told:
        told.step(1, METRICS)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1]


def test_tensorboard_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        Journal(tmp_path, num_steps=1, first_step=0, log_every=1, tensorboard=True)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.6, "1:00:00"), (5025, "1:23:45")]
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
