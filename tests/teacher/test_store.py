"""The store: shards, manifest, look-ups by content, and everything that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from disranker.schema import Candidate, Pair, TeacherScore, pair_key
from disranker.shards import file_hash, read_manifest, write_manifest
from disranker.teacher.keys import Keys, keys_of
from disranker.teacher.plan import Block
from disranker.teacher.store import Store, alias_path, begin_store, finish_store, shard_path, write_shard
from tests.teacher.fakes import CANDIDATES, Counting, score, true_score, true_state

TEACHER = {"kind": "bundle", "fingerprint": "f1", "dtype": "float32"}


def candidates(count: int, first: int = 0) -> list[Candidate]:
    return [Candidate(f"q{i // 3}", f"d{i}", f"query {i // 3}", f"title {i}", "") for i in range(first, first + count)]


def keys(rows: list[Candidate]) -> Keys:
    return keys_of([row.pair for row in rows])


def block(index: int, rows: list[Candidate], aliases: tuple[Candidate, ...] = ()) -> Block:
    return Block(index, rows, keys(rows), list(aliases), keys(list(aliases)))


def begin(folder: Path, **changed: Any) -> dict[str, Any]:
    settings = {"teacher": TEACHER, "input_hash": "input", "pairs_per_shard": 4, "representation": None, **changed}
    return begin_store(folder, **settings)


def make_store(folder: Path, scores: list[list[float]]) -> Path:
    """A finished store with these scores, one list a shard."""
    begin(folder)
    first = 0
    for index, values in enumerate(scores):
        write_shard(folder, block(index, candidates(len(values), first)), np.array(values, dtype=np.float32))
        first += len(values)
    finish_store(folder, len(scores), first)
    return folder


def pairs(count: int, first: int = 0) -> list[Pair]:
    return [candidate.pair for candidate in candidates(count, first)]


def test_what_stands_on_disk(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", [[1.0, 2.0], [3.0, 6.0]])
    names = ["scores-000000.parquet", "scores-000001.parquet"]
    assert sorted(path.name for path in store.iterdir()) == ["manifest.json", *names]
    manifest = read_manifest(store)
    # d0, d1 and d2 are of q0: the scores 1, 2 and 3
    weights = np.exp([1.0, 2.0, 3.0]) / np.exp([1.0, 2.0, 3.0]).sum()
    entropy = float(-(weights * np.log(weights)).sum())
    assert manifest == {
        "format": 2,
        "teacher": TEACHER,
        "input": "input",
        "pairs_per_shard": 4,
        "representation": None,
        "complete": True,
        "shards": [{"name": name, "hash": file_hash(store / name), "rows": 2, "aliases": None} for name in names],
        "num_candidates": 4,
        "num_pairs": 4,
        "scores": {
            "mean": 3.0,
            # variance of 1, 2, 3, 6 around 3: (4 + 1 + 0 + 9) / 4
            "std": pytest.approx(3.5**0.5),
            "min": 1.0,
            "max": 6.0,
            "num_distinct": 4,
            "quantiles": {
                level: pytest.approx(float(np.quantile([1, 2, 3, 6], float(level))))
                for level in ("0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99")
            },
        },
        "health": {
            "saturated_share": 0.5,
            "num_queries": 2,
            "queries_of_one_document": 1,
            "constant_queries": 0,
            "tied_pairs_share": 0.0,
            "mean_query_std": pytest.approx((2 / 3) ** 0.5),
            "mean_query_entropy": pytest.approx(entropy),
            "mean_query_entropy_share": pytest.approx(entropy / np.log(3)),
        },
    }
    rows = pq.read_table(store / names[1]).to_pylist()
    assert rows == [
        {"query_id": "q0", "doc_id": "d2", "pair_key": bytes.fromhex(pair_key(pairs(1, 2)[0])), "teacher_score": 3.0},
        {"query_id": "q1", "doc_id": "d3", "pair_key": bytes.fromhex(pair_key(pairs(1, 3)[0])), "teacher_score": 6.0},
    ]


def test_candidates_that_repeat_a_text_stand_beside_and_have_its_score(tmp_path: Path) -> None:
    score(tmp_path, Counting())
    assert pq.read_table(alias_path(tmp_path, 0))["doc_id"].to_pylist() == ["d5", "d6", "d7", "d8", "d9"]
    assert not alias_path(tmp_path, 1).exists()
    found = list(Store(tmp_path).rows())
    assert len(found) == 25
    expected = {c.doc_id: TeacherScore(c.query_id, c.doc_id, pair_key(c.pair), true_score(c)) for c in CANDIDATES}
    assert {row.doc_id: row for row in found} == expected


def test_representations_come_back_by_content(tmp_path: Path) -> None:
    score(tmp_path, Counting(represents=True), representation="pooled")
    store = Store(tmp_path)
    wanted = [CANDIDATES[at] for at in (24, 0, 7, 13, 0)]
    found = store.representations([candidate.pair for candidate in wanted])
    assert found.dtype == np.float16
    assert found.tolist() == [true_state(candidate) for candidate in wanted]
    assert store.representations([]).shape == (0, 3)
    assert store.manifest["representation_width"] == 3
    with pytest.raises(ValueError, match="1 of 1 pairs have no teacher score"):
        store.representations([Pair("new", "page", "")])


def test_a_store_without_representations_says_how_to_get_them(tmp_path: Path) -> None:
    score(tmp_path, Counting())
    with pytest.raises(ValueError, match=r"holds no representations: .* --representation pooled"):
        Store(tmp_path).representations([CANDIDATES[0].pair])


def test_a_store_of_an_older_format_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path, [[1.0, 2.0]])
    write_manifest(tmp_path, {**read_manifest(tmp_path), "format": 1})
    with pytest.raises(ValueError, match=r"no store of format 2 \(its format is 1\); score into a new folder"):
        Store(tmp_path)


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
    begin(tmp_path)
    with pytest.raises(ValueError, match=r"is not finished: run rank/score\.py again"):
        Store(tmp_path)


def test_a_store_that_lost_a_shard_is_not_finished_any_more(tmp_path: Path) -> None:
    make_store(tmp_path, [[1.0, 2.0], [3.0]])
    shard_path(tmp_path, 1).unlink()
    with pytest.raises(ValueError, match=r"not finished \(it lacks 1 shards, first scores-000001\.parquet\): run"):
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
        begin(tmp_path, teacher=teacher, input_hash=input_hash, pairs_per_shard=pairs_per_shard)
    message = str(caught.value)
    assert [part for part in ["two are not mixed", *named] if part not in message] == []
    equal = {"teacher", "input", "pairs_per_shard"} - set(named)
    assert [name for name in equal if f"  {name}: " in message] == []
    assert read_manifest(tmp_path) == before


def test_a_finished_store_stays_finished_when_begun_again(tmp_path: Path) -> None:
    make_store(tmp_path, [[1.0, 2.0]])
    begin(tmp_path)
    assert len(Store(tmp_path)) == 2


def test_shards_of_nobody_knows_whom_are_refused(tmp_path: Path) -> None:
    make_store(tmp_path, [[1.0, 2.0]])
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds shards but no manifest.json"):
        begin(tmp_path)


def test_a_run_with_representations_is_another_run(tmp_path: Path) -> None:
    make_store(tmp_path, [[1.0, 2.0]])
    with pytest.raises(ValueError, match='representation: there null, here "pooled"'):
        begin(tmp_path, representation="pooled")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_makes_no_shard(tmp_path: Path, wrong: float) -> None:
    with pytest.raises(ValueError, match=r"score of 1 pairs is not finite, first: \(q0, d1\)"):
        write_shard(tmp_path, block(0, candidates(3)), np.array([0.0, wrong, 1.0], dtype=np.float32))
    states = np.array([[0.0, 1.0], [2.0, 60000.0], [wrong, 3.0]], dtype=np.float16)
    with pytest.raises(ValueError, match=r"representation of 1 pairs is not finite, first: \(q0, d2\)"):
        write_shard(tmp_path, block(0, candidates(3)), np.arange(3, dtype=np.float32), states)
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
    write_shard(tmp_path, block(1, candidates(1)), np.array([5.0], dtype=np.float32))
    with pytest.raises(ValueError, match="holds a pair twice"):
        finish_store(tmp_path, 2, 3)


def test_keys_that_agree_in_their_first_half_are_two_pairs(tmp_path: Path) -> None:
    begin(tmp_path)
    rows = candidates(2)
    colliding = np.array([[7, 1], [7, 2]], dtype=np.uint64)
    write_shard(tmp_path, Block(0, rows, colliding, [], colliding[:0]), np.array([1.0, 2.0], dtype=np.float32))
    assert finish_store(tmp_path, 1, 2)["num_pairs"] == 2


def test_candidates_that_are_lost_are_counted(tmp_path: Path) -> None:
    make_store(tmp_path, [[1.0, 2.0]])
    with pytest.raises(ValueError, match="holds 2 candidates where 3 were read"):
        finish_store(tmp_path, 1, 3)


def test_what_a_killed_write_left_is_swept_away(tmp_path: Path) -> None:
    make_store(tmp_path, [[1.0, 2.0]])
    (tmp_path / ".scores-000000.parquet.123.tmp").write_bytes(b"half")
    finish_store(tmp_path, 1, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "scores-000000.parquet"]
