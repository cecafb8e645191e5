"""What can be wrong with an input, and the error that says so: where, what, which value, what to do.

Parsers yield records and `Fault`s in one stream.  A reader raises the first fault (`strict`); `disranker check`
collects them all.  So both run the same parsing code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

Kind = Literal[
    "path",  # missing, or not readable as the format it claims to be
    "empty",  # no record at all
    "encoding",  # bytes that are not UTF-8
    "json",  # not one JSON object on the line
    "columns",  # wrong number of columns, or a header that cannot be used
    "field",  # a field that is missing or has the wrong type
    "id",  # an id that is empty or that a TREC file cannot carry
    "label",  # not a grade 0, 1, 2, …
    "number",  # a count or score that is no finite number in its range
    "text",  # an empty query, or a document without title and summary
    "duplicate",  # (query_id, doc_id) or a document or query id twice
    "conflict",  # one id with two labels or two texts
    "unknown_id",  # a judgment or run names a query or document that is not there
]

T = TypeVar("T")

MAX_SHOWN_CHARS = 60
"""Longest excerpt of a value in a message, in characters."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of an input; `str()` gives `file:line: what; what to do`."""

    kind: Kind
    path: str
    line: int | None
    """Line of the record's start (first = 1); for Parquet the row (first = 1); None: the file as a whole."""
    what: str
    remedy: str

    @property
    def where(self) -> str:
        return self.path if self.line is None else f"{self.path}:{self.line}"

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"


class InputError(ValueError):
    """The input cannot be used; `fault` says where and why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def shown(value: object) -> str:
    """A value as a message shows it: its repr, cut to `MAX_SHOWN_CHARS`."""
    # Cut before repr, so that a text of megabytes is not copied for a message.
    text = repr(value[: MAX_SHOWN_CHARS + 1]) if isinstance(value, str | bytes) else repr(value)
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 1] + "…"


def empty_document(path: str, line: int | None, name: str = "the document") -> Fault:
    """The fault of a document without any text."""
    return Fault("text", path, line, f"{name} has neither title nor summary", "remove it or give one of the two")


def strict(items: Iterable[T | Fault]) -> Iterator[T]:
    """The records of a stream of records and faults.

    Raises:
        InputError: at the first fault.
    """
    for item in items:
        if isinstance(item, Fault):
            raise InputError(item)
        yield item
