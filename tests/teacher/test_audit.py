"""`disranker store`: what it tells, every fault by name, the run it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from disranker.cli import main
from disranker.data.readers import read_trec_run
from disranker.shards import read_manifest, write_manifest
from disranker.teacher.audit import find_faults
from disranker.teacher.store import begin_store
from tests.teacher.fakes import CANDIDATES, IDENTITY, Counting, score, true_score


@pytest.fixture
def store(tmp_path: Path) -> Path:
    score(tmp_path / "store", Counting(represents=True), representation="pooled")
    return tmp_path / "store"


def test_info(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["store", "info", str(store)]) == 0
    shown = capsys.readouterr().out
    expected = [
        "teacher   dtype float32, fingerprint f1, kind bundle",
        "holds     20 scores of 25 candidates, 4 shards",
        "beside    pooled representations, 3 wide, float16",
        "quantiles 1% ",
        "health    0.00% of the pairs of a query tie, 10.00% of all scores are at an extreme, 0 of 3 queries",
        "spread    std ",
    ]
    assert [line for line in expected if line not in shown] == []


def test_info_of_a_store_in_the_making(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path, Counting(fail_at=2))
    capsys.readouterr()
    assert main(["store", "info", str(tmp_path)]) == 0
    assert "not finished: 2 shards so far" in capsys.readouterr().out
    assert main(["store", "verify", str(tmp_path)]) == 1
    assert "is not finished" in capsys.readouterr().out


def test_what_is_no_store_gives_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in (["info"], ["verify"], ["export-trec", "--out", str(tmp_path / "x")]):
        assert main(["store", *action, str(tmp_path)]) == 1
        assert capsys.readouterr().err.startswith(f"disranker store: {tmp_path} is no store")


def test_a_sound_store_has_no_fault(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["store", "verify", str(store)]) == 0
    assert capsys.readouterr().out == f"{store}: 0 faults\n"


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def with_score(table: pa.Table, value: float) -> pa.Table:
    scores = table["teacher_score"].to_numpy().copy()
    scores[1] = value
    return table.set_column(3, table.schema.field("teacher_score"), pa.array(scores))


def second_shard(store: Path) -> Path:
    return store / "scores-000001.parquet"


DAMAGE: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a flipped bit": (
        lambda store: second_shard(store).write_bytes(
            bytes([*second_shard(store).read_bytes()[:-1], second_shard(store).read_bytes()[-1] ^ 1])
        ),
        ["scores-000001.parquet: its bytes have changed", "scores-000001.parquet: cannot be read"],
    ),
    "a missing shard": (lambda store: second_shard(store).unlink(), ["scores-000001.parquet: is missing", "14 scores"]),
    "a missing side file": (
        lambda store: (store / "representations-000002.npy").unlink(),
        ["representations-000002.npy: is missing"],
    ),
    "a missing alias file": (
        lambda store: (store / "aliases-000000.parquet").unlink(),
        ["aliases-000000.parquet: is missing", "20 candidates where the manifest says 25"],
    ),
    "a score that is not finite": (
        lambda store: rewrite(second_shard(store), lambda table: with_score(table, np.nan)),
        ["1 scores are not finite, first (q1, d12)"],
    ),
    "rows that lack": (
        lambda store: rewrite(second_shard(store), lambda table: table.slice(1)),
        ["5 rows where the manifest says 6", "19 scores where the manifest says 20"],
    ),
    "a shard twice": (
        lambda store: second_shard(store).write_bytes((store / "scores-000002.parquet").read_bytes()),
        ["scores-000001.parquet: its bytes have changed", "6 pairs stand twice"],
    ),
    "aliases of nobody": (
        lambda store: (store / "scores-000000.parquet").write_bytes(second_shard(store).read_bytes()),
        ["5 candidates repeat the text of a pair that has no score"],
    ),
    "a column of another type": (
        lambda store: rewrite(second_shard(store), lambda table: table.drop_columns("doc_id")),
        ["scores-000001.parquet: its columns are query_id (string), pair_key ("],
    ),
    "a file that is too many": (
        lambda store: (store / "scores-000004.parquet").write_bytes(b""),
        ["scores-000004.parquet: the manifest does not know this file"],
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_every_damage_is_named(store: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, expected = DAMAGE[name]
    damage(store)
    faults = "\n".join(find_faults(store))
    assert [text for text in expected if text not in faults] == []
    capsys.readouterr()
    assert main(["store", "verify", str(store)]) == 1
    assert f"{store}: {len(faults.splitlines())} faults" in capsys.readouterr().out


def test_a_manifest_that_counts_wrongly_is_found(store: Path) -> None:
    write_manifest(store, {**read_manifest(store), "num_pairs": 21})
    assert find_faults(store) == ["20 scores where the manifest says 21"]


def test_the_run_has_every_candidate_of_every_text(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["store", "export-trec", str(store), "--out", str(tmp_path / "run.trec")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'run.trec'}: 25 lines\n"
    run = read_trec_run(tmp_path / "run.trec")
    found = {(query_id, doc_id): score for query_id, docs in run.items() for doc_id, score in docs.items()}
    assert found == {(c.query_id, c.doc_id): true_score(c) for c in CANDIDATES}


def test_merge_by_its_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, part in (("a", CANDIDATES[:12]), ("b", CANDIDATES[12:])):
        score(tmp_path / name, Counting(), part, input_hash=name)
    capsys.readouterr()
    words = ["store", "merge", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "ab")]
    assert main(words) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'ab'}: 20 scores of 25 candidates\n"
    begin_store(tmp_path / "c", IDENTITY, "c", 6, None)
    assert main(["store", "merge", str(tmp_path / "c"), *words[2:]]) == 1
    assert "c is not finished" in capsys.readouterr().err
