"""The records of disranker and the words for them; standard library only.

Everything that is read, written or passed between stages is one of these records.  Texts are plain `str`, already
decoded; `query_id` and `doc_id` are opaque strings; a document is `title` + `summary`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import NamedTuple


class Pair(NamedTuple):
    """What a ranker scores: one query and one document."""

    query: str
    title: str
    summary: str


@dataclass(frozen=True, slots=True)
class Click:
    """A document that users clicked for a query, with whatever the log knows about it; `None` means not logged."""

    query: str
    title: str
    summary: str
    clicks: int = 1
    impressions: int | None = None
    position: int | None = None
    """Place in the ranked list that was shown, first = 1."""
    dwell_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that some first stage retrieved for a query; nobody has judged it."""

    query_id: str
    doc_id: str
    query: str
    title: str
    summary: str

    @property
    def pair(self) -> Pair:
        return Pair(self.query, self.title, self.summary)


@dataclass(frozen=True, slots=True)
class Judgment:
    """A candidate with a graded human label: 0 = worst, usually up to 3 or 4."""

    query_id: str
    doc_id: str
    query: str
    title: str
    summary: str
    label: int

    @property
    def pair(self) -> Pair:
        return Pair(self.query, self.title, self.summary)


@dataclass(frozen=True, slots=True)
class TeacherScore:
    """The raw float32 logit that a teacher gave a pair."""

    query_id: str
    doc_id: str
    pair_key: str
    teacher_score: float


def field_names(record: type) -> tuple[str, ...]:
    """The column names of a record, in the order in which they are written."""
    return tuple(field.name for field in fields(record))


def pair_key(pair: Pair) -> str:
    """A stable 128-bit content hash of a pair, as 32 hex digits: equal texts have equal keys on every machine."""
    digest = hashlib.blake2b(digest_size=16)
    for text in pair:
        encoded = text.encode("utf-8")
        # The length goes first, so that ("ab", "c") and ("a", "bc") differ.
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def stable_seed(*parts: object) -> int:
    """A 64-bit seed from (seed, epoch, query_id, …) that is the same in every process, unlike `hash()`."""
    joined = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(joined.encode("utf-8"), digest_size=8).digest(), "little")
