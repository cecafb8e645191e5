"""What an input holds and everything that is wrong with it: the work of `disranker check PATH…`; nothing is changed.

The faults come from the parsers that the readers use, so what passes here is read there, and the other way round.
Memory: 16 bytes a row (24 for clicks) for the counts, besides what the parsers remember.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from disranker.data.beir import Document, Query, find_beir_files, find_unknown, parse_corpus, parse_queries
from disranker.data.check_report import CheckReport, Content, FileReport, Spread, format_report
from disranker.data.faults import Fault, empty_document
from disranker.data.readers import parse_records
from disranker.data.rows import Line, find_format, read_header, read_lines, read_rows, unreadable
from disranker.data.trec import BEIR_QRELS_HEADER, Judged, Retrieved, parse_qrels, parse_run
from disranker.schema import Candidate, Click, Judgment, field_names

Item = Click | Judgment | Candidate | Judged | Retrieved | Document | Query

__all__ = [
    "RECORD_SUFFIXES",
    "CheckReport",
    "FileReport",
    "Spread",
    "check",
    "format_report",
    "recognise",
    "recognise_columns",
]

RECORD_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".trec", ".qrels")
"""Files that are looked at in a folder that has no BEIR layout."""


def check(paths: Iterable[str | os.PathLike[str]], limit: int = 50) -> CheckReport:
    """Read every path (a file, a BEIR folder, or a folder of files) to its end and report all that is in it.

    `limit` bounds the faults that are kept, not those that are counted.
    """
    report = CheckReport()
    for path in map(Path, paths):
        for file, content, items in _open_path(path):
            if content is None:
                _add_faults(report, limit, (item for item in items if isinstance(item, Fault)))
            else:
                _check_file(report, limit, file, content, items)
    return report


def recognise(path: Path) -> Content | Fault:
    """What a file holds, by its columns or the shape of its first line."""
    try:
        columns = read_header(path)
        content = recognise_columns(columns)
        if content is None and find_format(path) == "csv":
            content = _recognise_trec(path)
        if content is None:
            # A file that is not even text or JSON at its start is better told so than that its columns are unknown.
            fault = next((row for row in islice(read_rows(path, ()), 100) if isinstance(row, Fault)), None)
            if fault is not None:
                return fault
    except OSError as error:
        return unreadable(path, error)
    if content is not None:
        return content
    what = f"of no known kind: its columns are {', '.join(map(repr, columns)) or 'none'}"
    remedy = f"name them {', '.join(field_names(Judgment))}; candidates have no label, clicks no ids"
    return Fault("path", str(path), None, what, remedy)


def recognise_columns(columns: Sequence[str]) -> Content | None:
    """What a table with these columns holds; None where nothing tells."""
    names = set(columns)
    if names >= set(BEIR_QRELS_HEADER):
        return "qrels"
    if "_id" in names and "text" in names:
        return "corpus" if "title" in names else "queries"
    # One telling column is enough: the parser then names those that are missing.
    if "label" in names:
        return "judged"
    if "query_id" in names or "doc_id" in names:
        return "candidates"
    return "clicks" if names & {"query", "title", "summary"} else None


def _recognise_trec(path: Path) -> Content | None:
    for line in read_lines(path):
        if isinstance(line, Line):
            num_columns = len(line.text.split())
            return "run" if num_columns == 6 else "qrels" if num_columns == 4 else None
    return None


_Part = tuple[Path, Content | None, Iterator[Item | Fault]]


def _open_path(path: Path) -> Iterator[_Part]:
    """The files of a path with what they hold and their items; where nothing can be opened, a fault without content."""
    if not path.is_dir():
        content = recognise(path)
        yield (path, None, iter([content])) if isinstance(content, Fault) else (path, content, _open(path, content))
        return
    if find_beir_files(path) is not None:
        yield from _open_beir(path)
        return
    files = [file for file in sorted(path.iterdir()) if file.suffix in RECORD_SUFFIXES]
    if not files:
        remedy = f"name a file, or a folder with {', '.join(RECORD_SUFFIXES)} files"
        yield path, None, iter([Fault("path", str(path), None, "the folder holds no input file", remedy)])
    for file in files:
        yield from _open_path(file)


def _open_beir(path: Path) -> Iterator[_Part]:
    folder = find_beir_files(path)
    assert folder is not None
    documents: set[int] = set()
    queries: set[int] = set()
    # In this order, since the ids are known only after both text files have been read to their end.
    yield folder.corpus, "corpus", _with_empty(folder.corpus, documents)
    yield folder.queries, "queries", parse_queries(folder.queries, queries)
    for file in folder.qrels.values():
        yield file, "qrels", _with_unknown(file, parse_qrels(file), queries, documents)
    for file in folder.runs.values():
        yield file, "run", _with_unknown(file, parse_run(file), queries, documents)


def _open(path: Path, content: Content) -> Iterator[Item | Fault]:
    if content == "clicks":
        return parse_records(path, Click)
    if content == "judged":
        return parse_records(path, Judgment)
    if content == "candidates":
        return parse_records(path, Candidate)
    if content == "qrels":
        return parse_qrels(path)
    if content == "run":
        return parse_run(path)
    return _with_empty(path, set()) if content == "corpus" else parse_queries(path, set())


def _with_empty(path: Path, seen: set[int]) -> Iterator[Document | Fault]:
    for item in parse_corpus(path, seen):
        if isinstance(item, Document) and item.is_empty:
            yield empty_document(str(path), item.line)
        else:
            yield item


def _with_unknown(
    path: Path, items: Iterable[Judged | Retrieved | Fault], queries: set[int], documents: set[int]
) -> Iterator[Judged | Retrieved | Fault]:
    for item in items:
        yield item if isinstance(item, Fault) else find_unknown(path, item, queries, documents) or item


def _add_faults(report: CheckReport, limit: int, faults: Iterable[Fault]) -> None:
    for fault in faults:
        report.num_faults += 1
        report.num_faults_by_kind[fault.kind] += 1
        if len(report.faults) < limit:
            report.faults.append(fault)


def _check_file(report: CheckReport, limit: int, path: Path, content: Content, items: Iterable[Item | Fault]) -> None:
    faults_before = report.num_faults
    num_rows = num_repeated = 0
    query_keys, document_keys, pair_keys = array("q"), array("q"), array("q")
    chars: dict[str, Counter[int]] = {}
    labels: Counter[int] = Counter()
    for item in items:
        if isinstance(item, Fault):
            _add_faults(report, limit, [item])
            num_repeated += item.kind == "duplicate"
            continue
        num_rows += 1
        for name in ("query", "title", "summary"):
            text = getattr(item, name, None)
            if text is not None:
                chars.setdefault(name, Counter())[len(text)] += 1
        if isinstance(item, Judgment | Judged):
            labels[item.label] += 1
        if isinstance(item, Click):
            query_keys.append(hash(item.query))
            document_keys.append(hash((item.title, item.summary)))
            pair_keys.append(hash((item.query, item.title, item.summary)))
        else:
            if not isinstance(item, Document):
                query_keys.append(hash(item.query_id))
            if not isinstance(item, Query):
                document_keys.append(hash(item.doc_id))
    if content == "clicks":
        num_repeated = num_rows - _count_distinct(pair_keys)
    has_pairs = bool(query_keys) and bool(document_keys)
    report.files.append(
        FileReport(
            path=str(path),
            content=content,
            num_rows=num_rows,
            num_faults=report.num_faults - faults_before,
            num_queries=_count_distinct(query_keys),
            num_documents=_count_distinct(document_keys),
            docs_per_query=_spread(_group_sizes(query_keys)) if has_pairs else None,
            chars={name: _spread(lengths) for name, lengths in chars.items()},
            labels=dict(sorted(labels.items())),
            num_repeated=num_repeated,
            ignored_columns=_ignored_columns(path, content),
        )
    )


def _count_distinct(keys: array[int]) -> int:
    return len(np.unique(np.frombuffer(keys, dtype=np.int64))) if keys else 0


def _group_sizes(keys: array[int]) -> Counter[int]:
    _, sizes = np.unique(np.frombuffer(keys, dtype=np.int64), return_counts=True)
    return Counter(sizes.tolist())


def _spread(counts: Counter[int]) -> Spread:
    """Percentiles of a histogram value -> count, which must not be empty."""
    total = counts.total()
    values = sorted(counts)
    found: list[int] = []
    for percent in (50, 95):
        wanted, reached = -(-total * percent // 100), 0
        for value in values:
            reached += counts[value]
            if reached >= wanted:
                found.append(value)
                break
    return Spread(values[0], found[0], found[1], values[-1])


def _ignored_columns(path: Path, content: Content) -> tuple[str, ...]:
    record_type = {"clicks": Click, "judged": Judgment, "candidates": Candidate}.get(content)
    if record_type is None:
        return ()
    return tuple(name for name in read_header(path) if name not in field_names(record_type))
