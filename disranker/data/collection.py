"""Judgments and runs that name their texts by id, written out with the texts as judged and candidates files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from disranker.data.beir import Document, find_unknown, unknown_id
from disranker.data.faults import Fault, InputError, shown
from disranker.data.readers import write_records
from disranker.data.trec import Judged, Retrieved
from disranker.schema import Candidate, Judgment

Files = dict[str, dict[str, int]]
"""Name of a written file -> its counts."""

P = TypeVar("P", Judged, Retrieved)


@dataclass(frozen=True, slots=True)
class Listing(Generic[P]):
    """The lines of one file of judgments or of one run; `origin` is the file as messages name it."""

    name: str
    origin: Path
    lines: Sequence[P]


@dataclass(frozen=True, slots=True)
class Collection:
    """Judgments and runs as ids, and where their texts are."""

    qrels: Sequence[Listing[Judged]]
    runs: Sequence[Listing[Retrieved]]
    queries: Mapping[str, str]
    read_documents: Callable[[set[str]], Iterable[Document]]
    """doc_ids -> those of the documents that there are, in any order."""


def write_collection(collection: Collection, out_dir: Path, *, skip_missing: bool) -> Files:
    """Write judged.NAME.parquet for the judgments, candidates.NAME.parquet for each run and their union; the counts.

    Judgments keep the order of their file, runs are ordered by score.  With `skip_missing`, pairs whose document is not
    there or has no text are left out and counted as `skipped_pairs`.

    Raises:
        InputError: a query is not there, or a document without `skip_missing`; nothing is written then.
        ValueError: two files would be written under one name.
    """
    _refuse_same_names(collection.qrels)
    _refuse_same_names(collection.runs)
    wanted = _check_queries(collection.qrels, collection.queries) | _check_queries(collection.runs, collection.queries)
    documents = {document.doc_id: document for document in collection.read_documents(wanted)}
    # All texts are looked up before anything is written: a fault in the last file leaves no half an import.
    judged = [(one.name, _group(one, documents, skip_missing)) for one in collection.qrels]
    runs = [(one.name, _group(one, documents, skip_missing)) for one in collection.runs]
    files: Files = {}
    for labelled, (name, groups) in zip(collection.qrels, judged, strict=True):
        judgments = (
            Judgment(query_id, line.doc_id, collection.queries[query_id], *_texts(documents[line.doc_id]), line.label)
            for query_id, lines in groups.items()
            for line in lines
        )
        num_rows = write_records(out_dir / f"judged.{name}.parquet", Judgment, judgments)
        files[f"judged.{name}.parquet"] = _counts(num_rows, len(groups), len(labelled.lines) - num_rows)
    union: dict[str, dict[str, None]] = {}
    for listing, (name, found) in zip(collection.runs, runs, strict=True):
        doc_ids: dict[str, list[str]] = {}
        for query_id, retrieved in found.items():
            doc_ids[query_id] = [line.doc_id for line in sorted(retrieved, key=lambda it: (-it.score, it.doc_id))]
            union.setdefault(query_id, {}).update(dict.fromkeys(doc_ids[query_id]))
        num_rows = _write_candidates(out_dir / f"candidates.{name}.parquet", doc_ids, collection.queries, documents)
        files[f"candidates.{name}.parquet"] = _counts(num_rows, len(found), len(listing.lines) - num_rows)
    if collection.runs:
        num_rows = _write_candidates(out_dir / "candidates.parquet", union, collection.queries, documents)
        files["candidates.parquet"] = _counts(num_rows, len(union), 0)
    return files


def _refuse_same_names(listings: Sequence[Listing[P]]) -> None:
    named: dict[str, Path] = {}
    for listing in listings:
        if listing.name in named:
            what = f"{named[listing.name]} and {listing.origin} would both be written under the name {listing.name}"
            raise ValueError(f"{what}; rename one of them")
        named[listing.name] = listing.origin


def _check_queries(listings: Sequence[Listing[P]], queries: Mapping[str, str]) -> set[str]:
    """The doc_ids of all lines, whose queries are all there."""
    known = {hash(query_id) for query_id in queries}
    for listing in listings:
        for line in listing.lines:
            fault = find_unknown(listing.origin, line, known, None)
            if fault is not None:
                raise InputError(fault)
    return {line.doc_id for listing in listings for line in listing.lines}


def _group(listing: Listing[P], documents: Mapping[str, Document], skip_missing: bool) -> dict[str, list[P]]:
    """The lines by query, in the order of the file; without those whose document has no text."""
    groups: dict[str, list[P]] = {}
    for line in listing.lines:
        document = documents.get(line.doc_id)
        if document is not None and not document.is_empty:
            groups.setdefault(line.query_id, []).append(line)
        elif not skip_missing:
            raise InputError(_missing(listing.origin, line.line, line.doc_id, document))
    return groups


def _missing(origin: Path, line: int, doc_id: str, document: Document | None) -> Fault:
    if document is None:
        return unknown_id(origin, line, "doc_id", doc_id)
    remedy = "give the document a text, remove the line, or import with missing_documents=skip"
    return Fault("text", str(origin), line, f"doc_id {shown(doc_id)} has neither title nor summary", remedy)


def _texts(document: Document) -> tuple[str, str]:
    return document.title, document.summary


def _write_candidates(
    path: Path, doc_ids: Mapping[str, Iterable[str]], queries: Mapping[str, str], documents: Mapping[str, Document]
) -> int:
    def candidates() -> Iterator[Candidate]:
        for query_id, group in doc_ids.items():
            for doc_id in group:
                yield Candidate(query_id, doc_id, queries[query_id], *_texts(documents[doc_id]))

    return write_records(path, Candidate, candidates())


def _counts(num_rows: int, num_queries: int, skipped_pairs: int) -> dict[str, int]:
    return {"rows": num_rows, "queries": num_queries, "skipped_pairs": skipped_pairs}
