"""The store: shards, manifest, look-ups by content, and everything that is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from disranker.schema import Candidate, Pair, pair_key
from disranker.shards import read_manifest
from disranker.teacher.store import Store, begin_store, distinct, finish_store, shard_path, write_shard

TEACHER = {"kind": "bundle", "fingerprint": "f1", "dtype": "float32"}


def candidates(count: int, first: int = 0) -> list[Candidate]:
    return [Candidate(f"q{i // 3}", f"d{i}", f"query {i // 3}", f"title {i}", "") for i in range(first, first + count)]


def make_store(folder: Path, scores: list[list[float]]) -> Path:
    """A finished store with these scores, one list a shard."""
    begin_store(folder, TEACHER, "input", 4)
    first = 0
    for index, block in enumerate(scores):
        write_shard(shard_path(folder, index), candidates(len(block), first), np.array(block, dtype=np.float32))
        first += len(block)
    finish_store(folder, len(scores), first)
    return folder


def pairs(count: int, first: int = 0) -> list[Pair]:
    return [candidate.pair for candidate in candidates(count, first)]


def test_what_stands_on_disk(tmp_path: Path) -> None:
    make_store(tmp_path / "store", [[1.0, 2.0], [3.0, 6.0]])
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        "manifest.json",
        "scores-000000.parquet",
        "scores-000001.parquet",
    ]
    manifest = read_manifest(tmp_path / "store")
    assert manifest == {
        "format": 1,
        "teacher": TEACHER,
        "input": "input",
        "pairs_per_shard": 4,
        "complete": True,
        "shards": ["scores-000000.parquet", "scores-000001.parquet"],
        "num_candidates": 4,
        "num_pairs": 4,
        # variance of 1, 2, 3, 6 around 3: (4 + 1 + 0 + 9) / 4
        "scores": {"mean": 3.0, "std": pytest.approx(3.5**0.5), "min": 1.0, "max": 6.0, "num_distinct": 4},
    }
    rows = pq.read_table(tmp_path / "store" / "scores-000001.parquet").to_pylist()
    assert rows == [
        {"query_id": "q0", "doc_id": "d2", "pair_key": pair_key(pairs(1, 2)[0]), "teacher_score": 3.0},
        {"query_id": "q1", "doc_id": "d3", "pair_key": pair_key(pairs(1, 3)[0]), "teacher_score": 6.0},
    ]


def test_scores_come_back_by_content_in_any_order(tmp_path: Path) -> None:
    scores = [[0.1, -2.5, 3e-8], [1e6, 7.0]]
    store = Store(make_store(tmp_path, scores))
    assert len(store) == 5
    order = [4, 0, 0, 3, 1, 2]
    found = store.lookup([pairs(5)[row] for row in order])
    assert found.dtype == np.float32
    assert found.tolist() == np.array([*scores[0], *scores[1]], dtype=np.float32)[order].tolist()
    # another query_id and doc_id, the same texts
    assert store.lookup([Pair("query 0", "title 1", "")]).tolist() == [-2.5]
    assert store.lookup([]).tolist() == []


def test_standardised_scores_have_mean_0_and_deviation_1_over_the_store(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    raw = random.normal(40.0, 3.0, (5, 40))
    store = Store(make_store(tmp_path, raw.tolist()))
    found = store.standardised(pairs(200))
    assert found.dtype == np.float32
    assert float(found.astype(np.float64).mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(found.astype(np.float64).std()) == pytest.approx(1.0, abs=1e-5)
    # of a part it is what it is of the whole
    assert store.standardised(pairs(3)).tolist() == found[:3].tolist()


def test_missing_pairs_are_named(tmp_path: Path) -> None:
    store = Store(make_store(tmp_path, [[1.0, 2.0]]))
    wanted = [*pairs(2), *[Pair("new", f"page {i}", "") for i in range(5)]]
    with pytest.raises(ValueError) as caught:
        store.lookup(wanted)
    message = str(caught.value)
    assert message.startswith(f"5 of 7 pairs have no teacher score in {tmp_path}, first: 'new' → 'page 0'")
    assert "'page 2'" in message and "'page 3'" not in message
    assert message.endswith("score these candidates with rank/score.py")


def test_an_unfinished_store_is_no_store(tmp_path: Path) -> None:
    begin_store(tmp_path, TEACHER, "input", 4)
    with pytest.raises(ValueError, match=r"is not finished: run rank/score\.py again"):
        Store(tmp_path)


def test_a_folder_without_manifest_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no store"):
        Store(tmp_path)


@pytest.mark.parametrize(
    ("teacher", "input_hash", "pairs_per_shard", "named"),
    [
        ({**TEACHER, "fingerprint": "f2"}, "input", 4, ["teacher", '"f1"', '"f2"']),
        ({**TEACHER, "dtype": "bfloat16"}, "input", 4, ["teacher", '"float32"', '"bfloat16"']),
        (TEACHER, "other", 4, ["input", 'there "input", here "other"']),
        (TEACHER, "input", 5, ["pairs_per_shard", "there 4, here 5"]),
        ({"kind": "run"}, "other", 8, ["teacher", "input", "pairs_per_shard"]),
    ],
)
def test_another_store_is_not_mixed_in_and_the_differences_are_named(
    tmp_path: Path, teacher: dict[str, str], input_hash: str, pairs_per_shard: int, named: list[str]
) -> None:
    make_store(tmp_path, [[1.0, 2.0]])
    before = read_manifest(tmp_path)
    with pytest.raises(ValueError) as caught:
        begin_store(tmp_path, teacher, input_hash, pairs_per_shard)
    message = str(caught.value)
    assert [part for part in ["two are not mixed", *named] if part not in message] == []
    equal = {"teacher", "input", "pairs_per_shard"} - set(named)
    assert [name for name in equal if f"  {name}: " in message] == []
    assert read_manifest(tmp_path) == before


def test_a_finished_store_stays_finished_when_begun_again(tmp_path: Path) -> None:
    make_store(tmp_path, [[1.0, 2.0]])
    begin_store(tmp_path, TEACHER, "input", 4)
    assert len(Store(tmp_path)) == 2


def test_shards_of_nobody_knows_whom_are_refused(tmp_path: Path) -> None:
    make_store(tmp_path, [[1.0, 2.0]])
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds shards but no manifest.json"):
        begin_store(tmp_path, TEACHER, "input", 4)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_makes_no_shard(tmp_path: Path, wrong: float) -> None:
    path = shard_path(tmp_path, 0)
    with pytest.raises(ValueError, match=r"score of 1 pairs is not finite, first: \(q0, d1\)"):
        write_shard(path, candidates(3), np.array([0.0, wrong, 1.0], dtype=np.float32))
    assert list(tmp_path.iterdir()) == []


def test_scores_that_are_all_equal_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"every pair the same score \(2.5\)"):
        make_store(tmp_path, [[2.5, 2.5], [2.5]])
    assert read_manifest(tmp_path)["complete"] is False


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    make_store(tmp_path, [[1.0], [2.0], [3.0]])
    shard_path(tmp_path, 1).unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 3 shards, first scores-000001.parquet"):
        finish_store(tmp_path, 3, 3)


def test_a_pair_that_stands_twice_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path, [[1.0, 2.0]])
    write_shard(shard_path(tmp_path, 1), candidates(1), np.array([5.0], dtype=np.float32))
    with pytest.raises(ValueError, match="holds a pair twice"):
        finish_store(tmp_path, 2, 3)


def test_what_a_killed_write_left_is_swept_away(tmp_path: Path) -> None:
    make_store(tmp_path, [[1.0, 2.0]])
    (tmp_path / ".scores-000000.parquet.123.tmp").write_bytes(b"half")
    finish_store(tmp_path, 1, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "scores-000000.parquet"]


def test_distinct_keeps_the_first_of_every_content() -> None:
    same = Candidate("q9", "d9", "query 0", "title 1", "")
    found = list(distinct([*candidates(2), same, *candidates(3)], set()))
    assert [candidate.doc_id for candidate in found] == ["d0", "d1", "d2"]
