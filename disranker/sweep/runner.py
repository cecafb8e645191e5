"""Running steps: what is done is skipped, what a kill cut short is gone on with, what failed is named.

Every step prints into a log file and has a marker that says how far it has come.  A step that was begun with the same
key finds its folder as it left it, so a training run goes on from its checkpoint; a step whose key has changed finds
its folder removed.  The steps themselves run in `worker` processes.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disranker.settings import provenance
from disranker.shards import write_json
from disranker.sweep.plan import Step
from disranker.train.journal import clock

_LOCK = "lock"
_LOG_TAIL_BYTES = 4096


@dataclass(slots=True)
class Outcome:
    """What a call came to."""

    done: set[str] = field(default_factory=set)
    """Names of the steps that are done, by this call or an earlier one."""
    failed: dict[str, str] = field(default_factory=dict)
    """Name of a step that failed -> why, in one line."""
    blocked: dict[str, str] = field(default_factory=dict)
    """Name of a step that was not begun -> the failed step that it needs."""

    @property
    def num_ended(self) -> int:
        """Steps that this call has nothing more to do with."""
        return len(self.done) + len(self.failed) + len(self.blocked)


@contextmanager
def open_sweep(out: Path) -> Iterator[int]:
    """Make the folder of a sweep and keep other calls out of it; gives the file descriptor of the lock.

    Processes that inherit the descriptor hold the lock too, so it outlives a killed call as long as they do.

    Raises:
        ValueError: the folder holds something else, or another call or a process that it left works on it.
    """
    if out.exists() and any(out.iterdir()) and not (out / _LOCK).exists():
        raise ValueError(f"{out} holds something else; give the sweep a folder of its own with --out")
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another sweep works on {out}, or a process that a killed one left is at its last step; "
                "wait until it has ended, or end it"
            ) from error
        yield lock.fileno()


def run_plan(
    plan: Sequence[Step], *, jobs: int, threads: int | None, lock: int, stop_at_failure: bool = False
) -> Outcome:
    """Run the steps that are not done, at most `jobs` at once with `threads` OpenMP threads each; None: as many as now.

    Prints one line for each finished step.  A step that fails stops only those that need it, or all that have not begun
    where the plan is to stop at a failure.
    """
    about = provenance()
    outcome = Outcome({step.name for step in plan if is_done(step)})
    waiting = [step for step in plan if step.name not in outcome.done]
    if outcome.done:
        print(f"  {len(outcome.done)} of {len(plan)} steps were done before", flush=True)
    idle = [_Worker(threads, lock) for _ in range(min(jobs, len(waiting)))]
    busy: dict[_Worker, Step] = {}
    with _ended_by_sigterm(), selectors.DefaultSelector() as replies:
        try:
            while waiting or busy:
                for step in list(waiting):
                    lacking = [need for need in step.needs if need in outcome.failed or need in outcome.blocked]
                    lacking += outcome.failed if stop_at_failure else []
                    if lacking:
                        waiting.remove(step)
                        outcome.blocked[step.name] = lacking[0]
                    elif idle and outcome.done.issuperset(step.needs):
                        waiting.remove(step)
                        worker = idle.pop()
                        busy[worker] = step
                        _begin(step, about)
                        worker.start(step)
                        replies.register(worker.replies, selectors.EVENT_READ, worker)
                for key, _ in replies.select() if busy else []:
                    worker = key.data
                    replies.unregister(worker.replies)
                    step = busy.pop(worker)
                    code = worker.exit_code()
                    _finish(step, code, time.monotonic() - worker.began, outcome, about)
                    idle.append(worker if worker.is_alive else _Worker(threads, lock))
                    ahead = _seconds(plan, [*waiting, *busy.values()]) / jobs
                    _print_line(step, outcome, len(plan), time.monotonic() - worker.began, ahead)
        finally:
            for worker in [*idle, *busy]:
                worker.end()
    return outcome


def is_done(step: Step) -> bool:
    """Whether a step was finished with its present key, and what it made still stands."""
    marker = read_marker(step)
    return marker.get("state") == "done" and marker.get("key") == step.key and step.made.exists()


def read_marker(step: Step) -> dict[str, Any]:
    """The marker of a step: state (begun, done or failed), key, command, provenance, exit code, seconds; or nothing."""
    if not step.marker.exists():
        return {}
    content: dict[str, Any] = json.loads(step.marker.read_text(encoding="utf-8"))
    return content


def command_line(step: Step) -> str:
    """The command of a step as a user would type it."""
    return shlex.join(["disranker", step.stage, *step.arguments])


class _Worker:
    """A process that runs steps, as this one sees it."""

    def __init__(self, threads: int | None, lock: int) -> None:
        few = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "disranker.sweep.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[lock],
            text=True,
            env={**os.environ, **few, "PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None
        self.replies = self._process.stdout
        self.began = time.monotonic()

    def start(self, step: Step) -> None:
        """Begin a step."""
        assert self._process.stdin is not None
        self.began = time.monotonic()
        request = {"argv": [step.stage, *step.arguments], "log": str(step.log)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def exit_code(self) -> int:
        """The exit code of the step that has ended; minus the signal's number where the process was killed."""
        reply = self.replies.readline()
        return int(reply) if reply else self._process.wait() or 1

    @property
    def is_alive(self) -> bool:
        """Whether it can take another step."""
        return self._process.poll() is None

    def end(self) -> None:
        """End the process, also in the midst of a step."""
        self._process.terminate()
        self._process.communicate()


def _begin(step: Step, about: Mapping[str, Any]) -> None:
    again = read_marker(step).get("key") == step.key
    if not again and step.stage != "eval":  # evaluations share a folder and replace their own files
        shutil.rmtree(step.made, ignore_errors=True)
    step.log.parent.mkdir(parents=True, exist_ok=True)
    with step.log.open("a" if again else "w", encoding="utf-8") as log:
        log.write(f"$ {command_line(step)}\n")
    _mark(step, "begun", about)


def _finish(step: Step, code: int, seconds: float, outcome: Outcome, about: Mapping[str, Any]) -> None:
    if code == 0 and step.made.exists():
        outcome.done.add(step.name)
    elif code == 0:
        outcome.failed[step.name] = f"it ended well, but {step.made} is not there"
    else:
        outcome.failed[step.name] = f"exit code {code}: {log_tail(step)[-1].strip()}"
    state = "done" if step.name in outcome.done else "failed"
    _mark(step, state, about, exit_code=code, seconds=round(seconds, 1))


def _mark(step: Step, state: str, about: Mapping[str, Any], **more: Any) -> None:
    content = {"state": state, "key": step.key, "command": command_line(step), "provenance": dict(about), **more}
    write_json(step.marker, content)


def log_tail(step: Step) -> list[str]:
    """The last lines that the command printed, blank ones left out; the command itself, at least."""
    with step.log.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
        return [line.rstrip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]


def _print_line(step: Step, outcome: Outcome, num_steps: int, seconds: float, ahead: float) -> None:
    left = f"  left about {clock(ahead)}" if outcome.num_ended < num_steps else ""
    place = f"{outcome.num_ended:>{len(str(num_steps))}}/{num_steps}"
    print(f"  {place}  {step.name:<32} {clock(seconds):>7}{left}", flush=True)
    if step.name in outcome.failed:
        print(f"      failed: {outcome.failed[step.name]}\n      all of it: {step.log}", flush=True)


def _seconds(plan: Sequence[Step], ahead: Sequence[Step]) -> float:
    """What the steps ahead will take if each takes as long as its like has taken."""
    taken: dict[str, list[float]] = {}
    for step in plan:
        marker = read_marker(step)
        if marker.get("state") == "done":
            taken.setdefault(step.kind, []).append(marker["seconds"])
    means = {kind: sum(seconds) / len(seconds) for kind, seconds in taken.items()}
    typical = sum(means.values()) / len(means) if means else 0.0
    return sum(means.get(step.kind, typical) for step in ahead)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Within, SIGTERM ends this process by an exception, so that it can end the processes that it started."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
