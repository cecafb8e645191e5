"""Records from files: every format, every fault with its message, and Parquet that gives back what was written."""

import csv
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from types import GeneratorType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disranker.data.faults import InputError
from disranker.data.readers import _OPTIONAL, read_candidates, read_clicks, read_impressions, read_judged, write_records
from disranker.schema import Candidate, Click, Judgment, field_names

JUDGED = [
    Judgment("q1", "d1", "red shoes", "Shoes", "Shoes in red and blue.", 2),
    Judgment("q1", "d2", "red shoes", "", "No title here.", 0),
    Judgment("q2", "d1", "感冒怎么办", "感冒的治疗", "", 3),
    Judgment("q2", "d3", "感冒怎么办", 'He said "hi", twice', "two\nlines, with a comma\tand a tab", 1),
    Judgment("q3", "d9", "  spaces stay ", " t ", "", 4),
]
GOOD = {"query_id": "q1", "doc_id": "d1", "query": "red shoes", "title": "Shoes", "summary": "Red.", "label": 1}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def random_texts(count: int) -> list[str]:
    rng = random.Random(0)
    return [rng.randbytes(16).hex() for _ in range(count)]


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_tsv(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write_csv(path, rows, "\t")


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "jsonl": write_jsonl,
    "csv": write_csv,
    "tsv": write_tsv,
    "parquet": write_parquet,
}


def fault_of(path: Path, read: Callable[[Path], Iterator[object]] = read_judged) -> str:
    """The message without the folder."""
    with pytest.raises(InputError) as caught:
        list(read(path))
    return str(caught.value).removeprefix(f"{path.parent}/")


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_equal_records(tmp_path: Path, suffix: str) -> None:
    path = WRITERS[suffix](tmp_path / f"judged.{suffix}", [asdict(one) for one in JUDGED])
    assert list(read_judged(path)) == JUDGED


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_is_known_by_its_content(tmp_path: Path, suffix: str) -> None:
    path = WRITERS[suffix](tmp_path / "judged.part-0", [asdict(one) for one in JUDGED])
    assert list(read_judged(path)) == JUDGED


def test_count_first_middle_last(tmp_path: Path) -> None:
    written = [Judgment(f"q{i // 7}", f"d{i}", f"query {i // 7}", f"title {i}", "s", i % 5) for i in range(10_001)]
    assert write_records(tmp_path / "j.parquet", Judgment, written, rows_per_group=3000) == 10_001
    read = list(read_judged(tmp_path / "j.parquet"))
    assert len(read) == 10_001
    assert read[0] == Judgment("q0", "d0", "query 0", "title 0", "s", 0)
    assert read[5000] == Judgment("q714", "d5000", "query 714", "title 5000", "s", 0)
    assert read[-1] == Judgment("q1428", "d10000", "query 1428", "title 10000", "s", 0)
    assert pq.ParquetFile(tmp_path / "j.parquet").num_row_groups == 4


def test_a_list_of_files_is_one_set(tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "1.jsonl", [asdict(JUDGED[0])])
    second = write_csv(tmp_path / "2.csv", [asdict(JUDGED[1])])
    assert list(read_judged([first, second])) == JUDGED[:2]
    with pytest.raises(InputError, match=r"1\.jsonl:1: query_id 'q1' with doc_id 'd1' is there twice"):
        list(read_judged([first, second, first]))
    with pytest.raises(ValueError, match="no input file is given"):
        list(read_judged([]))


def test_reading_is_streaming(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "j.jsonl", [GOOD])
    with path.open("a", encoding="utf-8") as file:
        file.write("not JSON\n")
    records = read_judged(path)
    assert isinstance(records, GeneratorType)
    assert next(records).doc_id == "d1"  # the fault of line 2 has not been met yet
    with pytest.raises(InputError):
        next(records)


def test_a_parquet_file_is_never_held_whole(tmp_path: Path) -> None:
    rows_per_group, num_groups = 4096, 15
    texts = random_texts(rows_per_group)  # there is nothing to compress
    schema = pa.schema([("query", pa.string()), ("title", pa.string()), ("summary", pa.string())])
    with pq.ParquetWriter(tmp_path / "clicks.parquet", schema) as writer:
        for _ in range(num_groups):
            writer.write_table(pa.table([texts, texts, texts], schema))
    size = (tmp_path / "clicks.parquet").stat().st_size
    before, held = pa.total_allocated_bytes(), []
    for number, _ in enumerate(read_clicks([tmp_path / "clicks.parquet"])):
        if number % rows_per_group == 0:
            held.append(pa.total_allocated_bytes() - before)
    assert len(held) == num_groups
    assert max(held) < size / 3


def test_writing_is_streaming(tmp_path: Path) -> None:
    alive: list[int] = []

    def rows() -> Iterator[Candidate]:
        for i in range(10):
            alive.append(i)
            yield Candidate("q", f"d{i}", "query", "t", "")
            assert len(alive) == i + 1

    assert write_records(tmp_path / "c.parquet", Candidate, rows(), rows_per_group=4) == 10
    groups = pq.ParquetFile(tmp_path / "c.parquet")
    assert [groups.metadata.row_group(i).num_rows for i in range(groups.num_row_groups)] == [4, 4, 2]


def test_what_was_shown_and_not_clicked_is_an_impression_and_no_click(tmp_path: Path) -> None:
    shown = Click("boots", "Boots", "", clicks=0, impressions=7, position=3)
    clicked = Click("boots", "Boots", "", clicks=2, impressions=7, position=1)
    path = write_csv(tmp_path / "shown.csv", [asdict(shown), asdict(clicked)])
    assert list(read_impressions(path)) == [shown, clicked]
    assert list(read_clicks(path)) == [clicked]


def test_clicks_with_and_without_what_the_log_knows(tmp_path: Path) -> None:
    full = Click("shoes", "Shoes", "", 3, 40, 1, 12.5)
    bare = Click("boots", "", "Boots.")
    write_records(tmp_path / "full.parquet", Click, [full, bare])
    assert list(read_clicks(tmp_path / "full.parquet")) == [full, bare]
    few = write_csv(tmp_path / "few.csv", [{"query": "boots", "title": "", "summary": "Boots."}])
    assert list(read_clicks(few)) == [bare]
    blank = write_csv(tmp_path / "blank.csv", [{**asdict(bare), "clicks": "", "impressions": "40.0"}])
    assert list(read_clicks(blank)) == [Click("boots", "", "Boots.", 1, 40)]
    repeated = write_jsonl(tmp_path / "repeated.jsonl", [asdict(bare)] * 2)
    assert list(read_clicks(repeated)) == [bare, bare]


def test_optional_columns_are_the_defaults_of_click() -> None:
    required = [field.name for field in fields(Click) if field.name not in _OPTIONAL]
    assert required == ["query", "title", "summary"]
    assert set(_OPTIONAL) < set(field_names(Click))


def test_candidates_ignore_other_columns(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{**GOOD, "url": "x"}])
    assert list(read_candidates(path)) == [Candidate("q1", "d1", "red shoes", "Shoes", "Red.")]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_whole_numbers_as_ids_and_null_texts(tmp_path: Path, suffix: str) -> None:
    rows = [{**GOOD, "query_id": 7, "doc_id": 12345678901234567, "title": None}]
    (read,) = read_judged(WRITERS[suffix](tmp_path / f"j.{suffix}", rows))
    assert (read.query_id, read.doc_id, read.title) == ("7", "12345678901234567", "")


@pytest.mark.parametrize(("label", "expected"), [("2", 2), ("2.0", 2), (2.0, 2), (0, 0), (" 3 ", 3), (255, 255)])
def test_labels_that_are_whole_numbers(tmp_path: Path, label: object, expected: int) -> None:
    (read,) = read_judged(write_jsonl(tmp_path / "j.jsonl", [{**GOOD, "label": label}]))
    assert read.label == expected
    assert type(read.label) is int


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2.5}, "label is 2.5, not a whole number; map it to a grade 0, 1, 2, …"),
        ({"label": "2.5"}, "label is 2.5, not a whole number; map it to a grade 0, 1, 2, …"),
        ({"label": "good"}, "label is 'good', not a number; write a grade 0, 1, 2, …"),
        ({"label": ""}, "label is '', not a number; write a grade 0, 1, 2, …"),
        ({"label": None}, "label is None, not a number; write a grade 0, 1, 2, …"),
        ({"label": True}, "label is True, not a number; write a grade 0, 1, 2, …"),
        ({"label": "nan"}, "label is 'nan', not finite; write a grade 0, 1, 2, …"),
        ({"label": float("inf")}, "label is inf, not finite; write a grade 0, 1, 2, …"),
        ({"label": -2}, "label is -2, below 0; map it to 0 or a grade above, or import with negative_labels=zero"),
        ({"label": 256}, "label is 256, above 255; this is no grade: check the column, or map it to a few grades"),
        ({"query": ""}, "query is empty: ''; remove the row or give the text"),
        ({"query": " \t"}, "query is empty: ' \\t'; remove the row or give the text"),
        ({"query": 5}, "query is 5, not a text; write it as a string"),
        ({"title": "", "summary": " "}, "the document has neither title nor summary; remove it or give one of the two"),
        ({"query_id": ""}, "query_id is empty; give every row its id"),
        ({"doc_id": None}, "doc_id is None, not an id; write the id as a string"),
        ({"doc_id": 1.0}, "doc_id is 1.0, not an id; write the id as a string"),
        ({"doc_id": True}, "doc_id is True, not an id; write the id as a string"),
        ({"doc_id": "a b"}, "doc_id is 'a b', with white space; no TREC run can carry it: use another id"),
        ({"title": "x\ud800"}, "title holds half a surrogate pair: 'x\\ud800'; write the whole character"),
    ],
)
def test_a_faulty_field_names_line_value_and_remedy(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "j.jsonl"
    rows = [{**GOOD, "doc_id": "d0"}, {**GOOD, **change}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert fault_of(path) == f"j.jsonl:2: {message}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clicks": -1}, "clicks is -1, not a whole number from 0; write a whole number from 0, or leave it out"),
        ({"clicks": 1.5}, "clicks is 1.5, not a whole number from 0; write a whole number from 0, or leave it out"),
        (
            {"impressions": -1},
            "impressions is -1, not a whole number from 0; write a whole number from 0, or leave it out",
        ),
        ({"position": 0}, "position is 0, not a whole number from 1; write a whole number from 1, or leave it out"),
        ({"position": "top"}, "position is 'top', not a number; write a whole number from 1, or leave it out"),
        (
            {"clicks": 5, "impressions": 3},
            "clicks is 5 and impressions 3; count one click at most for each time that it was shown",
        ),
        ({"dwell_seconds": -0.5}, "dwell_seconds is -0.5, below 0; write seconds, or leave it out"),
        ({"dwell_seconds": "inf"}, "dwell_seconds is 'inf', not finite; write seconds, or leave it out"),
    ],
)
def test_a_faulty_click(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"query": "q", "title": "t", "summary": "", **change}])
    assert fault_of(path, read_clicks) == f"c.jsonl:1: {message}"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (GOOD, "query_id 'q1' with doc_id 'd1' is there twice with the same label 1; remove this row, nothing is lost"),
        ({**GOOD, "label": 3}, "query_id 'q1' with doc_id 'd1' has label 3 here and 1 before; keep one label"),
        (
            {**GOOD, "doc_id": "d2", "query": "blue shoes"},
            "query_id 'q1' is 'blue shoes' here and another text at {path}:1; give each query text its own query_id",
        ),
    ],
)
@pytest.mark.parametrize("grouped", [True, False])
def test_rows_that_contradict_earlier_ones(tmp_path: Path, second: dict[str, Any], message: str, grouped: bool) -> None:
    between = [] if grouped else [{**GOOD, "query_id": "q2"}]
    path = write_jsonl(tmp_path / "j.jsonl", [GOOD, *between, second])
    assert fault_of(path) == f"j.jsonl:{2 + len(between)}: {message.format(path=path)}"


def test_repeated_candidate(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [GOOD, GOOD])
    message = "c.jsonl:2: query_id 'q1' with doc_id 'd1' is there twice; remove this row, nothing is lost"
    assert fault_of(path, read_candidates) == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"query_id": "q1",',
            'bad JSON: Expecting property name enclosed in double quotes at character 19 of \'{"query_id": "q1",\';'
            " write one JSON object on every line",
        ),
        (b"[1, 2]", "'[1, 2]' is a JSON list, not an object; write one JSON object on every line"),
        (
            b'{"query_id": "q1", "doc_id": "d1"}',
            "no field 'query' among 'query_id', 'doc_id'; give every row the field",
        ),
        (
            b'{"query_id": "caf\xe9"}',
            'not UTF-8: b\'_id": "caf\\xe9"}\'; save the file as UTF-8 (unpack it, if compressed)',
        ),
    ],
)
def test_a_faulty_line_of_jsonl(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + line + b"\n")  # a blank line counts and is no fault
    assert fault_of(path) == f"j.jsonl:3: {message}"


def test_json_that_python_refuses_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text('{"label": ' + "9" * 5000 + "}\n")
    assert fault_of(path).startswith("j.jsonl:1: bad JSON: Exceeds the limit")


HEADER = "query_id,doc_id,query,title,summary,label\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + "q1,d1,red,t,s,1\nq1,d2,red,t,s\n", "3: 5 columns where the header has 6: 'q1', …; put fields"),
        (HEADER + 'q1,d1,red,"t\nt",s,1\nq1,d2,red,a, b,s,1\n', "4: 7 columns where the header has 6: 'q1', …; put"),
        (HEADER + 'q1,d1,red,"two\n\nlines",s,x\n', "2: label is 'x', not a number; write a grade 0, 1, 2, …"),
        (HEADER + 'q1,d1,red,t,s,1\nq1,d2,red,"a"b,s,1\n', "3: bad quoting or line end: ',' expected after '\"'; put"),
        (HEADER + 'q1,d1,red,"never closed,s,1\n', "2: bad quoting or line end: unexpected end of data; put"),
        (
            HEADER.replace("label", "title"),
            "1: column 'title' stands twice in the header; give every column its own name",
        ),
        (
            HEADER.replace("label", "lable") + "q1,d1,red,t,s,1\n",
            "1: no column 'label' among 'query_id', 'doc_id', 'query', 'title', 'summary', 'lable'; name the columns",
        ),
    ],
)
def test_a_faulty_csv(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "j.csv"
    path.write_text(content, encoding="utf-8")
    assert fault_of(path).startswith(f"j.csv:{message}")


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "j.csv"
    path.write_bytes(HEADER.encode() + 'q1,d1,red,"t\n感冒",s,1\n'.encode("gb18030"))
    assert fault_of(path).startswith("j.csv:3: not UTF-8: b'\\xb8\\xd0\\xc3\\xb0\",s,1\\n'; save the file as UTF-8")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_byte_order_mark_and_crlf(tmp_path: Path, suffix: str) -> None:
    path = WRITERS[suffix](tmp_path / f"j.{suffix}", [GOOD, {**GOOD, "doc_id": "d2"}])
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_bytes(b"\xef\xbb\xbf" + "".join(line + "\r\n" for line in lines).encode())
    read = list(read_judged(path))
    assert [one.doc_id for one in read] == ["d1", "d2"]
    assert read[0].summary == "Red."
    assert read[0].query_id == "q1"


def test_csv_keeps_line_ends_inside_quotes(tmp_path: Path) -> None:
    path = tmp_path / "j.csv"
    path.write_bytes(HEADER.replace("\n", "\r\n").encode() + b'q1,d1,red,"a\r\nb",s,1\r\n')
    assert next(read_judged(path)).title == "a\r\nb"


def test_a_very_long_csv_field(tmp_path: Path) -> None:
    text = "word " * 100_000  # the csv module's own limit is 131 072 characters
    path = write_csv(tmp_path / "j.csv", [{**GOOD, "summary": text}])
    assert next(read_judged(path)).summary == text


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_no_record_is_a_fault(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"j.{suffix}"
    if suffix == "parquet":
        assert write_records(path, Judgment, []) == 0
    else:
        path.write_text(HEADER if suffix == "csv" else "\n\n")
    assert fault_of(path) == f"j.{suffix}: holds no record; leave the file out, or write it again"
    if suffix != "parquet":
        path.write_bytes(b"")
        assert fault_of(path) == f"j.{suffix}: holds no record; leave the file out, or write it again"


def test_parquet_faults_name_the_row(tmp_path: Path) -> None:
    rows = [{**GOOD, "doc_id": f"d{i}"} for i in range(5000)]
    rows[4500]["label"] = -1
    path = write_parquet(tmp_path / "j.parquet", rows)
    assert fault_of(path).startswith("j.parquet:4501: label is -1, below 0;")
    path = write_parquet(tmp_path / "k.parquet", [{"query": "q"}])
    assert fault_of(path).startswith(
        "k.parquet: no column 'query_id', 'doc_id', 'title', 'summary', 'label' among 'query'"
    )


def test_parquet_with_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    columns = {name: pa.array([value, value]) for name, value in GOOD.items()}
    columns["doc_id"] = pa.array(["d1", "d2"])
    columns["title"] = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table(columns), tmp_path / "j.parquet")
    assert fault_of(tmp_path / "j.parquet").startswith("j.parquet:2: not UTF-8: b'caf\\xe9';")


def test_a_file_cut_short_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "j.parquet", [GOOD])
    path.write_bytes(path.read_bytes()[:-20])
    assert fault_of(path).startswith("j.parquet: not readable as Parquet: ")
    missing = tmp_path / "nothing.jsonl"
    assert fault_of(missing) == "nothing.jsonl: cannot be read: No such file or directory; check the path"
    assert fault_of(tmp_path / "nothing").startswith("nothing: cannot be read: No such file")


def test_equal_records_give_equal_bytes_and_no_leftovers(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_records(tmp_path / f"{name}.parquet", Judgment, iter(JUDGED), rows_per_group=2)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize(
    "wrong",
    [
        Judgment("q1", "d1", "red", "t", "s", 1.5),
        Judgment("q1", "d1", "red", "t", "s", None),
        Judgment("q1", "d1", "red", "t", 7, 1),
        Judgment("q1", "d1", "red", "t", "\ud800", 1),
    ],
)
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, wrong: Judgment) -> None:
    path = tmp_path / "j.parquet"
    write_records(path, Judgment, JUDGED)
    with pytest.raises(ValueError, match=r"j\.parquet: rows 3 to 4: "):
        write_records(path, Judgment, [*JUDGED[:3], wrong], rows_per_group=2)
    assert list(read_judged(path)) == JUDGED
    assert [one.name for one in tmp_path.iterdir()] == ["j.parquet"]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
IDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=6)
ROWS = st.dictionaries(
    IDS,
    st.tuples(TEXTS.filter(str.strip), st.dictionaries(IDS, st.tuples(TEXTS, TEXTS, st.integers(0, 255)), max_size=4)),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=ROWS, rows_per_group=st.integers(1, 5))
def test_round_trip(tmp_path: Path, groups: dict[str, Any], rows_per_group: int) -> None:
    written = [
        Judgment(query_id, doc_id, query, title, summary, label)
        for query_id, (query, documents) in groups.items()
        for doc_id, (title, summary, label) in documents.items()
        if title.strip() or summary.strip()
    ]
    path = tmp_path / "j.parquet"
    assert write_records(path, Judgment, written, rows_per_group=rows_per_group) == len(written)
    if written:
        assert list(read_judged(path)) == written
        # The same through text files, whose quoting and line ends are where texts get lost.
        assert list(read_judged(write_jsonl(tmp_path / "j.jsonl", [asdict(one) for one in written]))) == written
        assert list(read_judged(write_csv(tmp_path / "j.csv", [asdict(one) for one in written]))) == written
