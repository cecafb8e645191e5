"""The scripts of docs/examples run to their end, in an environment without disranker."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.consumers.environments import python_of
from tests.consumers.serving import MODEL, start_server

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def run_example(name: str, export: Path, *arguments: str) -> str:
    """What an example prints."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    judged = export.parent / "judged.dev.parquet"
    command = [str(python_of("clients")), str(EXAMPLES / name), "--judged", str(judged), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120, env=variables)
    return done.stdout


def test_no_example_is_left_out() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix} == {"retrieve_and_rerank.py", "rag.py"}


def test_retrieve_and_rerank(export: Path) -> None:
    said = run_example("retrieve_and_rerank.py", export, "--export", str(export))
    found = re.search(r"^nDCG@10: (0\.\d+) by BM25, (0\.\d+) reranked$", said, re.MULTILINE)
    assert found is not None, said
    assert found[1] != found[2], "the ranker changed no order"
    assert len(re.findall(r"^  [1-5]\. \S", said, re.MULTILINE)) == 5


def test_rag(export: Path) -> None:
    with start_server(export) as address:
        said = run_example("rag.py", export, "--server", address, "--model", MODEL)
    answer = re.search(r"^answer: (.+) \[1\]$", said, re.MULTILINE)
    scores = re.findall(r"^  \[\d\] \S+ (0\.\d+) (.+)$", said, re.MULTILINE)
    assert answer is not None and len(scores) == 3, said
    # The language model read what the reranker put first.
    assert answer[1].startswith(scores[0][1].strip())
    assert [float(score) for score, _ in scores] == sorted((float(score) for score, _ in scores), reverse=True)
