"""Scoring runs: each text once, killed and gone on with, one rank or two, somebody else's teacher."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from disranker.schema import Candidate, pair_key
from disranker.shards import read_manifest
from disranker.teacher.scoring import Teacher, run_teacher, score_candidates
from disranker.teacher.store import Store, shard_path
from tests import tiny_runs

IDENTITY = {"kind": "bundle", "fingerprint": "f1"}
# 25 candidates with 20 different texts: d5 to d9 say what d0 to d4 say, for the same query.
CANDIDATES = [
    Candidate(f"q{i // 10}", f"d{i}", f"query {i // 10}", f"title {i - 5 if 5 <= i < 10 else i}", "") for i in range(25)
]


def true_score(candidate: Candidate) -> float:
    return float(np.float32(int(pair_key(candidate.pair)[:6], 16) / 2**24))


class Counting:
    """A teacher that remembers whom it scored, and fails before block `fail_at`."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.blocks: list[list[str]] = []
        self._fail_at = fail_at

    def __call__(self, block: Sequence[Candidate]) -> NDArray[np.float32]:
        if len(self.blocks) == self._fail_at:
            raise KeyboardInterrupt
        self.blocks.append([candidate.doc_id for candidate in block])
        return np.array([true_score(candidate) for candidate in block], dtype=np.float32)


def score(out: Path, teacher: Counting, candidates: Sequence[Candidate] = CANDIDATES, per_shard: int = 6) -> None:
    score_candidates(Teacher(IDENTITY, teacher), candidates, out=out, input_hash="input", pairs_per_shard=per_shard)


def test_every_text_is_scored_once_and_all_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = Counting()
    score(tmp_path, teacher)
    assert [len(block) for block in teacher.blocks] == [6, 6, 6, 2]
    assert [doc_id for block in teacher.blocks for doc_id in block] == [f"d{i}" for i in range(25) if not 5 <= i < 10]
    store = Store(tmp_path)
    found = store.lookup([candidate.pair for candidate in CANDIDATES])
    assert found.tolist() == [true_score(candidate) for candidate in CANDIDATES]
    manifest = read_manifest(tmp_path)
    assert (manifest["num_candidates"], manifest["num_pairs"], len(manifest["shards"])) == (25, 20, 4)
    shown = capsys.readouterr().out
    assert "shard 3: 20 pairs scored" in shown


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, killed_after: int) -> None:
    score(tmp_path / "straight", Counting())
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path / "killed", Counting(fail_at=killed_after))
    assert not read_manifest(tmp_path / "killed")["complete"]
    rest = Counting()
    score(tmp_path / "killed", rest)
    assert [len(block) for block in rest.blocks] == [6, 6, 6, 2][killed_after:]
    assert tiny_runs.file_bytes(tmp_path / "killed") == tiny_runs.file_bytes(tmp_path / "straight")


def test_a_kill_between_two_shards_of_any_rank_loses_only_what_lacks(tmp_path: Path) -> None:
    score(tmp_path / "straight", Counting())
    score(tmp_path / "holed", Counting())
    shard_path(tmp_path / "holed", 1).unlink()
    rest = Counting()
    score(tmp_path / "holed", rest)
    assert len(rest.blocks) == 1 and rest.blocks[0][0] == "d11"
    assert tiny_runs.file_bytes(tmp_path / "holed") == tiny_runs.file_bytes(tmp_path / "straight")


def test_a_finished_run_scores_nothing_anew(tmp_path: Path) -> None:
    score(tmp_path, Counting())
    before = tiny_runs.file_bytes(tmp_path)
    again = Counting(fail_at=0)
    score(tmp_path, again)
    assert again.blocks == [] and tiny_runs.file_bytes(tmp_path) == before


def test_another_cut_into_shards_is_refused(tmp_path: Path) -> None:
    score(tmp_path, Counting())
    with pytest.raises(ValueError, match="pairs_per_shard: there 6, here 7"):
        score(tmp_path, Counting(), per_shard=7)


def test_a_nan_stops_the_run_and_the_shards_before_it_stay(tmp_path: Path) -> None:
    def score_block(block: Sequence[Candidate]) -> NDArray[np.float32]:
        return np.array([np.nan if c.doc_id == "d13" else true_score(c) for c in block], dtype=np.float32)

    with pytest.raises(ValueError, match=r"not finite, first: \(q1, d13\)"):
        score_candidates(
            Teacher(IDENTITY, score_block), CANDIDATES, out=tmp_path, input_hash="input", pairs_per_shard=6
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "scores-000000.parquet"]


def test_a_run_without_candidates_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no candidate"):
        score(tmp_path, Counting(), candidates=[])


def test_the_scores_of_a_run_are_a_teacher(tmp_path: Path) -> None:
    run = {"q0": {f"d{i}": i / 2 for i in range(10)}, "q1": {f"d{i}": -float(i) for i in range(10, 20)}}
    teacher = run_teacher("theirs", "h1", run)
    assert teacher.identity == {"kind": "run", "name": "theirs", "fingerprint": "h1"}
    score_candidates(teacher, CANDIDATES[:20], out=tmp_path, input_hash="input", pairs_per_shard=6)
    found = Store(tmp_path).lookup([candidate.pair for candidate in CANDIDATES[:20]])
    # d5 to d9 repeat the texts of d0 to d4, whose scores stand
    assert found[:10].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0] * 2
    assert found[10:].tolist() == [-float(i) for i in range(10, 20)]


def test_a_run_that_lacks_candidates_names_them(tmp_path: Path) -> None:
    teacher = run_teacher("theirs", "h1", {"q0": {"d0": 1.0, "d1": 2.0}})
    with pytest.raises(ValueError) as caught:
        score_candidates(teacher, CANDIDATES, out=tmp_path, input_hash="input", pairs_per_shard=6)
    assert str(caught.value) == (
        "the run theirs has no score for 4 candidates, first: ('q0', 'd2'), ('q0', 'd3'), ('q0', 'd4')"
    )


TWO_RANKS = """
import sys
from pathlib import Path
from disranker import dist
from tests.teacher.test_scoring import CANDIDATES, Counting, IDENTITY, score
dist.initialize()
teacher = Counting()
score(Path(sys.argv[1]), teacher)
assert dist.gather_objects([len(block) for block in teacher.blocks]) == [[6, 6], [6, 2]]
"""


@pytest.mark.multiprocess
def test_two_ranks_write_the_bytes_of_one(tmp_path: Path, checkout: Path) -> None:
    score(tmp_path / "one", Counting())
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(tiny_runs.free_port())}
    command = [sys.executable, "-c", TWO_RANKS, str(tmp_path / "two")]
    ranks = [
        subprocess.Popen(
            command, cwd=checkout, env={**tiny_runs.environment(), **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    assert tiny_runs.file_bytes(tmp_path / "two") == tiny_runs.file_bytes(tmp_path / "one")
