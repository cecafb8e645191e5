"""`disranker import`: every source ends in the same records."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from disranker.data.faults import InputError
from disranker.data.importer import import_source
from disranker.data.readers import read_candidates, read_impressions, read_judged, write_records
from disranker.schema import Candidate, Click, Judgment

JUDGED = [
    Judgment("q2", "d1", "blue boots", "Alpha", "first", 1),
    Judgment("q2", "d3", "blue boots", "", "third", 0),
    Judgment("q1", "d1", "感冒", "Alpha", "first", 3),
]


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": "d1", "title": "Alpha", "text": "first"},
        {"_id": "d2", "title": "Beta", "text": ""},
        {"_id": "d3", "title": "", "text": "third"},
    ]
    queries = [{"_id": "q1", "text": "感冒"}, {"_id": "q2", "text": "blue boots"}, {"_id": "q3", "text": "unused"}]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    # q2 comes back after q1: the rows of a query must end up together.
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td1\t1\nq1\td1\t3\nq2\td3\t0\n")
    return folder


def add_qrels(folder: Path, lines: str) -> None:
    (folder / "qrels" / "full.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_beir(beir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = import_source(f"beir:{beir}", out)
    assert result == {
        "source": f"beir:{beir}",
        "out_dir": str(out),
        "files": {"judged.dev.parquet": {"rows": 3, "queries": 2, "skipped_pairs": 0}},
    }
    assert list(read_judged(out / "judged.dev.parquet")) == JUDGED
    assert names(out) == ["judged.dev.parquet"]


def test_runs_keep_their_texts_and_their_union_has_every_pair_once(beir: Path, tmp_path: Path) -> None:
    (beir / "bm25.trec").write_text("q1 Q0 d2 1 1.5 x\nq1 Q0 d1 2 2.5 x\nq2 Q0 d1 1 1 x\n")
    other = tmp_path / "dense.run"
    other.write_text("q2 Q0 d3 1 0.5 x\nq2 Q0 d1 2 0.5 x\nq2 Q0 d2 3 0.75 x\n")
    out = tmp_path / "out"
    files = import_source(f"beir:{beir}", out, run=other)["files"]
    assert {name: (counts["rows"], counts["queries"]) for name, counts in files.items()} == {
        "judged.dev.parquet": (3, 2),
        "candidates.bm25.parquet": (3, 2),
        "candidates.dense.parquet": (3, 1),
        "candidates.parquet": (5, 2),
    }
    bm25 = list(read_candidates(out / "candidates.bm25.parquet"))
    assert bm25[0] == Candidate("q1", "d1", "感冒", "Alpha", "first")  # by score, whatever the line order
    assert [(one.query_id, one.doc_id) for one in bm25] == [("q1", "d1"), ("q1", "d2"), ("q2", "d1")]
    dense = [one.doc_id for one in read_candidates(out / "candidates.dense.parquet")]
    assert dense == ["d2", "d1", "d3"]  # ties by doc_id
    union = [(one.query_id, one.doc_id) for one in read_candidates(out / "candidates.parquet")]
    assert union == [("q1", "d1"), ("q1", "d2"), ("q2", "d1"), ("q2", "d2"), ("q2", "d3")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q9\td1\t1", "full.tsv:2: query_id 'q9' is not in the queries; add the query, or remove the line"),
        (
            "q1\td9\t1",
            "full.tsv:2: doc_id 'd9' is not in the corpus;"
            " add the document, remove the line, or import with missing_documents=skip",
        ),
        (
            "q1\td4\t1",
            "full.tsv:2: doc_id 'd4' has neither title nor summary;"
            " give the document a text, remove the line, or import with missing_documents=skip",
        ),
        (
            "q1\td1\t-2",
            "full.tsv:2: label is -2, below 0; map it to 0 or a grade above, or import with negative_labels=zero",
        ),
    ],
)
def test_a_fault_writes_nothing(beir: Path, tmp_path: Path, line: str, message: str) -> None:
    with (beir / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "d4", "title": "", "text": " "}\n')  # without a mention no fault of the import
    add_qrels(beir, line + "\n")
    with pytest.raises(InputError) as caught:
        import_source(f"beir:{beir}", tmp_path / "out")
    assert str(caught.value) == f"{beir}/qrels/{message}"
    assert names(tmp_path / "out") == []


def test_missing_documents_are_skipped_and_counted_on_request(beir: Path, tmp_path: Path) -> None:
    with (beir / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "d4", "title": "", "text": " "}\n')
    add_qrels(beir, "q1\td9\t1\nq1\td4\t1\nq1\td1\t2\nq3\td9\t1\n")
    files = import_source(f"beir:{beir}", tmp_path / "out", missing_documents="skip")["files"]
    assert files["judged.full.parquet"] == {"rows": 1, "queries": 1, "skipped_pairs": 3}
    assert files["judged.dev.parquet"]["skipped_pairs"] == 0
    assert [one.doc_id for one in read_judged(tmp_path / "out" / "judged.full.parquet")] == ["d1"]
    add_qrels(beir, "q9\td1\t1\n")  # a query without text is a fault all the same
    with pytest.raises(InputError, match="query_id 'q9' is not in the queries"):
        import_source(f"beir:{beir}", tmp_path / "out", missing_documents="skip")


def test_negative_labels_become_zero_on_request(beir: Path, tmp_path: Path) -> None:
    add_qrels(beir, "q1\td1\t-2\nq1\td2\t1\n")
    import_source(f"beir:{beir}", tmp_path / "out", negative_labels="zero")
    assert [one.label for one in read_judged(tmp_path / "out" / "judged.full.parquet")] == [0, 1]


def test_trec_files(beir: Path, tmp_path: Path) -> None:
    qrels, run = tmp_path / "test.qrels", tmp_path / "bm25.trec"
    qrels.write_text("q2 0 d1 1\nq2 0 d3 0\nq1 0 d1 3\n")
    run.write_text("q1 Q0 d2 1 1.5 x\n")
    corpus = tmp_path / "docs.tsv"
    corpus.write_text("doc_id\ttitle\tsummary\nd1\tAlpha\tfirst\nd3\t\tthird\nd2\tBeta\t\n")
    queries = tmp_path / "queries.csv"
    queries.write_text("query_id,query\nq1,感冒\nq2,blue boots\n", encoding="utf-8")
    out = tmp_path / "out"
    import_source("trec:", out, qrels=[qrels], run=[run], corpus=corpus, queries=queries)
    assert names(out) == ["candidates.bm25.parquet", "candidates.parquet", "judged.test.parquet"]
    assert list(read_judged(out / "judged.test.parquet")) == JUDGED
    assert list(read_candidates(out / "candidates.parquet")) == [Candidate("q1", "d2", "感冒", "Beta", "")]


def test_an_ungrouped_file_is_grouped_and_a_grouped_one_kept(tmp_path: Path) -> None:
    rows = [Judgment(f"q{i % 90:02}", f"d{i}", f"query {i % 90}", "t", "", i % 2) for i in range(9000)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    result = import_source(path, tmp_path / "out")
    assert result["files"] == {"judged.train.parquet": {"rows": 9000, "queries": 90}}
    read = list(read_judged(tmp_path / "out" / "judged.train.parquet"))
    assert read == sorted(rows, key=lambda row: row.query_id)  # stable: documents keep their order
    again = import_source(tmp_path / "out" / "judged.train.parquet", tmp_path / "again")
    assert list(again["files"]) == ["judged.train.parquet"]
    assert list(read_judged(tmp_path / "again" / "judged.train.parquet")) == read


def test_clicks_and_candidates_files(tmp_path: Path) -> None:
    clicks = [Click("b", "t", "s"), Click("a", "t", "s", 2), Click("b", "t", "s"), Click("a", "u", "s", 0, 9, 4)]
    write_records(tmp_path / "clicks.parquet", Click, clicks)
    assert import_source(tmp_path / "clicks.parquet", tmp_path / "out")["files"] == {"clicks.parquet": {"rows": 4}}
    assert list(read_impressions(tmp_path / "out" / "clicks.parquet")) == clicks
    (tmp_path / "pool.csv").write_text("query_id,doc_id,query,title,summary\nq1,d1,red,t,s\n")
    files = import_source(tmp_path / "pool.csv", tmp_path / "out")["files"]
    assert files == {"candidates.pool.parquet": {"rows": 1, "queries": 1}}


def test_a_file_with_negative_labels(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("query_id,doc_id,query,title,summary,label\nq1,d1,red,t,s,-1\n")
    with pytest.raises(InputError, match=r"train\.csv:2: label is -1, below 0"):
        import_source(path, tmp_path / "out")
    import_source(path, tmp_path / "out", negative_labels="zero")
    assert next(read_judged(tmp_path / "out" / "judged.train.parquet")).label == 0


@pytest.mark.parametrize(
    ("source", "arguments", "error", "message"),
    [
        ("trec:", {"qrels": "a"}, ValueError, "source 'trec:' needs corpus, queries, and qrels or run or both"),
        ("trec:x", {"qrels": "a"}, ValueError, "source 'trec:' stands alone, not with 'x'"),
        ("beir:x", {"qrels": "a"}, ValueError, "source 'beir:x' has no use for qrels"),
        ("a.csv", {"run": "a"}, ValueError, "source 'a.csv' has no use for run"),
        ("a.csv", {"missing_documents": "skip"}, ValueError, "source 'a.csv' has no use for missing_documents"),
        ("beir:nowhere", {}, InputError, "nowhere: is no BEIR folder: corpus.jsonl or queries.jsonl is missing"),
        ("nowhere.csv", {}, InputError, "nowhere.csv: cannot be read: No such file or directory"),
    ],
)
def test_a_call_that_cannot_work(
    tmp_path: Path, source: str, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        import_source(source, tmp_path / "out", **arguments)


def test_a_file_of_ids_alone(beir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dev\.tsv: holds qrels, not both the ids and the texts of pairs; import its"):
        import_source(beir / "qrels" / "dev.tsv", tmp_path / "out")


def test_two_files_of_one_name(beir: Path, tmp_path: Path) -> None:
    (beir / "bm25.trec").write_text("q1 Q0 d2 1 1.5 x\n")
    (tmp_path / "bm25.run").write_text("q1 Q0 d1 1 1.5 x\n")
    with pytest.raises(ValueError, match=r"bm25\.run would both be written under the name bm25; rename one of them"):
        import_source(f"beir:{beir}", tmp_path / "out", run=tmp_path / "bm25.run")


class FakeDataset:
    """The part of an ir_datasets dataset that the import uses."""

    def queries_iter(self) -> Iterator[Any]:
        yield SimpleNamespace(query_id="q1", default_text=lambda: "red")

    def has_qrels(self) -> bool:
        return True

    def qrels_iter(self) -> Iterator[Any]:
        yield SimpleNamespace(query_id="q1", doc_id="d2", relevance=2)
        yield SimpleNamespace(query_id="q1", doc_id="d1", relevance=-2)

    def has_scoreddocs(self) -> bool:
        return True

    def scoreddocs_iter(self) -> Iterator[Any]:
        yield SimpleNamespace(query_id="q1", doc_id="d1", score=0.5)

    def docs_store(self) -> Any:
        titled = SimpleNamespace(title="T", text="body", default_text=lambda: "T body")
        plain = SimpleNamespace(default_text=lambda: "only text")
        documents = {"d1": titled, "d2": plain}
        return SimpleNamespace(get_many=lambda ids: {doc_id: documents[doc_id] for doc_id in ids})


def test_ir_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = {"made-up/test": FakeDataset()}
    monkeypatch.setitem(sys.modules, "ir_datasets", SimpleNamespace(load=loaded.__getitem__))
    with pytest.raises(InputError, match="ir_datasets:made-up/test:2: label is -2, below 0"):
        import_source("ir_datasets:made-up/test", tmp_path / "out")
    import_source("ir_datasets:made-up/test", tmp_path / "out", negative_labels="zero")
    assert list(read_judged(tmp_path / "out" / "judged.test.parquet")) == [
        Judgment("q1", "d2", "red", "", "only text", 2),
        Judgment("q1", "d1", "red", "T", "body", 0),
    ]
    assert list(read_candidates(tmp_path / "out" / "candidates.test.parquet")) == [
        Candidate("q1", "d1", "red", "T", "body")
    ]


def test_hf_with_a_local_folder(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    write_records(folder / "train.parquet", Judgment, JUDGED[:2])
    write_records(folder / "test.parquet", Judgment, JUDGED[2:])
    files = import_source(f"hf:{folder}", tmp_path / "out")["files"]
    assert files == {
        "judged.train.parquet": {"rows": 2, "queries": 1},
        "judged.test.parquet": {"rows": 1, "queries": 1},
    }
    assert list(read_judged(tmp_path / "out" / "judged.train.parquet")) == JUDGED[:2]


@pytest.mark.parametrize("name", ["none", "set:none"])
def test_hf_that_cannot_be_opened_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    Path("set").mkdir()
    write_records("set/train.parquet", Judgment, JUDGED)
    with pytest.raises(InputError, match=rf"^hf:\./{name}: cannot be opened: .*; write hf:NAME or"):
        import_source(f"hf:./{name}", "out")


@pytest.mark.parametrize(("source", "package"), [("ir_datasets:a/b", "ir_datasets"), ("hf:a", "datasets")])
def test_an_optional_package_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install {package}"):
        import_source(source, tmp_path / "out")


def test_output_is_plain_parquet(beir: Path, tmp_path: Path) -> None:
    import_source(f"beir:{beir}", tmp_path / "out")
    schema = pq.read_schema(tmp_path / "out" / "judged.dev.parquet")
    assert schema.names == ["query_id", "doc_id", "query", "title", "summary", "label"]
    assert [str(kind) for kind in schema.types] == ["string"] * 5 + ["int64"]
