"""Arrow tables and files as columns: the same as from dictionaries, and faults by name."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disranker.evaluation.measures import Rules, measure_columns, measure_run
from disranker.evaluation.tables import join_tables, read_label_table, read_score_table

MEASURES = ["nDCG@3", "nDCG(dcg='exp-log2')@3", "PNR", "PairAccuracy(avg='micro')", "AP", "RR@2", "Rprec"]
RULES = [Rules(), Rules(unjudged="skip", missing="skip"), Rules(no_relevant="skip", ties="pessimistic")]
ROOT = Path(__file__).resolve().parents[2]


def tables(judged, scored):
    return (
        pa.table(
            {"query_id": [row[0] for row in judged], "doc_id": [row[1] for row in judged], "label": values(judged)}
        ),
        pa.table(
            {"query_id": [row[0] for row in scored], "doc_id": [row[1] for row in scored], "score": values(scored)}
        ),
    )


def values(rows):
    return [row[2] for row in rows]


def nested(rows):
    found = {}
    for query, doc, value in rows:
        found.setdefault(query, {})[doc] = value
    return found


def rows_of(value):
    key = st.tuples(st.sampled_from(["q10", "q2", "查"]), st.sampled_from(["d1", "d10", "d2", "é", "文"]))
    return st.dictionaries(key, value, min_size=1).map(lambda rows: [(*key, value) for key, value in rows.items()])


@settings(max_examples=60, deadline=None)
@given(rows_of(st.integers(-1, 4)), rows_of(st.sampled_from([-1.0, 0.0, 0.5, 2.0])), st.sampled_from(RULES))
def test_measures_of_tables_are_those_of_dictionaries(judged, scored, rules):
    scored = [row for row in scored if row[0] in nested(judged)]
    if not scored:
        return
    try:
        expected = measure_run(nested(judged), nested(scored), MEASURES, rules)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)[:25]):
            measure_columns(join_tables(*tables(judged, scored)), MEASURES, rules)
        return
    found = measure_columns(join_tables(*tables(judged, scored)), MEASURES, rules)
    assert (found.pairs, found.counts) == (expected.pairs, expected.counts)
    assert found.aggregate == pytest.approx(expected.aggregate, abs=1e-12, nan_ok=True)
    for measure in MEASURES:
        assert found.per_query[measure] == pytest.approx(expected.per_query[measure], abs=1e-12, nan_ok=True)


def test_one_table_with_all_four_columns_and_chunks_and_whole_numbers_as_ids():
    one = pa.table({"query_id": [7, 7, 10], "doc_id": [1, 2, 1], "label": [1, 0, 2], "score": [0.5, 0.1, 0.2]})
    chunked = pa.concat_tables([one.slice(0, 1), one.slice(1)])
    for table in (one, chunked):
        columns = join_tables(table, table)
        assert columns.query_ids == ["10", "7"]  # as strings
        assert columns.labels.tolist() == [2, 1, 0]
        assert columns.key(0) == "(query_id '10', doc_id '1')"


@pytest.mark.parametrize(
    ("judged", "scored", "message"),
    [
        ([("q", "a", None)], [("q", "a", 1.0)], r"1 rows have no label: row 0 \(query_id 'q', doc_id 'a'\)"),
        ([("q", "a", 1)], [("q", None, 1.0)], "1 rows have no doc_id: row 0"),
        ([("q", "a", 1)], [("q", "a", 1.0), ("q", "a", 2.0)], r"2 documents are scored twice.*doc_id 'a'"),
        ([("q", "a", 1)], [("q", "a", float("inf"))], r"1 scores are NaN or infinite.*doc_id 'a'\): inf"),
        ([("q", "a", 1)], [("q", "a", 1.0), ("r", "a", 1.0)], "1 scored queries have no judgment.*query_id 'r'"),
        ([("q", "a", 1)], [("r", "a", 1.0)], "no query is both scored and judged"),
        ([("q", "a", 1)], [], r"no query is both scored and judged: 0 scored \(first: None\), 1 judged"),
    ],
)
def test_bad_tables_are_refused_by_name(judged, scored, message):
    with pytest.raises(ValueError, match=message):
        join_tables(*tables(judged, scored))


def test_a_missing_column_is_named():
    table = pa.table({"query_id": ["q"], "doc_id": ["a"], "grade": [1]})
    with pytest.raises(ValueError, match="must be one column 'label'; the columns are query_id, doc_id, grade"):
        join_tables(table, table)


def test_files_of_each_kind_hold_the_same(tmp_path):
    judged, scored = [("q1", "a", 2), ("q1", "b", 0), ('q"2', "a", -1)], [("q1", "b", 0.5), ('q"2', "a", 1e-3)]
    labels, scores = tables(judged, scored)
    pq.write_table(labels.append_column("title", pa.array(["x", "y", "z"])), tmp_path / "judged.parquet")
    (tmp_path / "qrels").write_text("".join(f"{q} 0 {d} {v}\n" for q, d, v in judged))
    (tmp_path / "beir.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{v}\n" for q, d, v in judged)
    )
    for name in ("judged.parquet", "qrels", "beir.tsv"):
        found = read_label_table(tmp_path / name)
        assert found.to_pylist() == labels.to_pylist()
    pq.write_table(scores, tmp_path / "scored.parquet")
    (tmp_path / "run.trec").write_text("".join(f"{q} Q0 {d} 1 {v} tag\n" for q, d, v in scored))
    for name in ("scored.parquet", "run.trec"):
        assert read_score_table(tmp_path / name).to_pylist() == scores.to_pylist()
    both = read_label_table(tmp_path / "qrels", tmp_path / "judged.parquet")
    assert both.num_rows == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q 0 a\n", "the first line has 3 columns, not the 4 of query_id iteration doc_id label"),
        ("q 0 a 1\nq 0 b\n", "Expected 4 columns, got 3"),
        ("q 0 a high\n", "conversion error"),
        ("", "the first line has 1 columns"),
    ],
)
def test_broken_files_are_refused_with_their_path(tmp_path, text, message):
    (tmp_path / "qrels").write_text(text)
    with pytest.raises(ValueError, match=f"qrels: .*{message}"):
        read_label_table(tmp_path / "qrels")


def test_a_parquet_file_without_the_column_is_refused(tmp_path):
    pq.write_table(pa.table({"query_id": ["q"], "doc_id": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x\.parquet: .*label"):
        read_label_table(tmp_path / "x.parquet")
    (tmp_path / "y.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"y\.parquet: "):
        read_score_table(tmp_path / "y.parquet")


def test_the_benchmark_measures_what_it_makes(tmp_path, capsys, monkeypatch):
    script = runpy.run_path(str(ROOT / "eval/benchmark.py"))
    script["make_rows"](tmp_path, 600, 20, 1, 0)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--folder", str(tmp_path)])
    assert script["main"]() == 0
    shown = capsys.readouterr().out
    judged, scored = (pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("judged", "scored"))
    labels = nested([(row["query_id"], row["doc_id"], row["label"]) for row in judged])
    scores = nested([(row["query_id"], row["doc_id"], row["score"]) for row in scored])
    expected = measure_run(labels, scores)
    for measure, value in expected.aggregate.items():
        assert f"{measure} {value:.6f}" in shown
    assert expected.counts["num_documents"] == 600
    assert np.isfinite(expected.aggregate["PNR"])
