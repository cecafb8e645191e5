"""Clicks, judgments and candidates from files to records, and records to Parquet; all of it streaming.

JSONL, CSV / TSV and Parquet hold one record per row, denormalised, with the record's field names as columns; other
columns are ignored.  TREC files are read by `trec.py`, BEIR folders by `beir.py`.

Memory: a reader of judgments or candidates remembers 9 bytes a pair and some 300 bytes a query, to find repeated pairs
and queries with two texts; a reader of clicks remembers nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from operator import index
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from disranker.data.faults import Fault, InputError, empty_document, strict
from disranker.data.fields import parse_count, parse_id, parse_label, parse_query, parse_seconds, parse_text
from disranker.data.rows import Row, read_rows
from disranker.data.seen import SeenPairs, SeenQueries
from disranker.data.trec import read_trec_qrels, read_trec_run, write_trec_run
from disranker.schema import Candidate, Click, Judgment, field_names

__all__ = [
    "Paths",
    "as_paths",
    "parse_records",
    "parse_rows",
    "read_candidates",
    "read_clicks",
    "read_impressions",
    "read_judged",
    "read_record_rows",
    "read_trec_qrels",
    "read_trec_run",
    "write_records",
    "write_trec_run",
]

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
R = TypeVar("R")


def read_clicks(path: Paths) -> Iterator[Click]:
    """The clicked rows of a file or of a list of files, in their order; repeats are no fault, a log has them.

    Rows of 0 clicks, which tell what was shown, are passed over: `read_impressions` has them.

    Raises:
        InputError: at the first fault.
    """
    return (row for row in read_impressions(path) if row.clicks)


def read_impressions(path: Paths) -> Iterator[Click]:
    """The rows of a click log with those of 0 clicks: what was shown, which estimates of users' behaviour go by.

    Raises:
        InputError: at the first fault.
    """
    return strict(parse_records(path, Click))


def read_judged(path: Paths) -> Iterator[Judgment]:
    """The judgments of a file or of a list of files, in their order; no pair may come twice among all of them.

    Raises:
        InputError: at the first fault.
    """
    return strict(parse_records(path, Judgment))


def read_candidates(path: Paths) -> Iterator[Candidate]:
    """The candidates of a file or of a list of files, in their order; no pair may come twice among all of them.

    Raises:
        InputError: at the first fault.
    """
    return strict(parse_records(path, Candidate))


def parse_records(path: Paths, record_type: type[R]) -> Iterator[R | Fault]:
    """The records (`Click`, `Judgment` or `Candidate`) and the faults of a file or of a list of files."""
    return parse_rows(read_record_rows(path, record_type), record_type)


def read_record_rows(path: Paths, record_type: type) -> Iterator[Row | Fault]:
    """The rows of files whose columns are those of a record; what they hold is not checked yet."""
    required = [name for name in field_names(record_type) if name not in _OPTIONAL]
    optional = [name for name in field_names(record_type) if name in _OPTIONAL]
    files = as_paths(path)
    return (row for file in files for row in read_rows(file, required, optional))


def parse_rows(
    rows: Iterable[Row | Fault],
    record_type: type[R],
    *,
    negative_to_zero: bool = False,
    titled: bool = False,
    logged: Sequence[str] = (),
) -> Iterator[R | Fault]:
    """The records and the faults of rows that come from anywhere; a row with several faults gives each of them.

    Clicks: with `titled` a missing title is a fault, and so is a row without what is named in `logged`.
    """
    parsers = {name: _PARSERS[name] for name in field_names(record_type)}
    if negative_to_zero:
        parsers["label"] = partial(parse_label, negative_to_zero=True)
    if titled:
        parsers["title"] = parse_query
    pairs, queries = SeenPairs(), SeenQueries()
    for row in rows:
        if isinstance(row, Fault):
            yield row
            continue
        values, faults = _parse_row(row, parsers)
        if faults:
            yield from faults
            continue
        record = record_type(**values)
        fault = None
        if isinstance(record, Judgment | Candidate):
            label = record.label if isinstance(record, Judgment) else None
            fault = queries.find_fault(row.path, row.line, record.query_id, record.query) or pairs.find_fault(
                row.path, row.line, record.query_id, record.doc_id, label
            )
        elif isinstance(record, Click):
            fault = _find_click_fault(row, record, logged)
        yield record if fault is None else fault


def as_paths(path: Paths) -> list[Path]:
    """One path or many as a list.

    Raises:
        ValueError: an empty list, which would silently be no data.
    """
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(one) for one in path]
    if not paths:
        raise ValueError("no input file is given; name at least one")
    return paths


def _parse_num_clicks(row: Row, name: str) -> int:
    count = parse_count(row, name, 0)
    return 1 if count is None else count


_PARSERS: Mapping[str, Callable[[Row, str], Any]] = {
    "query_id": parse_id,
    "doc_id": parse_id,
    "query": parse_query,
    "title": parse_text,
    "summary": parse_text,
    "label": parse_label,
    "clicks": _parse_num_clicks,
    "impressions": lambda row, name: parse_count(row, name, 0),
    "position": lambda row, name: parse_count(row, name, 1),
    "dwell_seconds": parse_seconds,
}
# What a click log may not know: the fields of Click that have a default.
_OPTIONAL = ("clicks", "impressions", "position", "dwell_seconds")


def _find_click_fault(row: Row, click: Click, logged: Sequence[str]) -> Fault | None:
    """What is wrong between the fields of a click, or missing for what it is wanted for."""
    if click.impressions is not None and click.clicks > click.impressions:
        what = f"clicks is {click.clicks} and impressions {click.impressions}"
        return Fault("number", row.path, row.line, what, "count one click at most for each time that it was shown")
    for name in logged:
        # Nobody stays at what nobody clicked.
        if getattr(click, name) is None and (click.clicks or name != "dwell_seconds"):
            remedy = "log it in every row, or turn off what goes by it"
            return Fault("number", row.path, row.line, f"no {name} is logged", remedy)
    return None


def _parse_row(row: Row, parsers: Mapping[str, Callable[[Row, str], Any]]) -> tuple[dict[str, Any], list[Fault]]:
    """The fields of a row and every fault of it."""
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for name, parse in parsers.items():
        try:
            values[name] = parse(row, name)
        except InputError as error:
            faults.append(error.fault)
    if "title" in values and "summary" in values and not (values["title"].strip() or values["summary"].strip()):
        faults.append(empty_document(row.path, row.line))
    return values, faults


def write_records(
    path: str | os.PathLike[str], record_type: type[R], records: Iterable[R], *, rows_per_group: int = 50_000
) -> int:
    """Write records to Parquet, one row group of `rows_per_group` rows at a time, and return their number.

    The file appears whole or not at all; equal records give equal bytes.

    Raises:
        ValueError: a field holds a value of another type, or None where the record has no None.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = Path(path)
    schema = _parquet_schema(record_type)
    count = 0
    remaining = iter(records)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            while group := list(islice(remaining, rows_per_group)):
                try:
                    columns = [_column(group, field) for field in schema]
                    writer.write_table(pa.table(columns, schema=schema), row_group_size=rows_per_group)
                except (pa.ArrowInvalid, TypeError, UnicodeEncodeError) as error:
                    raise ValueError(f"{target}: rows {count + 1} to {count + len(group)}: {error}") from error
                count += len(group)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _column(group: Sequence[object], field: Any) -> Any:
    """One field of all records as an Arrow array."""
    import pyarrow as pa

    values = [getattr(record, field.name) for record in group]
    if pa.types.is_integer(field.type):
        # pa.array cuts 1.5 to 1 without a word; index() takes whole-number types and nothing else.
        values = [None if value is None else index(value) for value in values]
    return pa.array(values, field.type)


def _parquet_schema(record_type: type) -> Any:
    """The Arrow schema of a record: `X | None` is nullable, the order is that of the fields."""
    import pyarrow as pa

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    hints = get_type_hints(record_type)
    columns = []
    for name in field_names(record_type):
        parts = get_args(hints[name]) or (hints[name],)
        (plain,) = (part for part in parts if part is not type(None))
        columns.append(pa.field(name, types[plain], nullable=type(None) in parts))
    return pa.schema(columns)
