"""Several teachers side by side: the pairs of several stores, and what every teacher says of each.

Reads and compares; how their scores become one is the business of `fusion.py`.  Shapes: N pairs, K teachers, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from disranker.schema import stable_seed
from disranker.teacher.keys import KeyIndex, Keys, first_of_each, id_keys
from disranker.teacher.merge import Kept, check_texts, name_row, pieces_of
from disranker.teacher.store import read_keys

Missing = Literal["error", "skip-pair", "others"]
"""What to do with a pair that a teacher did not score: refuse, leave the pair out, go by the other teachers."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Panel:
    """N distinct pairs in the order in which a fused store holds them, and the raw scores of K teachers."""

    folders: list[Path]
    """[K] stores"""
    keys: Keys
    query_ids: list[str]
    """[Q] in the order of their first pair"""
    queries: NDArray[np.int64]
    """[N] index of each pair's query in `query_ids`"""
    scores: list[NDArray[np.float32]]
    """[K] columns of [N]; 0 where `has` is False"""
    has: list[NDArray[np.bool_]]
    """[K] columns of [N]: whether the teacher scored the pair"""
    num_left_out: int
    """pairs that some teacher lacks, left out by `missing`"""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def shared(self) -> NDArray[np.bool_]:
        """[N] whether every teacher scored the pair."""
        return np.logical_and.reduce(self.has)

    def standardised(self, teacher: int) -> Floats:
        """[N] scores of a teacher with mean 0 and standard deviation 1 over the pairs that all teachers scored.

        Over those, for two teachers that saw other pairs have no common scale.  What the teacher did not score is 0.

        Raises:
            ValueError: the teacher gives all these pairs the same score.
        """
        shared = self.scores[teacher][self.shared].astype(np.float64)
        if shared.std() == 0.0:
            raise ValueError(f"{self.folders[teacher]} has one score for all pairs that every teacher scored")
        return np.where(self.has[teacher], (self.scores[teacher] - shared.mean()) / shared.std(), 0.0)

    def positions(self, teacher: int) -> Floats:
        """[N] the position of each pair in its query's list by a teacher, the best has 1; equal scores share the mean.

        Every teacher must have scored every pair.
        """
        order = np.lexsort((-self.scores[teacher], self.queries))
        queries, scores = self.queries[order], self.scores[teacher][order]
        new_query = np.concatenate(([True], queries[1:] != queries[:-1]))
        new = new_query | np.concatenate(([True], scores[1:] != scores[:-1]))
        begins = np.flatnonzero(new)
        sizes = np.diff(begins, append=len(order))
        query_begin = np.flatnonzero(new_query)[np.cumsum(new_query)[begins] - 1]
        found = np.empty(len(order))
        found[order] = np.repeat(begins - query_begin + (sizes + 1) / 2, sizes)
        return found


def read_panel(folders: Sequence[Path], manifests: Sequence[dict[str, Any]], missing: Missing) -> tuple[Panel, Kept]:
    """The teachers of several finished stores, and which rows of the stores' pieces stand for their pairs.

    A pair stands where the first store that holds it has it.

    Raises:
        ValueError: a pair lacks the score of a teacher and `missing` is error, no pair has all scores, or one
            (query_id, doc_id) has different texts in two of the stores.
    """
    rows, names = _read_rows(folders, manifests)
    new_ids = first_of_each(rows.ids)
    check_texts(folders, manifests, rows.keys, rows.ids, np.flatnonzero(~new_ids))
    stands = rows.scored.copy()
    stands[rows.scored] = first_of_each(rows.keys[rows.scored])
    at = np.flatnonzero(stands)
    found = []
    for teacher in range(len(folders)):
        own = np.flatnonzero(rows.scored & (rows.owners == teacher))
        places = KeyIndex(rows.keys[own]).find(rows.keys[at])
        found.append(np.where(places >= 0, own[places], -1))
    shared = np.logical_and.reduce([places >= 0 for places in found])
    if not shared.all() and missing == "error":
        _refuse_missing(folders, manifests, at, found, shared)
    if not shared.any():
        raise ValueError(f"no pair has a score of every teacher: {', '.join(map(str, folders))} hold different pairs")
    keep = shared if missing == "skip-pair" else np.ones(len(at), dtype=bool)
    at, found = at[keep], [places[keep] for places in found]
    stands[:] = False
    stands[at] = True
    alias = new_ids & ~stands
    alias[alias] = KeyIndex(rows.keys[at]).find(rows.keys[alias]) >= 0
    codes, query_ids = _number(rows.queries[at], names)
    panel = Panel(
        list(folders),
        rows.keys[at],
        query_ids,
        codes,
        [np.where(places >= 0, rows.scores[places], np.float32(0.0)) for places in found],
        [places >= 0 for places in found],
        int((~keep).sum()),
    )
    return panel, Kept(stands, alias)


class _Rows(NamedTuple):
    """The rows of all pieces of all stores, one after the other."""

    keys: Keys
    ids: Keys
    scores: NDArray[np.float32]
    """0 for an alias"""
    queries: NDArray[np.uint64]
    """hashes of the query_ids"""
    scored: NDArray[np.bool_]
    owners: NDArray[np.int16]
    """index of the store"""


def _read_rows(folders: Sequence[Path], manifests: Sequence[dict[str, Any]]) -> tuple[_Rows, dict[int, str]]:
    """The rows, and the query_id behind each hash."""
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _Rows._fields}
    names: dict[int, str] = {}
    for piece in pieces_of(folders, manifests):
        table, num_rows = piece.table, len(piece.table)
        query_ids = table["query_id"].combine_chunks().dictionary_encode()
        hashes = [stable_seed(query_id) for query_id in query_ids.dictionary.to_pylist()]
        names |= dict(zip(hashes, query_ids.dictionary.to_pylist(), strict=True))
        columns = _Rows(
            read_keys(table),
            id_keys(table["query_id"].to_pylist(), table["doc_id"].to_pylist()),
            table["teacher_score"].to_numpy() if piece.is_scored else np.zeros(num_rows, dtype=np.float32),
            np.array(hashes, dtype=np.uint64)[query_ids.indices.to_numpy()],
            np.full(num_rows, piece.is_scored),
            np.full(num_rows, folders.index(piece.folder), dtype=np.int16),
        )
        for name, column in columns._asdict().items():
            parts[name].append(column)
    # Each list goes as soon as its array is there.
    return _Rows(**{name: np.concatenate(parts.pop(name)) for name in _Rows._fields}), names


def _number(hashes: NDArray[np.uint64], names: dict[int, str]) -> tuple[NDArray[np.int64], list[str]]:
    """Query hashes as indices, counted in the order of their first row, and the query_ids behind them."""
    distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    by_row = np.argsort(first)
    place = np.empty(len(distinct), dtype=np.int64)
    place[by_row] = np.arange(len(distinct))
    return place[inverse], [names[int(one)] for one in distinct[by_row]]


def _refuse_missing(
    folders: Sequence[Path],
    manifests: Sequence[dict[str, Any]],
    at: NDArray[np.int64],
    found: Sequence[NDArray[np.int64]],
    shared: NDArray[np.bool_],
) -> None:
    lacking = ", ".join(
        f"{folder} lacks {int((rows < 0).sum()):,}" for folder, rows in zip(folders, found, strict=True)
    )
    first = name_row(folders, manifests, int(at[np.flatnonzero(~shared)[0]]))
    raise ValueError(
        f"{int((~shared).sum()):,} of {len(at):,} pairs have no score of some teacher ({lacking}), first {first}; "
        "score them with rank/score.py, or choose --missing skip-pair (leave these pairs out) or --missing others "
        "(go by the teachers that scored them)"
    )
