"""BEIR folders: texts and judgments in separate files that refer to each other by id.

    corpus.jsonl      _id, title, text         (title may be left out)
    queries.jsonl     _id, text
    qrels/SPLIT.tsv   query-id, corpus-id, score
    NAME.trec         TREC runs, where somebody put them there

The text files may also be CSV or Parquet, and may name their columns as the records do: doc_id, title, summary and
query_id, query.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

from disranker.data.faults import Fault, InputError, shown
from disranker.data.fields import parse_id, parse_query, parse_text
from disranker.data.rows import read_header, read_rows, unreadable
from disranker.data.trec import Judged, Retrieved


class Document(NamedTuple):
    """One document of a corpus; `line` is its line number, for Parquet its row number."""

    line: int
    doc_id: str
    title: str
    summary: str

    @property
    def is_empty(self) -> bool:
        return not (self.title.strip() or self.summary.strip())


class Query(NamedTuple):
    """One query; `line` is its line number, for Parquet its row number."""

    line: int
    query_id: str
    query: str


class BeirFolder(NamedTuple):
    """The files of a BEIR folder; `qrels` by split and `runs` by name, both sorted."""

    corpus: Path
    queries: Path
    qrels: dict[str, Path]
    runs: dict[str, Path]


def find_beir_files(folder: Path) -> BeirFolder | None:
    """The files of a folder in BEIR's layout; None where it has another layout."""
    corpus, queries = folder / "corpus.jsonl", folder / "queries.jsonl"
    if not (corpus.is_file() and queries.is_file()):
        return None
    qrels = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
    runs = {path.stem: path for path in sorted(folder.glob("*.trec"))}
    return BeirFolder(corpus, queries, qrels, runs)


def parse_corpus(path: Path, seen: set[int]) -> Iterator[Document | Fault]:
    """The documents and the faults of a corpus; `seen` is filled with `hash(doc_id)` of every document.

    A document without text is passed on: whether that is a fault depends on who needs it.
    """
    for item in _parse_texts(path, ("_id", "doc_id"), ("text", "summary"), seen):
        yield item if isinstance(item, Fault) else Document(*item)


def parse_queries(path: Path, seen: set[int]) -> Iterator[Query | Fault]:
    """The queries and the faults of a file of queries; `seen` is filled with `hash(query_id)` of every query."""
    for item in _parse_texts(path, ("_id", "query_id"), ("text", "query"), seen):
        yield item if isinstance(item, Fault) else Query(item[0], item[1], item[3])


def _parse_texts(
    path: Path, id_names: tuple[str, str], text_names: tuple[str, str], seen: set[int]
) -> Iterator[tuple[int, str, str, str] | Fault]:
    """(line, id, title, text) of every row; a query's text must not be empty and it has no title."""
    is_query = text_names[1] == "query"
    try:
        header = read_header(path)
    except OSError as error:
        yield unreadable(path, error)
        return
    id_name = id_names[1] if id_names[1] in header else id_names[0]
    text_name = text_names[1] if text_names[1] in header else text_names[0]
    for row in read_rows(path, (id_name, text_name), () if is_query else ("title",)):
        if isinstance(row, Fault):
            yield row
            continue
        try:
            identity = parse_id(row, id_name)
            # An id counts as known even where its text is at fault: one fault, not one more for every mention.
            repeated = hash(identity) in seen
            seen.add(hash(identity))
            text = parse_query(row, text_name) if is_query else parse_text(row, text_name)
            title = parse_text(row, "title") if not is_query and "title" in row.values else ""
        except InputError as error:
            yield error.fault
            continue
        if repeated:
            yield Fault(
                "duplicate", row.path, row.line, f"{id_name} {shown(identity)} is there twice", "remove one of the two"
            )
        else:
            yield row.line, identity, title, text


def find_unknown(
    path: Path, item: Judged | Retrieved, queries: Container[int] | None, documents: Container[int] | None
) -> Fault | None:
    """The fault of a line that names a query or document that is not there; None for a container: not checked.

    The containers hold `hash(id)`, as `parse_corpus` and `parse_queries` fill them.
    """
    if queries is not None and hash(item.query_id) not in queries:
        return unknown_id(path, item.line, "query_id", item.query_id)
    if documents is not None and hash(item.doc_id) not in documents:
        return unknown_id(path, item.line, "doc_id", item.doc_id)
    return None


def unknown_id(path: Path, line: int, name: str, value: str) -> Fault:
    """The fault of an id that the file of texts does not have."""
    texts, remedy = {
        "query_id": ("queries", "add the query, or remove the line"),
        "doc_id": ("corpus", "add the document, remove the line, or import with missing_documents=skip"),
    }[name]
    return Fault("unknown_id", str(path), line, f"{name} {shown(value)} is not in the {texts}", remedy)
