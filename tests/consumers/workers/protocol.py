"""What every worker does: with one consumer it scores requests that come on standard input, and says how long it took.

    python workers/NAME.py EXPORT [--threads N] [--backend NAME] [--file NAME]

It runs in the consumer's environment, where there is no disranker.  Once it has loaded the export it writes
{"versions"}; then, for each line {"query", "documents"}, a line {"scores", "seconds"}, with the scores in the order of
the documents.  `seconds` are those of the consumer's own call, which tokenizes, too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Score = Callable[[str, list[str]], Sequence[float]]


class Options(NamedTuple):
    """What a worker was asked for."""

    folder: Path
    threads: int
    backend: str
    file: str


def serve(load: Callable[[Options], Score], *packages: str) -> None:
    """Load the export, then answer requests until there are no more; `packages` are those whose versions matter."""
    # What a consumer prints goes to standard error, with what its C++ prints.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="")
    parser.add_argument("--file", default="")
    score = load(Options(**vars(parser.parse_args())))

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    answer({"versions": {name: importlib.metadata.version(name) for name in packages}})
    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        scores = score(request["query"], request["documents"])
        seconds = time.perf_counter() - began
        answer({"scores": [float(one) for one in scores], "seconds": seconds})


def limit_onnxruntime(threads: int) -> None:
    """Have every session compute with that many threads, for consumers that offer no setting for it."""
    import onnxruntime

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path: str, options: Any = None, **arguments: Any) -> None:
            options = options or onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            super().__init__(path, options, **arguments)

    onnxruntime.InferenceSession = Session
