"""`disranker check`: what a file holds, all of its faults, and that it is known by its content."""

import json
from pathlib import Path
from typing import Any

import pytest

from disranker.data.check import CheckReport, Spread, check, format_report, recognise
from disranker.data.faults import InputError
from disranker.data.readers import read_judged, write_records
from disranker.schema import Click, Judgment

ROWS = [
    {"query_id": "q1", "doc_id": "d1", "query": "red", "title": "abc", "summary": "", "label": 2},
    {"query_id": "q1", "doc_id": "d2", "query": "red", "title": "abcde", "summary": "xy", "label": 0},
    {"query_id": "q2", "doc_id": "d1", "query": "感冒怎么办", "title": "a", "summary": "xyz", "label": 2},
]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_beir(folder: Path) -> Path:
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d1", "title": "T", "text": ""}, {"_id": "d2", "text": "body"}])
    write_jsonl(folder / "queries.jsonl", [{"_id": "q1", "text": "red"}])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n")
    (folder / "bm25.trec").write_text("q1 Q0 d2 1 3.5 bm25\n")
    return folder


def messages(report: CheckReport, folder: Path) -> list[str]:
    return [str(fault).removeprefix(f"{folder}/") for fault in report.faults]


def test_sound_judgments(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "j.jsonl", [{**row, "url": "u"} for row in ROWS])
    before = path.read_bytes()
    report = check([path])
    assert (report.exit_code, report.num_faults, report.faults) == (0, 0, [])
    (file,) = report.files
    assert (file.content, file.num_rows, file.num_faults) == ("judged", 3, 0)
    assert (file.num_queries, file.num_documents, file.num_repeated) == (2, 2, 0)
    assert file.docs_per_query == Spread(1, 1, 2, 2)
    assert file.chars == {"query": Spread(3, 3, 5, 5), "title": Spread(1, 3, 5, 5), "summary": Spread(0, 2, 3, 3)}
    assert file.labels == {0: 1, 2: 2}
    assert file.ignored_columns == ("url",)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_percentiles_are_nearest_rank(tmp_path: Path) -> None:
    rows = [Judgment("q", f"d{i}", "query", "x" * i, "", 0) for i in range(1, 101)]
    write_records(tmp_path / "j.parquet", Judgment, rows)
    assert check([tmp_path / "j.parquet"]).files[0].chars["title"] == Spread(1, 50, 95, 100)


def test_every_fault_is_listed_and_the_reader_raises_the_first(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "j.jsonl",
        [
            ROWS[0],
            {**ROWS[1], "label": 0.5, "query": " "},
            ROWS[0],
            {**ROWS[1], "query": "other"},
            {**ROWS[0], "label": 1},
            ROWS[2],
        ],
    )
    with path.open("a") as file:
        file.write("{\n")
    report = check([path])
    assert messages(report, tmp_path) == [
        "j.jsonl:2: query is empty: ' '; remove the row or give the text",
        "j.jsonl:2: label is 0.5, not a whole number; map it to a grade 0, 1, 2, …",
        "j.jsonl:3: query_id 'q1' with doc_id 'd1' is there twice with the same label 2;"
        " remove this row, nothing is lost",
        f"j.jsonl:4: query_id 'q1' is 'other' here and another text at {path}:1; give each query text its own query_id",
        "j.jsonl:5: query_id 'q1' with doc_id 'd1' has label 1 here and 2 before; keep one label",
        "j.jsonl:7: bad JSON: Expecting property name enclosed in double quotes at character 2 of '{';"
        " write one JSON object on every line",
    ]
    assert report.exit_code == 1
    assert report.num_faults_by_kind == {"text": 1, "label": 1, "duplicate": 1, "conflict": 2, "json": 1}
    assert (report.files[0].num_rows, report.files[0].num_faults, report.files[0].num_repeated) == (2, 6, 1)
    with pytest.raises(InputError) as caught:
        list(read_judged(path))
    assert caught.value.fault == report.faults[0]


def test_limit_bounds_the_list_and_not_the_count(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "j.jsonl", [{**ROWS[0], "doc_id": f"d{i}", "label": -1} for i in range(60)])
    assert len(check([path]).faults) == 50
    report = check([path], limit=2)
    assert (len(report.faults), report.num_faults) == (2, 60)
    assert format_report(report).splitlines()[-2:] == ["… and 58 more faults", "60 faults in 1 file (label 60)"]


def test_report_as_text(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "j.jsonl", ROWS)
    assert format_report(check([path])) == "\n".join(
        [
            f"{path}: judged, 3 rows",
            "  queries 2",
            "  documents 2",
            "  documents per query: min 1, median 1, max 2",
            "  query characters: median 3, p95 5, max 5",
            "  title characters: median 3, p95 5, max 5",
            "  summary characters: median 2, p95 3, max 3",
            "  labels 0: 1, 2: 2",
            "no fault in 1 file",
        ]
    )


def test_clicks_repeat_without_fault(tmp_path: Path) -> None:
    clicks = [Click("q", "t", "s"), Click("q", "t", "s", 2), Click("q", "t", "other"), Click("r", "t", "s", 0, 5)]
    write_records(tmp_path / "clicks.parquet", Click, clicks)
    report = check([tmp_path / "clicks.parquet"])
    (file,) = report.files
    assert (file.content, file.num_rows, file.num_queries, file.num_documents) == ("clicks", 4, 2, 2)
    assert (file.num_repeated, report.exit_code) == (1, 0)


def test_beir_folder(tmp_path: Path) -> None:
    report = check([write_beir(tmp_path / "beir")])
    assert report.exit_code == 0
    assert [(file.content, file.num_rows, file.num_queries, file.num_documents) for file in report.files] == [
        ("corpus", 2, 0, 2),
        ("queries", 1, 1, 0),
        ("qrels", 2, 1, 2),
        ("run", 1, 1, 1),
    ]
    assert report.files[2].labels == {0: 1, 1: 1}


def test_faults_of_a_beir_folder(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "beir")
    with (folder / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "d1", "text": "again"}\n{"_id": "d3", "title": "", "text": ""}\n')
    with (folder / "queries.jsonl").open("a") as queries:
        queries.write('{"_id": "q2", "text": ""}\n{"_id": "q1", "text": "blue"}\n')
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td7\t1\nq9\td1\t1\nq2\td3\t1\n")
    (folder / "bm25.trec").write_text("q1 Q0 d8 1 3.5 bm25\n")
    report = check([folder])
    assert messages(report, folder) == [
        "corpus.jsonl:3: _id 'd1' is there twice; remove one of the two",
        "corpus.jsonl:4: the document has neither title nor summary; remove it or give one of the two",
        "queries.jsonl:2: text is empty: ''; remove the row or give the text",
        "queries.jsonl:3: _id 'q1' is there twice; remove one of the two",
        "qrels/dev.tsv:2: doc_id 'd7' is not in the corpus;"
        " add the document, remove the line, or import with missing_documents=skip",
        "qrels/dev.tsv:3: query_id 'q9' is not in the queries; add the query, or remove the line",
        "bm25.trec:1: doc_id 'd8' is not in the corpus;"
        " add the document, remove the line, or import with missing_documents=skip",
    ]
    assert report.exit_code == 1


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a", '{"query_id": "1", "label": 1}\n', "judged"),
        ("a", '{"query_id": "1"}\n{"label": 1}\n', "judged"),
        ("a", '{"query": "1"}\n', "clicks"),
        ("a", '{"_id": "1", "text": "x"}\n', "queries"),
        ("a", '{"_id": "1", "text": "x", "title": ""}\n', "corpus"),
        ("a.csv", "doc_id,query\n1,2\n", "candidates"),
        ("a", "title\tquery\n1\t2\n", "clicks"),
        ("a.tsv", "query-id\tcorpus-id\tscore\nq\td\t1\n", "qrels"),
        ("a.txt", "q1 0 d1 1\n", "qrels"),
        ("a.trec", "q1 Q0 d1 1 0.5 tag\n", "run"),
    ],
)
def test_content_tells_the_kind(tmp_path: Path, name: str, content: str, expected: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert recognise(path) == expected


@pytest.mark.parametrize(
    ("name", "content", "exit_code", "message"),
    [
        (
            "a.csv",
            b"colour,size\n1,2\n",
            2,
            "a.csv: of no known kind: its columns are 'colour', 'size'; name them query_id",
        ),
        ("a.jsonl", b"{\n", 1, "a.jsonl:1: bad JSON: "),
        ("a.csv", "查询,标题\n".encode("gb18030"), 1, "a.csv:1: not UTF-8: "),
        ("a.jsonl", b"", 1, "a.jsonl: holds no record; "),
        ("a.parquet", b"PAR1 and no more", 2, "a.parquet: not readable as Parquet: "),
        ("a.jsonl", None, 2, "a.jsonl: cannot be read: No such file or directory; check the path"),
    ],
)
def test_a_path_that_cannot_be_checked(
    tmp_path: Path, name: str, content: bytes | None, exit_code: int, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    good = write_jsonl(tmp_path / "good.jsonl", ROWS)
    report = check([tmp_path / name, good])
    assert messages(report, tmp_path)[0].startswith(message)
    assert (report.num_faults, report.exit_code) == (1, exit_code)
    assert [file.path for file in report.files] == [str(good)]  # the other path is checked all the same


def test_folder_of_files_and_folder_of_nothing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "full" / "b.jsonl", ROWS)
    write_jsonl(tmp_path / "full" / "a.jsonl", ROWS)
    (tmp_path / "full" / "world.json").write_text("{}")
    assert [Path(file.path).name for file in check([tmp_path / "full"]).files] == ["a.jsonl", "b.jsonl"]
    (tmp_path / "none").mkdir()
    report = check([tmp_path / "none"])
    assert messages(report, tmp_path)[0].startswith(
        "none: the folder holds no input file; name a file, or a folder with"
    )
    assert report.exit_code == 2
