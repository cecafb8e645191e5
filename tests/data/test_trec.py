"""TREC runs and qrels, both ways."""

from pathlib import Path
from types import GeneratorType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disranker.data.faults import Fault, InputError
from disranker.data.trec import (
    Judged,
    Retrieved,
    parse_qrels,
    parse_run,
    read_trec_qrels,
    read_trec_run,
    write_trec_run,
)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_run(tmp_path: Path) -> None:
    path = write(tmp_path / "a.trec", "q2 Q0 d1 1 3.5 tag\nq2 Q0 d2 2 -1e-3 tag\n\nq1\tQ0\t文档\t1\t7\ttag\r\n")
    assert read_trec_run(path) == {"q2": {"d1": 3.5, "d2": -0.001}, "q1": {"文档": 7.0}}
    lines = parse_run(path)
    assert isinstance(lines, GeneratorType)
    assert list(lines)[-1] == Retrieved(4, "q1", "文档", 7.0)


def test_qrels_in_both_layouts(tmp_path: Path) -> None:
    expected = {"q2": {"d1": 0, "d2": 3}, "q1": {"d1": 1}}
    trec = write(tmp_path / "a.qrels", "\ufeffq2 0 d1 0\nq2 0 d2 3\nq1 0 d1 1.0\n")
    beir = write(tmp_path / "a.tsv", "query-id\tcorpus-id\tscore\r\nq2\td1\t0\r\nq2\td2\t3\r\nq1\td1\t1\r\n")
    assert read_trec_qrels(trec) == expected
    assert read_trec_qrels(beir) == expected
    assert next(parse_qrels(beir)) == Judged(2, "q2", "d1", 0)


def fault_of(path: Path) -> str:
    read = read_trec_run if path.suffix == ".trec" else read_trec_qrels
    with pytest.raises(InputError) as caught:
        read(path)
    return str(caught.value).removeprefix(f"{path.parent}/")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 Q0 d2 2 3.5", "5 columns instead of 6: 'q1 Q0 d2 2 3.5'; write query_id Q0 doc_id position score tag"),
        ("q1 Q0 d2 2 high tag", "score is 'high', not a number; write a finite number"),
        ("q1 Q0 d2 2 nan tag", "score is 'nan', not finite; write a finite number"),
        ("q1 Q0 d2 2 -inf tag", "score is '-inf', not finite; write a finite number"),
        ("q1 Q0 d1 2 0.5 tag", "query_id 'q1' with doc_id 'd1' is there twice; remove this row, nothing is lost"),
    ],
)
def test_faulty_run(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "a.trec", f"q1 Q0 d1 1 4.5 tag\n{line}\n")
    assert fault_of(path) == f"a.trec:2: {message}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 0 d2", "3 columns instead of 4: 'q1 0 d2'; write query_id iteration doc_id label"),
        ("q1 0 d2 0.5", "label is 0.5, not a whole number; map it to a grade 0, 1, 2, …"),
        ("q1 0 d2 -2", "label is -2, below 0; map it to 0 or a grade above, or import with negative_labels=zero"),
        ("q1 0 d1 2", "query_id 'q1' with doc_id 'd1' has label 2 here and 1 before; keep one label"),
        (
            "q1 0 d1 1",
            "query_id 'q1' with doc_id 'd1' is there twice with the same label 1; remove this row, nothing is lost",
        ),
    ],
)
def test_faulty_qrels(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "a.qrels", f"q1 0 d1 1\n{line}\n")
    assert fault_of(path) == f"a.qrels:2: {message}"


def test_bytes_that_are_not_utf8_and_no_line_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.qrels"
    path.write_bytes(b"q1 0 d\xff 1\n")
    assert fault_of(path).startswith("a.qrels:1: not UTF-8: b'q1 0 d\\xff 1';")
    path.write_bytes(b"\n")
    assert fault_of(path) == "a.qrels: holds no record; leave the file out, or write it again"
    assert fault_of(tmp_path / "none.trec").startswith("none.trec: cannot be read: No such file or directory")


def test_parsing_goes_on_after_a_fault(tmp_path: Path) -> None:
    items = list(parse_qrels(write(tmp_path / "a.qrels", "q1 0 d1 x\nq1 0 d2 1\nq1 d3\nq1 0 d3 2\n")))
    assert [type(item) for item in items] == [Fault, Judged, Fault, Judged]


def test_negative_labels_on_request(tmp_path: Path) -> None:
    path = write(tmp_path / "a.qrels", "q1 0 d1 -2\nq1 0 d2 1\n")
    items = list(parse_qrels(path, negative_to_zero=True))
    assert items == [Judged(1, "q1", "d1", 0), Judged(2, "q1", "d2", 1)]


def test_written_run_is_ordered_and_exact(tmp_path: Path) -> None:
    run = {"q2": {"b": 1.0, "a": 1.0, "c": 2.5}, "q1": {"x": np.float32(0.1)}}
    path = tmp_path / "a.trec"
    assert write_trec_run(path, run, "me") == 4
    assert path.read_text() == (
        "q1 Q0 x 1 0.10000000149011612 me\nq2 Q0 c 1 2.5 me\nq2 Q0 a 2 1.0 me\nq2 Q0 b 3 1.0 me\n"
    )
    assert np.float32(read_trec_run(path)["q1"]["x"]) == np.float32(0.1)


@pytest.mark.parametrize(
    ("run", "tag", "message"),
    [
        ({"q": {"d": float("nan")}}, "t", "score of query_id q, doc_id d is nan, not finite"),
        ({"q": {"d e": 1.0}}, "t", "doc_id is 'd e', which a TREC run cannot carry"),
        ({"": {"d": 1.0}}, "t", "query_id is '', which a TREC run cannot carry"),
        ({"q": {"d": 1.0}}, "my tag", "tag is 'my tag', which a TREC run cannot carry"),
    ],
)
def test_a_run_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, run: dict[str, dict[str, float]], tag: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_trec_run(tmp_path / "a.trec", run, tag)
    assert list(tmp_path.iterdir()) == []


IDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=5)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=st.dictionaries(IDS, st.dictionaries(IDS, FLOATS, min_size=1, max_size=5), min_size=1, max_size=5))
def test_round_trip(tmp_path: Path, run: dict[str, dict[str, float]]) -> None:
    write_trec_run(tmp_path / "a.trec", run, "t")
    read = read_trec_run(tmp_path / "a.trec")
    assert read == run
    for scores in read.values():
        assert list(scores.items()) == sorted(scores.items(), key=lambda item: (-item[1], item[0]))
