"""Running steps: order, markers, what is skipped, gone on with and done anew, failures, kills; in real processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from disranker.sweep.plan import Step
from disranker.sweep.runner import Outcome, is_done, open_sweep, read_marker, run_plan

ROWS = ("--judged_train", "1", "--judged_dev", "1", "--judged_test", "1", "--candidate_queries", "1")


def world(folder: Path, name: str, *needs: str, rows: str = "3") -> Step:
    """A step that takes a moment: a world of a few rows; `rows="none"` makes it fail."""
    arguments = ("--out", str(folder / name), "--rows", rows, *ROWS)
    return Step(0, None, name, "world", arguments, folder / name, needs, f"key-{rows}", folder / "steps" / name)


def run(out: Path, *steps: Step, jobs: int = 1) -> Outcome:
    with open_sweep(out) as lock:
        return run_plan(steps, jobs=jobs, threads=1, lock=lock)


def began(text: str) -> list[str]:
    """The names of the steps that a call ran, as it printed them."""
    return re.findall(r"^ +\d+/\d+ +seed-0/(\w+)", text, re.MULTILINE)


def test_steps_run_in_the_order_of_their_needs_and_only_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c = world(tmp_path, "a", "seed-0/c"), world(tmp_path, "b"), world(tmp_path, "c", "seed-0/b")
    assert run(tmp_path, a, b, c).done == {"seed-0/a", "seed-0/b", "seed-0/c"}
    printed = capsys.readouterr().out
    assert began(printed) == ["b", "c", "a"]
    assert re.search(r"^  1/3  seed-0/b +0:\d\d  left about 0:\d\d$", printed, re.MULTILINE)
    assert "left" not in printed.splitlines()[-1]
    assert (tmp_path / "b" / "clicks.parquet").exists()
    assert "wrote 3 clicks" in a.log.read_text() and a.log.read_text().startswith("$ disranker world --out ")
    marker = read_marker(a)
    assert (marker["state"], marker["exit_code"], marker["key"]) == ("done", 0, "key-3")
    assert marker["provenance"]["python"] and marker["seconds"] >= 0

    assert len(run(tmp_path, a, b, c).done) == 3
    assert capsys.readouterr().out == "  3 of 3 steps were done before\n"

    # another key: that step alone, in an empty folder, with a log of its own
    (tmp_path / "c" / "left-over").touch()
    assert len(run(tmp_path, a, b, replace(world(tmp_path, "c", rows="4"), needs=c.needs)).done) == 3
    assert began(capsys.readouterr().out) == ["c"]
    assert not (tmp_path / "c" / "left-over").exists()
    assert "wrote 3 clicks" not in c.log.read_text()

    # what it made is gone: done anew
    shutil.rmtree(tmp_path / "b")
    run(tmp_path, a, b)
    assert began(capsys.readouterr().out) == ["b"]


def test_a_failing_step_stops_only_those_that_need_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, other = world(tmp_path, "bad", rows="none"), world(tmp_path, "other")
    after, last = world(tmp_path, "after", "seed-0/bad"), world(tmp_path, "last", "seed-0/after")
    outcome = run(tmp_path, bad, after, last, other)
    assert outcome.done == {"seed-0/other"}
    assert list(outcome.failed) == ["seed-0/bad"]
    assert outcome.failed["seed-0/bad"].startswith("exit code 2: disranker world: error: argument --rows")
    assert outcome.blocked == {"seed-0/after": "seed-0/bad", "seed-0/last": "seed-0/after"}
    assert str(bad.log) in capsys.readouterr().out
    assert read_marker(bad)["state"] == "failed" and not is_done(bad)
    # the next call tries again
    assert run(tmp_path, bad, other).failed.keys() == {"seed-0/bad"}


def test_a_step_that_was_begun_finds_its_folder_as_it_left_it(tmp_path: Path) -> None:
    step = world(tmp_path, "a")
    step.marker.parent.mkdir(parents=True)
    step.made.mkdir()
    (tmp_path / "lock").touch()
    (step.made / "checkpoint").touch()
    step.marker.write_text(json.dumps({"state": "begun", "key": step.key}))
    run(tmp_path, step)
    assert (step.made / "checkpoint").exists() and is_done(step)


def test_a_step_that_makes_nothing_has_failed(tmp_path: Path) -> None:
    outcome = run(tmp_path, replace(world(tmp_path, "a"), made=tmp_path / "elsewhere"))
    assert outcome.failed == {"seed-0/a": f"it ended well, but {tmp_path / 'elsewhere'} is not there"}


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else"), open_sweep(tmp_path):
        pass


CALL = """
import sys
from pathlib import Path
sys.path.insert(0, {checkout!r})
from tests.sweep.test_runner import run, world
print("begun", flush=True)
run(Path({out!r}), world(Path({out!r}), "quick"), world(Path({out!r}), "long", "seed-0/quick", rows="30000000"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_after_a_kill_the_next_call_goes_on(
    tmp_path: Path, checkout: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    code = CALL.format(checkout=str(checkout), out=str(tmp_path))
    call = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, cwd=checkout)
    long = world(tmp_path, "long", "seed-0/quick", rows="30000000")
    wait_for(lambda: read_marker(long).get("state") == "begun" and long.made.exists())
    call.send_signal(number)
    assert call.wait(30) == (-number if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGKILL:
        # The process that was left is still at its step: no second one may write to the same folder.
        with pytest.raises(ValueError, match="a process that a killed one left is at its last step"):
            run(tmp_path, long)
        end_workers(tmp_path)
    assert is_done(world(tmp_path, "quick")) and not is_done(long)
    wait_for(lambda: is_free(tmp_path))
    run(tmp_path, world(tmp_path, "quick"), world(tmp_path, "long", "seed-0/quick"))
    assert began(capsys.readouterr().out) == ["long"]


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not come to pass within 30 seconds")


def is_free(out: Path) -> bool:
    try:
        with open_sweep(out):
            return True
    except ValueError:
        return False


def end_workers(out: Path) -> None:
    """End the processes that hold the lock of a sweep."""
    lock = (out / "lock").stat()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            held = [(file.stat().st_dev, file.stat().st_ino) for file in (folder / "fd").iterdir()]
        except OSError:
            continue  # not ours, or gone
        if (lock.st_dev, lock.st_ino) in held and int(folder.name) != os.getpid():
            os.kill(int(folder.name), signal.SIGKILL)
