"""Several stores into one: what a run over all inputs would have made; contradictions are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from disranker.schema import Candidate, TeacherScore
from disranker.shards import read_manifest
from disranker.teacher.merge import merge_stores
from disranker.teacher.store import Store
from tests.teacher.fakes import CANDIDATES, IDENTITY, Counting, score, store_bytes, true_state

LEFT, RIGHT = CANDIDATES[:17], CANDIDATES[13:]  # d13 to d16 are in both


def two_stores(tmp_path: Path) -> list[Path]:
    for name, part in (("left", LEFT), ("right", RIGHT)):
        teacher = Counting(represents=True)
        score(tmp_path / name, teacher, part, per_shard=4, input_hash=name, representation="pooled")
    return [tmp_path / "left", tmp_path / "right"]


def rows(folder: Path) -> list[TeacherScore]:
    return sorted(Store(folder).rows(), key=lambda row: int(row.doc_id[1:]))


def test_a_merged_store_holds_what_one_run_over_all_would(tmp_path: Path) -> None:
    manifest = merge_stores(two_stores(tmp_path), tmp_path / "merged")
    score(tmp_path / "straight", Counting(represents=True), per_shard=4, input_hash="all", representation="pooled")
    assert rows(tmp_path / "merged") == rows(tmp_path / "straight")
    assert manifest == read_manifest(tmp_path / "merged") == Store(tmp_path / "merged").manifest
    assert manifest["input"] == "merged: left + right"
    assert (manifest["num_pairs"], manifest["num_candidates"]) == (20, 25)
    assert [shard["rows"] for shard in manifest["shards"]] == [4] * 5
    straight = read_manifest(tmp_path / "straight")
    assert (manifest["scores"], manifest["health"]) == (straight["scores"], straight["health"])
    names = [f"{kind}-00000{at}" for at in range(5) for kind in ("scores", "representations")]
    ours, theirs = store_bytes(tmp_path / "merged"), store_bytes(tmp_path / "straight")
    assert [name for name in ours if name[:-8] in names and ours[name] != theirs[name]] == []
    found = Store(tmp_path / "merged").representations([candidate.pair for candidate in CANDIDATES])
    assert found.tolist() == [true_state(candidate) for candidate in CANDIDATES]


def test_merging_again_gives_the_same_bytes(tmp_path: Path) -> None:
    stores = two_stores(tmp_path)
    merge_stores(stores, tmp_path / "merged")
    before = store_bytes(tmp_path / "merged")
    merge_stores(stores, tmp_path / "merged")
    merge_stores(stores, tmp_path / "again")
    assert store_bytes(tmp_path / "merged") == store_bytes(tmp_path / "again") == before
    with pytest.raises(ValueError, match="input: there"):
        merge_stores(stores[::-1], tmp_path / "merged")


def test_the_same_text_under_another_id_becomes_an_alias(tmp_path: Path) -> None:
    twin = Candidate("q9", "twin", *CANDIDATES[0].pair)
    score(tmp_path / "left", Counting(), LEFT, input_hash="left")
    score(tmp_path / "right", Counting(), [*RIGHT, twin], input_hash="right")
    manifest = merge_stores([tmp_path / "left", tmp_path / "right"], tmp_path / "merged")
    assert (manifest["num_pairs"], manifest["num_candidates"]) == (20, 26)
    found = {row.doc_id: row for row in Store(tmp_path / "merged").rows()}
    assert found["twin"].teacher_score == found["d0"].teacher_score
    assert found["twin"].query_id == "q9"


def test_stores_of_another_teacher_are_refused(tmp_path: Path) -> None:
    score(tmp_path / "left", Counting(), LEFT)
    score(tmp_path / "right", Counting(), RIGHT, identity={**IDENTITY, "fingerprint": "f2"})
    with pytest.raises(ValueError) as caught:
        merge_stores([tmp_path / "left", tmp_path / "right"], tmp_path / "merged")
    assert '"f1"' in str(caught.value) and '"f2"' in str(caught.value) and "right was made" in str(caught.value)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(("change", "accepted"), [(1e-5, True), (0.3, False)])
def test_a_pair_with_two_scores_is_refused_but_for_rounding(tmp_path: Path, change: float, accepted: bool) -> None:
    class Other(Counting):
        def __call__(self, block):
            scores, _ = super().__call__(block)
            return scores + np.float32(change), None

    score(tmp_path / "left", Counting(), LEFT, input_hash="left")
    score(tmp_path / "right", Other(), RIGHT, input_hash="right")
    stores = [tmp_path / "left", tmp_path / "right"]
    if not accepted:
        with pytest.raises(
            ValueError, match=r"^4 pairs have different scores in two of the stores, first \(q1, d13\) of"
        ):
            merge_stores(stores, tmp_path / "merged")
        return
    merge_stores(stores, tmp_path / "merged")
    both = [candidate.pair for candidate in LEFT[13:]]
    assert Store(tmp_path / "merged").lookup(both).tolist() == Store(stores[0]).lookup(both).tolist()


def test_scores_from_files_agree_exactly_or_not_at_all(tmp_path: Path) -> None:
    class Other(Counting):
        def __call__(self, block):
            scores, _ = super().__call__(block)
            return scores + np.float32(1e-5), None

    identity = {"kind": "run", "name": "r", "fingerprint": "f"}
    score(tmp_path / "left", Counting(), LEFT, identity=identity)
    score(tmp_path / "right", Other(), RIGHT, identity=identity)
    with pytest.raises(ValueError, match="4 pairs have different scores"):
        merge_stores([tmp_path / "left", tmp_path / "right"], tmp_path / "merged")


def test_one_id_for_two_texts_is_refused(tmp_path: Path) -> None:
    score(tmp_path / "left", Counting(), LEFT, input_hash="left")
    changed = Candidate("q0", "d1", "query 0", "something else", "")
    score(tmp_path / "right", Counting(), [*RIGHT, changed], input_hash="right")
    with pytest.raises(ValueError, match=r"1 candidates have different texts .* \(q0, d1\) of .*right; give each text"):
        merge_stores([tmp_path / "left", tmp_path / "right"], tmp_path / "merged")


def test_a_store_in_the_making_is_not_merged(tmp_path: Path) -> None:
    score(tmp_path / "left", Counting(), LEFT)
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path / "right", Counting(fail_at=1), RIGHT)
    with pytest.raises(ValueError, match="right is not finished"):
        merge_stores([tmp_path / "left", tmp_path / "right"], tmp_path / "merged")


def test_one_store_merged_is_itself(tmp_path: Path) -> None:
    score(tmp_path / "one", Counting())
    merge_stores([tmp_path / "one"], tmp_path / "merged")
    assert rows(tmp_path / "merged") == rows(tmp_path / "one")
    assert pq.read_metadata(tmp_path / "merged" / "scores-000003.parquet").num_rows == 2
