"""General text from files, for replay and for measuring what a model forgets; streaming, split by a hash of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from disranker.data.faults import Fault, InputError
from disranker.data.fields import parse_text
from disranker.data.rows import Row, no_records, read_header, read_lines, read_rows, unreadable
from disranker.schema import stable_seed
from disranker.text.templates import document_text

_TEXT, _DOCUMENT = ("text",), ("title", "summary")


def general_texts(paths: Sequence[Path], *, held_out_share: float, held_out: bool) -> Iterator[str]:
    """The texts of one part of the files, in their order; blank ones are left out, since they hold nothing to learn.

    A file is JSONL, Parquet, CSV or TSV with a column `text` (or with `title` and `summary`, which are joined), or a
    `.txt` with one text a line.  `held_out_share` is the share of distinct texts in the held-out part; a text is in the
    same part wherever it stands.

    Raises:
        InputError: a file cannot be read, or has no text.
    """
    for path in paths:
        empty = True
        for text in _read_texts(path):
            if text.strip():
                empty = False
                if (stable_seed("dev", text) / 2**64 < held_out_share) == held_out:
                    yield text
        if empty:
            raise InputError(Fault("text", str(path), None, "holds blank texts alone", "leave the file out"))


def _read_texts(path: Path) -> Iterator[str]:
    if path.suffix.lower() == ".txt":
        yield from _read_lines(path)
        return
    columns = _text_columns(path)
    for row in read_rows(path, columns):
        if isinstance(row, Fault):
            raise InputError(row)
        yield document_text(*_texts(row, columns)) if columns == _DOCUMENT else parse_text(row, "text")


def _texts(row: Row, columns: Sequence[str]) -> tuple[str, str]:
    title, summary = (parse_text(row, name) for name in columns)
    return title, summary


def _read_lines(path: Path) -> Iterator[str]:
    empty = True
    try:
        for line in read_lines(path):
            empty = False
            if isinstance(line, Fault):
                raise InputError(line)
            yield line.text
    except OSError as error:
        raise InputError(unreadable(path, error)) from error
    if empty:
        raise InputError(no_records(path))


def _text_columns(path: Path) -> tuple[str, ...]:
    """The columns that a file's texts are in; `text` goes before a document's two."""
    try:
        header = read_header(path)
    except OSError as error:
        raise InputError(unreadable(path, error)) from error
    for columns in (_TEXT, _DOCUMENT):
        if set(columns) <= set(header):
            return columns
    if not header:
        return _TEXT  # the reader says what is wrong with the file
    what = f"no column 'text', and not both 'title' and 'summary', among {', '.join(map(repr, header))}"
    raise InputError(Fault("columns", str(path), None, what, "name the column that holds the text `text`"))
