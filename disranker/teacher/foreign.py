"""Someone else's teacher: scores or orderings in files, which become stores as a bundle's scores do.

    run        a TREC run
    scores     CSV, TSV, JSONL or Parquet with the columns query_id, doc_id, score
    ordering   rows {query_id, doc_ids: [best, …, worst]}, or {query_id, doc_ids, permutation: "[3] > [1] > [2]"} where
               the numbers are places in doc_ids, from 1, as a language model that was shown this list answers

An ordering has no scores: the document at position p gets -p, so the best has -1.  Its manifest says kind `ordering`,
for the distances between such scores mean nothing and a loss should look at their order alone.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from disranker.data.faults import Fault, InputError, shown
from disranker.data.fields import parse_id, parse_score, refuse
from disranker.data.rows import Row, read_rows
from disranker.data.seen import SeenPairs
from disranker.data.trec import parse_run
from disranker.schema import Candidate
from disranker.shards import file_hash
from disranker.teacher.keys import KeyIndex, id_keys, keys_from_bytes, keys_to_bytes
from disranker.teacher.scoring import Teacher

Kind = Literal["run", "scores", "ordering"]
Scored = tuple[str, str, float]
"""query_id, doc_id, score"""

_PERMUTATION = re.compile(r"\s*\[\d+\](\s*>\s*\[\d+\])*\s*")
_ROWS_AT_ONCE = 8192


def foreign_teacher(kind: Kind, path: Path) -> Teacher:
    """The teacher whose scores or orderings stand in a file; 40 bytes of memory a score.

    Raises:
        InputError: at the first fault of the file.
    """
    readers = {"run": _read_run, "scores": _read_scores, "ordering": _read_orderings}
    index, scores = _collect(readers[kind](path))
    identity: dict[str, Any] = {"kind": kind, "name": path.stem, "fingerprint": file_hash(path)}
    if kind == "ordering":
        identity["rule"] = "score = -position, the best has position 1"

    def score(block: Sequence[Candidate]) -> tuple[NDArray[np.float32], None]:
        rows = index.find(id_keys([c.query_id for c in block], [c.doc_id for c in block]))
        missing = [(block[row].query_id, block[row].doc_id) for row in np.flatnonzero(rows < 0).tolist()]
        if missing:
            named = ", ".join(map(str, missing[:3]))
            raise ValueError(f"the {kind} {path} has no score for {len(missing)} candidates, first: {named}")
        return scores[rows], None

    return Teacher(identity, score)


def _collect(rows: Iterator[Scored]) -> tuple[KeyIndex, NDArray[np.float32]]:
    """An index of (query_id, doc_id) and the scores it points to; no object per row is kept."""
    keys, scores = bytearray(), array("f")
    while block := list(islice(rows, _ROWS_AT_ONCE)):
        keys += keys_to_bytes(id_keys([row[0] for row in block], [row[1] for row in block]))
        scores.extend(row[2] for row in block)
    return KeyIndex(keys_from_bytes(memoryview(keys))), np.frombuffer(scores, dtype=np.float32)


def _read_run(path: Path) -> Iterator[Scored]:
    for item in parse_run(path):
        if isinstance(item, Fault):
            raise InputError(item)
        yield item.query_id, item.doc_id, item.score


def _read_scores(path: Path) -> Iterator[Scored]:
    seen = SeenPairs()
    for row in read_rows(path, ("query_id", "doc_id", "score")):
        if isinstance(row, Fault):
            raise InputError(row)
        query_id, doc_id, score = parse_id(row, "query_id"), parse_id(row, "doc_id"), parse_score(row, "score")
        _refuse_repeated(seen, row, query_id, doc_id)
        yield query_id, doc_id, score


def _read_orderings(path: Path) -> Iterator[Scored]:
    seen = SeenPairs()
    for row in read_rows(path, ("query_id", "doc_ids"), ("permutation",)):
        if isinstance(row, Fault):
            raise InputError(row)
        query_id = parse_id(row, "query_id")
        for position, doc_id in enumerate(_ordered_ids(row), start=1):
            _refuse_repeated(seen, row, query_id, doc_id)
            yield query_id, doc_id, -float(position)


def _ordered_ids(row: Row) -> list[str]:
    """The doc_ids of a row, best first."""
    listed = row.values.get("doc_ids")
    if not isinstance(listed, list) or not listed:
        refuse(row, "field", f"doc_ids is {shown(listed)}, not a list of ids", 'write it as ["best", …, "worst"]')
    doc_ids = [parse_id(Row(row.path, row.line, {"doc_ids": one}), "doc_ids") for one in listed]
    answer = row.values.get("permutation")
    if answer is None:
        return doc_ids
    if not isinstance(answer, str) or not _PERMUTATION.fullmatch(answer):
        refuse(row, "field", f"permutation is {shown(answer)}", 'write it as "[3] > [1] > [2]"')
    places = [int(number) for number in re.findall(r"\d+", answer)]
    if sorted(places) != list(range(1, len(doc_ids) + 1)):
        wrong = f"permutation {shown(answer)} does not name each of 1 to {len(doc_ids)} once"
        refuse(row, "field", wrong, "mend the answer, or leave the query out of file and candidates")
    return [doc_ids[place - 1] for place in places]


def _refuse_repeated(seen: SeenPairs, row: Row, query_id: str, doc_id: str) -> None:
    fault = seen.find_fault(row.path, row.line, query_id, doc_id, None)
    if fault is not None:
        raise InputError(fault)
