"""TREC runs and qrels: files of ids without texts, separated by white space.

    run    query_id Q0 doc_id position score tag
    qrels  query_id iteration doc_id label          (also with BEIR's header: query-id, corpus-id, score)

The order of a run is that of its scores; its positions are not read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from disranker.data.faults import Fault, InputError, shown, strict
from disranker.data.fields import parse_label, parse_score
from disranker.data.rows import Row, no_records, read_lines, unreadable
from disranker.data.seen import SeenPairs

BEIR_QRELS_HEADER = ["query-id", "corpus-id", "score"]


class Judged(NamedTuple):
    """One line of qrels; `line` is its line number."""

    line: int
    query_id: str
    doc_id: str
    label: int


class Retrieved(NamedTuple):
    """One line of a run; `line` is its line number."""

    line: int
    query_id: str
    doc_id: str
    score: float


def read_trec_run(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """The scores of a run: query_id -> doc_id -> score, in the order of the file.

    Raises:
        InputError: at the first fault.
    """
    run: dict[str, dict[str, float]] = {}
    for item in strict(parse_run(path)):
        run.setdefault(item.query_id, {})[item.doc_id] = item.score
    return run


def read_trec_qrels(path: str | os.PathLike[str]) -> dict[str, dict[str, int]]:
    """The labels of qrels, in TREC's or BEIR's columns: query_id -> doc_id -> label, in the order of the file.

    Raises:
        InputError: at the first fault.
    """
    qrels: dict[str, dict[str, int]] = {}
    for item in strict(parse_qrels(path)):
        qrels.setdefault(item.query_id, {})[item.doc_id] = item.label
    return qrels


def write_trec_run(path: str | os.PathLike[str], run: Mapping[str, Mapping[str, float]], tag: str) -> int:
    """Write a run atomically and return its number of lines; queries by id, documents by falling score, ties by doc_id.

    Scores are written so that reading them gives the same float64, hence the same float32.

    Raises:
        ValueError: an id or the tag is empty or holds white space, or a score is not finite.
    """
    target = Path(path)
    _check_token("tag", tag)
    count = 0
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for query_id in sorted(run):
                _check_token("query_id", query_id)
                scores = {doc_id: float(score) for doc_id, score in run[query_id].items()}
                ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
                for position, (doc_id, score) in enumerate(ordered, start=1):
                    _check_token("doc_id", doc_id)
                    if not math.isfinite(score):
                        raise ValueError(
                            f"{path}: score of query_id {query_id}, doc_id {doc_id} is {score}, not finite"
                        )
                    file.write(f"{query_id} Q0 {doc_id} {position} {score!r} {tag}\n")
                    count += 1
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _check_token(name: str, value: str) -> None:
    if not value or any(character.isspace() for character in value):
        raise ValueError(f"{name} is {value!r}, which a TREC run cannot carry; use one without white space")


def parse_run(path: str | os.PathLike[str]) -> Iterator[Retrieved | Fault]:
    """The lines and the faults of a run."""
    seen = SeenPairs()
    names = ("query_id", "Q0", "doc_id", "position", "score", "tag")
    for row in _read_table(Path(path), names):
        if isinstance(row, Fault):
            yield row
            continue
        try:
            score = parse_score(row, "score")
        except InputError as error:
            yield error.fault
            continue
        query_id, doc_id = row.values["query_id"], row.values["doc_id"]
        fault = seen.find_fault(row.path, row.line, query_id, doc_id, None)
        yield fault or Retrieved(row.line, query_id, doc_id, score)


def parse_qrels(path: str | os.PathLike[str], *, negative_to_zero: bool = False) -> Iterator[Judged | Fault]:
    """The lines and the faults of qrels, in TREC's or BEIR's columns."""
    seen = SeenPairs()
    for row in _read_table(Path(path), ("query_id", "iteration", "doc_id", "label")):
        if isinstance(row, Fault):
            yield row
            continue
        try:
            label = parse_label(row, "label", negative_to_zero=negative_to_zero)
        except InputError as error:
            yield error.fault
            continue
        query_id, doc_id = row.values["query_id"], row.values["doc_id"]
        fault = seen.find_fault(row.path, row.line, query_id, doc_id, label)
        yield fault or Judged(row.line, query_id, doc_id, label)


def _read_table(path: Path, names: tuple[str, ...]) -> Iterator[Row | Fault]:
    """Rows of a file separated by white space; a BEIR header on the first line changes the names."""
    first = True
    try:
        for line in read_lines(path):
            if isinstance(line, Fault):
                first = False
                yield line
                continue
            cells = line.text.split()
            if first:
                first = False
                if cells == BEIR_QRELS_HEADER and "label" in names:
                    names = ("query_id", "doc_id", "label")
                    continue
            if len(cells) == len(names):
                yield Row(str(path), line.number, dict(zip(names, cells, strict=True)))
            else:
                what = f"{len(cells)} columns instead of {len(names)}: {shown(line.text)}"
                yield Fault("columns", str(path), line.number, what, f"write {' '.join(names)}")
    except OSError as error:
        yield unreadable(path, error)
        return
    if first:
        yield no_records(path)
