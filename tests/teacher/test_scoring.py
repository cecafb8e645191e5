"""Scoring runs: each text once, killed and gone on with, one rank or two."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from disranker.schema import Candidate
from disranker.shards import read_manifest
from disranker.teacher.plan import PLAN_FOLDER, make_plan
from disranker.teacher.scoring import Teacher, score_candidates
from disranker.teacher.store import Store, shard_path
from tests import tiny_runs
from tests.teacher.fakes import CANDIDATES, IDENTITY, Counting, count_tokens, score, store_bytes, true_score


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
    assert "25 candidates, 20 distinct, 4 shards, 155 tokens, 4 shards to do here" in shown
    assert "shard 4/4: 20 of 20 pairs" in shown and "tokens/s, left 0:00" in shown
    (line,) = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [line[name] for name in ("step", "num_shards", "pairs", "tokens")] == [4, 4, 20, 155]
    assert line["pairs_per_second"] > 0 and line["tokens_per_second"] > line["pairs_per_second"]
    assert set(store_bytes(tmp_path)) == {
        "manifest.json",
        "aliases-000000.parquet",
        *(f"scores-00000{index}.parquet" for index in range(4)),
    }


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, killed_after: int) -> None:
    score(tmp_path / "straight", Counting())
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path / "killed", Counting(fail_at=killed_after))
    assert not read_manifest(tmp_path / "killed")["complete"]
    rest = Counting()
    score(tmp_path / "killed", rest)
    assert [len(block) for block in rest.blocks] == [6, 6, 6, 2][killed_after:]
    assert store_bytes(tmp_path / "killed") == store_bytes(tmp_path / "straight")


def test_a_kill_between_two_shards_of_any_rank_loses_only_what_lacks(tmp_path: Path) -> None:
    score(tmp_path / "straight", Counting())
    score(tmp_path / "holed", Counting())
    shard_path(tmp_path / "holed", 1).unlink()
    rest = Counting()
    score(tmp_path / "holed", rest)
    assert len(rest.blocks) == 1 and rest.blocks[0][0] == "d11"
    assert store_bytes(tmp_path / "holed") == store_bytes(tmp_path / "straight")


def test_a_finished_run_scores_nothing_anew(tmp_path: Path) -> None:
    score(tmp_path, Counting())
    before = store_bytes(tmp_path)
    again = Counting(fail_at=0)
    score(tmp_path, again)
    assert again.blocks == [] and store_bytes(tmp_path) == before


def test_another_cut_into_shards_is_refused(tmp_path: Path) -> None:
    score(tmp_path, Counting())
    with pytest.raises(ValueError, match="pairs_per_shard: there 6, here 7"):
        score(tmp_path, Counting(), per_shard=7)


def test_a_nan_stops_the_run_and_the_shards_before_it_stay(tmp_path: Path) -> None:
    def score_block(block: Sequence[Candidate]) -> tuple[NDArray[np.float32], None]:
        return np.array([np.nan if c.doc_id == "d13" else true_score(c) for c in block], dtype=np.float32), None

    with pytest.raises(ValueError, match=r"not finite, first: \(q1, d13\)"):
        score_candidates(
            Teacher(IDENTITY, score_block), lambda: CANDIDATES, out=tmp_path, input_hash="input", pairs_per_shard=6
        )
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == [
        "aliases-000000.parquet",
        "scores-000000.parquet",
    ]


def test_a_run_without_candidates_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no candidate"):
        score(tmp_path, Counting(), candidates=[])


def test_a_finished_store_is_not_read_again(tmp_path: Path) -> None:
    manifest = score(tmp_path, Counting())
    (tmp_path / PLAN_FOLDER).mkdir()  # as if the run had been killed while it tidied up
    (tmp_path / ".manifest.json.abc.tmp").write_text("{")
    teacher = Teacher(IDENTITY, Counting(fail_at=0), count_tokens)
    found = score_candidates(
        teacher, lambda: pytest.fail("read again"), out=tmp_path, input_hash="input", pairs_per_shard=6
    )
    assert found == manifest
    assert not list(tmp_path.glob(".*"))


def test_a_kill_after_the_plan_keeps_it(tmp_path: Path) -> None:
    score(tmp_path / "straight", Counting())
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path / "killed", Counting(fail_at=1))
    plan = make_plan(tmp_path / "killed", lambda: pytest.fail("planned again"), count_tokens, pairs_per_shard=6)
    assert plan.num_pairs == 20
    (tmp_path / "killed" / "metrics.jsonl").write_text('{"step": 1}\n{"ste')
    score(tmp_path / "killed", Counting())
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 4]
    assert store_bytes(tmp_path / "killed") == store_bytes(tmp_path / "straight")


def test_representations_are_there_when_their_scores_are(tmp_path: Path) -> None:
    score(tmp_path / "straight", Counting(represents=True), representation="pooled")
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path / "killed", Counting(fail_at=2, represents=True), representation="pooled")
    # a kill between the two files of a shard
    shard_path(tmp_path / "killed", 1).unlink()
    rest = Counting(represents=True)
    score(tmp_path / "killed", rest, representation="pooled")
    assert [block[0] for block in rest.blocks] == ["d11", "d17", "d23"]
    assert store_bytes(tmp_path / "killed") == store_bytes(tmp_path / "straight")
    assert "representations-000003.npy" in store_bytes(tmp_path / "killed")


TWO_RANKS = """
import sys
from pathlib import Path
from disranker import dist
from tests.teacher.fakes import Counting, score
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
    assert store_bytes(tmp_path / "two") == store_bytes(tmp_path / "one")
