"""The values of one row: texts, ids, labels, counts and scores, each checked with its own message.

Every function takes the row and the column's name, so that the message can say where the value stands.
"""

from __future__ import annotations

import math
from typing import NoReturn

from disranker.data.faults import Fault, InputError, Kind, shown
from disranker.data.rows import Row

MAX_LABEL = 255
"""Highest label accepted; beyond it the column is a score, a count or a date rather than a grade."""


def refuse(row: Row, kind: Kind, what: str, remedy: str) -> NoReturn:
    """Raise the fault of a row."""
    raise InputError(Fault(kind, row.path, row.line, what, remedy))


def parse_text(row: Row, name: str) -> str:
    """A text as it stands; null is the empty text."""
    value = _present(row, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        refuse(row, "field", f"{name} is {shown(value)}, not a text", "write it as a string")
    return _encodable(row, name, value)


def parse_query(row: Row, name: str) -> str:
    """A text that is not blank."""
    value = parse_text(row, name)
    if not value.strip():
        refuse(row, "text", f"{name} is empty: {shown(value)}", "remove the row or give the text")
    return value


def parse_id(row: Row, name: str) -> str:
    """An opaque id; a whole number is taken as its digits, so that JSONL, CSV and Parquet give the same id."""
    value = _present(row, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        refuse(row, "id", f"{name} is {shown(value)}, not an id", "write the id as a string")
    if not value:
        refuse(row, "id", f"{name} is empty", "give every row its id")
    if value.split() != [value]:
        refuse(row, "id", f"{name} is {shown(value)}, with white space", "no TREC run can carry it: use another id")
    return _encodable(row, name, value)


def parse_label(row: Row, name: str, *, negative_to_zero: bool = False) -> int:
    """A grade 0, 1, 2, …; "2" and 2.0 are 2, while 2.5, true and nan are faults, and so is -1 unless it is to be 0."""
    value = _number(row, name, "label", "write a grade 0, 1, 2, …")
    if not value.is_integer():
        refuse(row, "label", f"{name} is {row.values[name]}, not a whole number", "map it to a grade 0, 1, 2, …")
    if value < 0 and negative_to_zero:
        return 0
    if value < 0:
        remedy = "map it to 0 or a grade above, or import with negative_labels=zero"
        refuse(row, "label", f"{name} is {row.values[name]}, below 0", remedy)
    if value > MAX_LABEL:
        what = f"{name} is {row.values[name]}, above {MAX_LABEL}"
        refuse(row, "label", what, "this is no grade: check the column, or map it to a few grades")
    return int(value)


def parse_count(row: Row, name: str, lowest: int) -> int | None:
    """A whole number of at least `lowest`; null, an empty cell and an absent column are None (not logged)."""
    if _is_absent(row, name):
        return None
    remedy = f"write a whole number from {lowest}, or leave it out"
    value = _number(row, name, "number", remedy)
    if not value.is_integer() or value < lowest:
        refuse(row, "number", f"{name} is {shown(row.values[name])}, not a whole number from {lowest}", remedy)
    return int(value)


def parse_seconds(row: Row, name: str) -> float | None:
    """A duration of at least 0 seconds; null, an empty cell and an absent column are None (not logged)."""
    if _is_absent(row, name):
        return None
    value = _number(row, name, "number", "write seconds, or leave it out")
    if value < 0:
        refuse(row, "number", f"{name} is {shown(row.values[name])}, below 0", "write seconds, or leave it out")
    return value


def parse_score(row: Row, name: str) -> float:
    """A finite number."""
    return _number(row, name, "number", "write a finite number")


def _present(row: Row, name: str) -> object:
    if name not in row.values:
        # Only JSONL comes here: CSV and Parquet are checked by their header.
        what = f"no field {name!r} among {', '.join(map(repr, row.values)) or 'none'}"
        refuse(row, "field", what, "give every row the field")
    value: object = row.values[name]
    return value


def _is_absent(row: Row, name: str) -> bool:
    value = row.values.get(name)
    return value is None or value == ""


def _encodable(row: Row, name: str, value: str) -> str:
    # JSON escapes can spell half of a surrogate pair, which no UTF-8 file can hold.
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            refuse(row, "encoding", f"{name} holds half a surrogate pair: {shown(value)}", "write the whole character")
    return value


def _number(row: Row, name: str, kind: Kind, remedy: str) -> float:
    value = _present(row, name)
    number: float | None = None
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = None
    if number is None:
        refuse(row, kind, f"{name} is {shown(value)}, not a number", remedy)
    if not math.isfinite(number):
        refuse(row, kind, f"{name} is {shown(value)}, not finite", remedy)
    return number
