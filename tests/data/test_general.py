"""General text from every format, split by a hash of the text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from disranker.data.faults import InputError
from disranker.data.general import general_texts

TEXTS = ["one text", "跑步", "a third, with a comma"]


def read(paths: Sequence[Path], *, held_out: bool = False, share: float = 0.0) -> list[str]:
    return list(general_texts(paths, held_out_share=share, held_out=held_out))


def write(path: Path) -> Path:
    """The texts in the format that the suffix says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": [1, 2, 3], "text": TEXTS}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    elif path.suffix == ".csv":
        path.write_text("text,id\n" + "".join(f'"{text}",1\n' for text in TEXTS))
    else:
        path.write_text("\n".join(["", TEXTS[0], "   ", *TEXTS[1:], ""]))
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv", "a.txt"])
def test_every_format_gives_its_texts(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    assert read([path]) == TEXTS
    assert read([path, path]) == TEXTS * 2


def test_a_document_is_its_title_and_summary(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"title": "T", "summary": "S", "doc_id": "d"}, {"title": "", "summary": "S"}, {"title": "", "summary": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read([path]) == ["T S", "S"]


def test_a_text_is_in_one_part_wherever_it_stands(tmp_path: Path) -> None:
    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    texts = [f"text number {number}" for number in range(400)]
    path.write_text("\n".join(texts))
    other.write_text("\n".join(reversed(texts)))
    held_out, learnt = (read([path], held_out=part, share=0.2) for part in (True, False))
    assert sorted(held_out + learnt) == sorted(texts)
    assert 40 < len(held_out) < 120  # 80 on average, with a standard error of 8
    assert sorted(read([other], held_out=True, share=0.2)) == sorted(held_out)
    assert read([path], held_out=True, share=0.0) == []


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"body": "x"}\n', "no column 'text', and not both 'title' and 'summary', among 'body'"),
        ("a.csv", "id,title\n1,x\n", "no column 'text', and not both 'title' and 'summary', among 'id', 'title'"),
        ("a.jsonl", '{"text": "x"}\n{"text": 5}\n', "a.jsonl:2: text is 5, not a text"),
        ("a.jsonl", '{"text": "x"}\n{"body": "y"}\n', "a.jsonl:2: no field 'text'"),
        ("a.jsonl", '{"text": " "}\n', "holds blank texts alone"),
        ("a.jsonl", "", "holds no record"),
        ("a.txt", "", "holds no record"),
        ("a.txt", "  \n \n", "holds no record"),
        ("a.jsonl", "{\n", "bad JSON"),
    ],
)
def test_a_file_without_text_is_named(tmp_path: Path, name: str, content: str, expected: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read([path])
    assert str(path) in str(caught.value) and expected in str(caught.value)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl"):
        with pytest.raises(InputError, match="cannot be read"):
            read([tmp_path / name])
