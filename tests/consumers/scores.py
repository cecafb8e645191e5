"""Workers as their callers see them, and how what they give is compared with golden pairs.

A worker (workers/NAME.py, workers/transformers_js.mjs) runs in the environment of its consumer and scores requests of
one query and its documents; workers/protocol.py says in which words.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.consumers.environments import SILENT, node_modules, python_of

WORKERS = Path(__file__).resolve().parent / "workers"


class Golden(NamedTuple):
    """A golden pair; `score` is the raw logit of torch."""

    query: str
    document: str
    score: float
    num_tokens: int


class Answer(NamedTuple):
    """What a worker says to a request: a score for each document, and how long its consumer took."""

    scores: list[float]
    seconds: float


class Result(NamedTuple):
    """What came of one consumer."""

    name: str
    versions: dict[str, str]
    kind: str
    num_pairs: int
    max_difference: float


class Worker:
    """A running worker."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.versions: dict[str, str] = self._read()["versions"]

    def score(self, query: str, documents: Sequence[str]) -> Answer:
        """The scores of one request, in the order of its documents."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"query": query, "documents": list(documents)}) + "\n")
        self._process.stdin.flush()
        return Answer(**self._read())

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def start_worker(name: str, environment: str | None, folder: Path, *options: str, threads: int = 1) -> Iterator[Worker]:
    """A worker that has loaded an export; it ends with the block.  Without an environment it runs in ours."""
    script = WORKERS / name
    if script.suffix == ".mjs":
        # Node looks for packages beside the script, and up from there.
        command = ["node", str(node_modules().parent / name)]
        (node_modules().parent / name).write_text(script.read_text("utf-8"), encoding="utf-8")
    else:
        command = [str(python_of(environment)) if environment else sys.executable, str(script)]
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    limits = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    variables = {**kept, **limits, **SILENT, "TOKENIZERS_PARALLELISM": "true"}
    command += [str(folder), "--threads", str(threads), *options]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, encoding="utf-8", env=variables, **pipes) as process:
        try:
            yield Worker(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # a worker ends when there are no more requests


def read_golden(folder: Path) -> list[Golden]:
    """The golden pairs of an export."""
    lines = map(json.loads, (folder / "golden.jsonl").read_text("utf-8").splitlines())
    return [Golden(line["query"], line["document"], line["score"], len(line["input_ids"])) for line in lines]


def sigmoid(score: float) -> float:
    """1 / (1 + exp(-score))"""
    return 1 / (1 + math.exp(-score))


def write_results(file: Path, results: Sequence[Result]) -> None:
    """A table of what each consumer gave."""
    rows = [
        f"| {one.name} | {', '.join(f'{name} {version}' for name, version in one.versions.items())} | {one.kind} "
        f"| {one.num_pairs} | {one.max_difference:.1e} |\n"
        for one in results
    ]
    head = "| consumer | versions | score | golden pairs | largest difference |\n|---|---|---|---|---|\n"
    file.write_text(head + "".join(rows), encoding="utf-8")
