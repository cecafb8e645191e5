"""Rows with their place in the file, from JSONL, CSV / TSV and Parquet; streaming, never a whole file in memory.

A row is a mapping from column name to whatever the format holds; what the columns mean is not known here.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from disranker.data.faults import Fault, shown

Format = Literal["jsonl", "csv", "parquet"]

MAX_FIELD_CHARS = 1 << 24
"""Longest CSV field; it also bounds what an unclosed quote can swallow before it is reported."""
PARQUET_BATCH_ROWS = 4096

_SUFFIXES: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}


class Row(NamedTuple):
    """One row; `line` is the line of its start, for Parquet its row number, both from 1."""

    path: str
    line: int
    values: Mapping[str, Any]


class Line(NamedTuple):
    """One line of a text file without its line end."""

    number: int
    text: str


def find_format(path: Path) -> Format:
    """The format of a file: by its suffix, or by its first bytes where the suffix says nothing.

    Raises:
        OSError: the file cannot be opened.
    """
    by_suffix = _SUFFIXES.get(path.suffix.lower())
    if by_suffix is not None:
        return by_suffix
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") else "csv"


def read_rows(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row | Fault]:
    """The rows of a file in any of the formats; columns that are neither required nor optional may be left out.

    A CSV or Parquet file that lacks a required column gives one fault and no rows; a JSONL row that lacks one is passed
    on, since every line may have its own keys.
    """
    try:
        kind = find_format(path)
        if kind == "jsonl":
            rows = _read_jsonl(path)
        elif kind == "csv":
            rows = _read_csv(path, required)
        else:
            rows = _read_parquet(path, required, optional)
        empty = True
        for row in rows:
            empty = False
            yield row
    except OSError as error:
        yield unreadable(path, error)
        return
    if empty:
        yield no_records(path)


def unreadable(path: Path, error: OSError) -> Fault:
    """The fault of a path that cannot be opened or read."""
    return Fault("path", str(path), None, f"cannot be read: {error.strerror or error}", "check the path")


def no_records(path: Path) -> Fault:
    """The fault of a file without a record."""
    return Fault("empty", str(path), None, "holds no record", "leave the file out, or write it again")


def not_utf8(path: Path, line: int, value: bytes) -> Fault:
    """The fault of a line whose bytes are not UTF-8."""
    return Fault(
        "encoding", str(path), line, f"not UTF-8: {shown(value)}", "save the file as UTF-8 (unpack it, if compressed)"
    )


def read_lines(path: Path) -> Iterator[Line | Fault]:
    """The lines of a UTF-8 text file, blank ones left out; a byte order mark is dropped.

    Raises:
        OSError: the file cannot be opened or read.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            raw = raw.rstrip(b"\r\n")
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                yield not_utf8(path, number, raw[max(error.start - 10, 0) : error.end + 10])
                continue
            if text.strip():
                yield Line(number, text)


def read_header(path: Path) -> list[str]:
    """The column names of a file: of its header, for JSONL of its first rows together; [] where there are none.

    Raises:
        OSError: the file cannot be opened or read.
    """
    kind = find_format(path)
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return list(pq.read_schema(path).names)
        except pa.ArrowInvalid:
            return []
    if kind == "csv":
        first = next(read_lines(path), None)
        return next(csv.reader([first.text], delimiter=_find_delimiter(first.text))) if isinstance(first, Line) else []
    # Not the first row alone: the one that lacks a field would hide it.
    rows = (row for row in _read_jsonl(path) if isinstance(row, Row))
    return list(dict.fromkeys(name for row in islice(rows, 100) for name in row.values))


def _read_jsonl(path: Path) -> Iterator[Row | Fault]:
    remedy = "write one JSON object on every line"
    for line in read_lines(path):
        if isinstance(line, Fault):
            yield line
            continue
        try:
            values = json.loads(line.text)
        except json.JSONDecodeError as error:
            what = f"bad JSON: {error.msg} at character {error.pos + 1} of {shown(line.text)}"
            yield Fault("json", str(path), line.number, what, remedy)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
            yield Fault("json", str(path), line.number, f"bad JSON: {error}", remedy)
        else:
            if isinstance(values, dict):
                yield Row(str(path), line.number, values)
            else:
                what = f"{shown(line.text)} is a JSON {type(values).__name__}, not an object"
                yield Fault("json", str(path), line.number, what, remedy)


def _find_delimiter(header: str) -> str:
    return "\t" if "\t" in header else ","


def _missing_columns(path: Path, line: int | None, header: Sequence[str], required: Sequence[str]) -> Fault | None:
    missing = [name for name in required if name not in header]
    if not missing:
        return None
    what = f"no column {', '.join(map(repr, missing))} among {', '.join(map(repr, header))}"
    return Fault("columns", str(path), line, what, f"name the columns {', '.join(required)} in the header")


def _read_csv(path: Path, required: Sequence[str]) -> Iterator[Row | Fault]:
    # Quoting is that of RFC 4180 for commas and tabs alike; `strict` turns a stray quote into an error where the csv
    # module would otherwise swallow the lines that follow.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))
    bad_lines: dict[int, bytes] = {}
    with path.open("rb") as file:

        def decoded() -> Iterator[str]:
            for number, raw in enumerate(file, start=1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                try:
                    yield raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    bad_lines[number] = raw[max(error.start - 10, 0) : error.end + 10]
                    yield raw.decode("utf-8", errors="replace")

        lines = decoded()
        first = next(lines, "")
        header: list[str] | None = None
        # The delimiter must be known before the reader starts, so the first line is looked at and put back.
        reader = csv.reader(_chain_line(first, lines), delimiter=_find_delimiter(first), strict=True)
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                what = f"bad quoting or line end: {error}"
                yield Fault("columns", str(path), start, what, 'put the field in quotes and double every " in it')
                cells = None
            broken = [number for number in range(start, reader.line_num + 1) if number in bad_lines]
            for number in broken:
                yield not_utf8(path, number, bad_lines.pop(number))
            if cells is None or broken:
                if header is None:
                    return
                continue
            if not cells:
                continue
            if header is None:
                header = cells
                repeated = sorted({name for name in header if header.count(name) > 1})
                if repeated:
                    what = f"column {', '.join(map(repr, repeated))} stands twice in the header"
                    yield Fault("columns", str(path), start, what, "give every column its own name")
                    return
                missing = _missing_columns(path, start, header, required)
                if missing is not None:
                    yield missing
                    return
            elif len(cells) != len(header):
                what = f"{len(cells)} columns where the header has {len(header)}: {shown(cells[0])}, …"
                remedy = "put fields that hold the delimiter or a line end in quotes"
                yield Fault("columns", str(path), start, what, remedy)
            else:
                yield Row(str(path), start, dict(zip(header, cells, strict=True)))


def _chain_line(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _read_parquet(path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Row | Fault]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Buffered ahead, a file would be held whole in the end: nothing that was read is let go before its last row.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            header = file.schema_arrow.names
            missing = _missing_columns(path, None, header, required)
            if missing is not None:
                yield missing
                return
            columns = [*required, *(name for name in optional if name in header)]
            number = 0
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns):
                yield from _batch_rows(path, number, batch)
                number += batch.num_rows
    except pa.ArrowInvalid as error:
        remedy = "write the file again, it is cut short or no Parquet file"
        yield Fault("path", str(path), None, f"not readable as Parquet: {str(error).splitlines()[0]}", remedy)


def _batch_rows(path: Path, before: int, batch: Any) -> Iterator[Row | Fault]:
    try:
        values = batch.to_pylist()
    except UnicodeDecodeError:
        # Rare: Parquet does not enforce that a string column holds UTF-8.  Row by row, to name the row.
        for index in range(batch.num_rows):
            try:
                yield Row(str(path), before + index + 1, batch.slice(index, 1).to_pylist()[0])
            except UnicodeDecodeError as error:
                yield not_utf8(path, before + index + 1, error.object[max(error.start - 10, 0) : error.end + 10])
        return
    for index, row in enumerate(values):
        yield Row(str(path), before + index + 1, row)
