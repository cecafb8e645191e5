"""Candidates, teachers that cost nothing, and stores of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disranker.schema import Candidate, Pair, pair_key
from disranker.teacher.scoring import Teacher, score_candidates
from disranker.teacher.store import METRICS_NAME
from tests import tiny_runs

IDENTITY = {"kind": "bundle", "fingerprint": "f1", "dtype": "float32"}
# 25 candidates with 20 different texts: d5 to d9 say what d0 to d4 say, for the same query.
CANDIDATES = [
    Candidate(f"q{i // 10}", f"d{i}", f"query {i // 10}", f"title {i - 5 if 5 <= i < 10 else i}", "") for i in range(25)
]


def true_score(candidate: Candidate) -> float:
    """A number in [0, 1) that the texts alone determine."""
    return float(np.float32(int(pair_key(candidate.pair)[:6], 16) / 2**24))


def true_state(candidate: Candidate) -> list[float]:
    """Three numbers that the texts alone determine and float16 holds exactly."""
    key = pair_key(candidate.pair)
    return [float(int(key[at], 16)) for at in (0, 1, 2)]


class Counting:
    """A teacher that remembers whom it scored, and fails before block `fail_at`."""

    def __init__(self, fail_at: int | None = None, *, represents: bool = False) -> None:
        self.blocks: list[list[str]] = []
        self._fail_at, self._represents = fail_at, represents

    def __call__(self, block: Sequence[Candidate]) -> tuple[NDArray[np.float32], NDArray[np.float16] | None]:
        if len(self.blocks) == self._fail_at:
            raise KeyboardInterrupt
        self.blocks.append([candidate.doc_id for candidate in block])
        scores = np.array([true_score(candidate) for candidate in block], dtype=np.float32)
        if not self._represents:
            return scores, None
        return scores, np.array([true_state(candidate) for candidate in block], dtype=np.float16)


def count_tokens(pairs: Sequence[Pair]) -> list[int]:
    """The characters of a title stand for tokens."""
    return [len(pair.title) for pair in pairs]


def score(
    out: Path,
    teacher: Counting,
    candidates: Sequence[Candidate] = CANDIDATES,
    *,
    per_shard: int = 6,
    identity: dict[str, Any] = IDENTITY,
    input_hash: str = "input",
    representation: str | None = None,
) -> dict[str, Any]:
    """A scoring run; the manifest."""
    return score_candidates(
        Teacher(identity, teacher, count_tokens, representation),
        lambda: iter(candidates),
        out=out,
        input_hash=input_hash,
        pairs_per_shard=per_shard,
    )


def store_bytes(folder: Path) -> dict[str, bytes]:
    """Every file that belongs to a store: all but the journal of the run."""
    return {name: content for name, content in tiny_runs.file_bytes(folder).items() if name != METRICS_NAME}
