"""Somebody else's teacher: runs, tables of scores, orderings; what becomes of them and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from disranker.config.score import ScoreConfig
from disranker.data.faults import InputError
from disranker.settings import SettingsError
from disranker.shards import file_hash
from disranker.teacher.foreign import Kind, foreign_teacher
from disranker.teacher.scoring import score_candidates
from disranker.teacher.store import Store
from tests.teacher.fakes import CANDIDATES

FIRST = CANDIDATES[:5]  # query q0, documents d0 to d4
SCORES = [0.5, -2.0, 1e6, 3e-8, 0.5]


def lookup(kind: Kind, path: Path, tmp_path: Path) -> list[float]:
    """The scores of d0 to d4 out of a store of that teacher."""
    teacher = foreign_teacher(kind, path)
    score_candidates(teacher, lambda: FIRST, out=tmp_path / "store", input_hash="input", pairs_per_shard=2)
    return Store(tmp_path / "store").lookup([candidate.pair for candidate in FIRST]).tolist()


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(path: Path) -> Path:
    """The scores in the format of the suffix."""
    rows = [{"query_id": "q0", "doc_id": f"d{at}", "score": score} for at, score in enumerate(SCORES)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        write_lines(path, rows)
    else:
        comma = "," if path.suffix == ".csv" else "\t"
        cells = [["score", "doc_id", "query_id"], *([str(row["score"]), row["doc_id"], "q0"] for row in rows)]
        path.write_text("".join(comma.join(line) + "\n" for line in cells))
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_of_scores(suffix: str, tmp_path: Path) -> None:
    path = table(tmp_path / f"theirs.{suffix}")
    assert lookup("scores", path, tmp_path) == pytest.approx(SCORES)
    identity = {"kind": "scores", "name": "theirs", "fingerprint": file_hash(path)}
    assert Store(tmp_path / "store").manifest["teacher"] == identity


def test_a_run(tmp_path: Path) -> None:
    path = tmp_path / "theirs.trec"
    path.write_text("".join(f"q0 Q0 d{at} {at + 1} {score} tag\n" for at, score in enumerate(SCORES)))
    assert lookup("run", path, tmp_path) == pytest.approx(SCORES)
    assert Store(tmp_path / "store").manifest["teacher"]["kind"] == "run"


@pytest.mark.parametrize(
    "row",
    [
        {"doc_ids": ["d3", "d0", "d4", "d1", "d2"]},
        {"doc_ids": ["d0", "d1", "d2", "d3", "d4"], "permutation": "[4] > [1] > [5] > [2] > [3]"},
        {"doc_ids": ["d4", "d3", "d2", "d1", "d0"], "permutation": " [2]>[5]>[1] > [4] > [3] "},
    ],
)
def test_an_ordering_becomes_minus_its_positions(row: dict[str, Any], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "gpt.jsonl", [{"query_id": "q0", **row}, {"query_id": "q9", "doc_ids": ["d0"]}])
    assert lookup("ordering", path, tmp_path) == [-2.0, -4.0, -5.0, -1.0, -3.0]
    teacher = Store(tmp_path / "store").manifest["teacher"]
    assert (teacher["kind"], teacher["rule"]) == ("ordering", "score = -position, the best has position 1")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"doc_ids": "d0 d1"}, "doc_ids is 'd0 d1', not a list of ids"),
        ({"doc_ids": []}, "doc_ids is [], not a list of ids"),
        ({"doc_ids": ["d0", "d 1"]}, "doc_ids is 'd 1', with white space"),
        ({"doc_ids": ["d0", "d1", "d0"]}, "query_id 'q0' with doc_id 'd0' is there twice"),
        ({"doc_ids": ["d0", "d1"], "permutation": "[2]"}, "does not name each of 1 to 2 once"),
        ({"doc_ids": ["d0", "d1"], "permutation": "[2] > [2]"}, "does not name each of 1 to 2 once"),
        ({"doc_ids": ["d0", "d1"], "permutation": "[2] > [3]"}, "does not name each of 1 to 2 once"),
        ({"doc_ids": ["d0", "d1"], "permutation": "the best is [2]"}, "permutation is 'the best is [2]'"),
    ],
)
def test_an_ordering_that_is_none_is_named_with_its_line(row: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "gpt.jsonl", [{"query_id": "q1", "doc_ids": ["d0"]}, {"query_id": "q0", **row}])
    with pytest.raises(InputError) as caught:
        foreign_teacher("ordering", path)
    assert f"{path}:2: " in str(caught.value) and named in str(caught.value)


def test_an_answer_without_scores_for_all_names_who_lacks(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "gpt.jsonl", [{"query_id": "q0", "doc_ids": ["d0", "d1"]}])
    with pytest.raises(ValueError) as caught:
        lookup("ordering", path, tmp_path)
    named = f"the ordering {path} has no score for 1 candidates, first: ('q0', 'd3')"
    # the first shard has what it needs: d0 and d1
    assert str(caught.value).startswith(f"the ordering {path} has no score for 2 candidates, first: ('q0', 'd2')"), (
        named
    )


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("q0,d0,nan", "score is 'nan', not finite"),
        ("q0,d0,high", "score is 'high', not a number"),
        ("q0,d1,2.0", "query_id 'q0' with doc_id 'd1' is there twice"),
        ("q0,,2.0", "doc_id is empty"),
    ],
)
def test_a_faulty_row_of_scores_is_named_with_its_line(line: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(f"query_id,doc_id,score\nq0,d1,1.0\n{line}\n")
    with pytest.raises(InputError) as caught:
        foreign_teacher("scores", path)
    assert f"{path}:3: " in str(caught.value) and named in str(caught.value)


# --- the settings that choose a teacher ---


def refused(tmp_path: Path, *words: str) -> str:
    (tmp_path / "c.jsonl").touch()
    with pytest.raises(SettingsError) as caught:
        ScoreConfig.parse(["--out", "x", "--candidates", f"[{tmp_path}/c.jsonl]", *words])
    return str(caught.value)


def test_there_is_exactly_one_teacher(tmp_path: Path) -> None:
    two = refused(tmp_path, "--teacher", "t", "--ordering", f"{tmp_path}/c.jsonl")
    assert [
        text for text in (two, refused(tmp_path)) if "exactly one of teacher, run, scores and ordering" not in text
    ] == []


def test_what_a_file_has_no_use_for_is_refused(tmp_path: Path) -> None:
    words = ["--scores", f"{tmp_path}/c.jsonl", "--representation", "pooled", "--dtype", "bfloat16"]
    assert "dtype, representation is for a teacher that is a bundle" in refused(tmp_path, *words)
