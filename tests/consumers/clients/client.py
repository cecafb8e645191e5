"""What every script here does: it asks a running server through one library, as its users would.

    python clients/NAME.py ADDRESS MODEL

It reads {"query", "documents"} from standard input and writes {"versions", "scores", "error"}: the scores in the order
of the documents, or what the library says when the server refuses.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Sequence

Score = Callable[[str, str, str, list[str]], Sequence[float]]
"""Address, model, query, documents -> scores."""


def main(score: Score, *packages: str) -> None:
    """Ask once; `packages` are those whose versions matter."""
    # What a library prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    address, model = sys.argv[1:]
    request = json.load(sys.stdin)
    scores, error = None, None
    try:
        scores = [float(one) for one in score(address, model, request["query"], request["documents"])]
    except Exception as refusal:  # every library has an error of its own
        error = f"{type(refusal).__name__}: {refusal}"
    versions = {name: importlib.metadata.version(name) for name in packages}
    json.dump({"versions": versions, "scores": scores, "error": error}, answers)


def by_index(results: Sequence[tuple[int, float]]) -> list[float]:
    """Scores in the order of the documents; every document has one."""
    if sorted(index for index, _ in results) != list(range(len(results))):
        raise RuntimeError(f"not every document once: {results}")
    if [score for _, score in results] != sorted((score for _, score in results), reverse=True):
        raise RuntimeError(f"not the best first: {results}")
    return [score for _, score in sorted(results)]
