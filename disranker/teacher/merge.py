"""Several stores of one teacher over different inputs, made into one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from disranker.shards import check_same
from disranker.teacher.keys import KeyIndex, Keys, first_of_each, id_keys
from disranker.teacher.store import ALIAS_SCHEMA, begin_store, finish_store, read_finished, read_keys, write_tables

# Shares of the standard deviation.  The same pair in another batch is the same sum in another order: 5e-6 was seen in
# fp32 on scores that spread by 1; in bfloat16 hidden states have 8 bits.  Scores from a file are equal or they are not.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}


@dataclass(frozen=True, slots=True)
class Piece:
    """The scores or the aliases of one shard of one store."""

    folder: Path
    table: pa.Table
    representations: NDArray[np.float16] | None

    @property
    def is_scored(self) -> bool:
        return "teacher_score" in self.table.column_names


def merge_stores(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write the store of all pairs of these stores; its manifest.

    A pair that several stores hold stands once, with the score of the first; a candidate that is the same in several
    inputs stands once too.  Memory: some 100 bytes a candidate.

    Raises:
        ValueError: a store is not finished or of another teacher, a pair has different scores in two of them, or one
            (query_id, doc_id) has different texts in two of them.
    """
    manifests = [read_finished(folder) for folder in folders]
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        expected, found = (
            {name: one[name] for name in ("teacher", "representation")} for one in (manifests[0], manifest)
        )
        check_same(expected, found, folder)
    first = manifests[0]
    joined = "merged: " + " + ".join(one["input"] for one in manifests)
    begun = begin_store(out, first["teacher"], joined, first["pairs_per_shard"], first["representation"])
    if begun["complete"]:
        return begun

    std = float(np.mean([one["scores"]["std"] for one in manifests]))
    kept = _choose(folders, manifests, tolerance=std * _TOLERANCE.get(first["teacher"].get("dtype", ""), 0.0))
    num_shards = write_pieces(out, pieces_of(folders, manifests), kept, first["pairs_per_shard"])
    return finish_store(out, num_shards, int(kept.scored.sum() + kept.alias.sum()))


@dataclass(frozen=True, slots=True)
class Kept:
    """For every row of all pieces, one after the other: whether it becomes a score, whether it becomes an alias."""

    scored: NDArray[np.bool_]
    alias: NDArray[np.bool_]


def pieces_of(folders: Sequence[Path], manifests: Sequence[dict[str, Any]]) -> Iterator[Piece]:
    """The shards of several stores, one after the other, each one's aliases behind its scores."""
    for folder, manifest in zip(folders, manifests, strict=True):
        for shard in manifest["shards"]:
            states = None
            if manifest["representation"] is not None:
                states = np.load(folder / shard["representations"]["name"], mmap_mode="r")
            yield Piece(folder, pq.read_table(folder / shard["name"]), states)
            if shard["aliases"] is not None:
                yield Piece(folder, pq.read_table(folder / shard["aliases"]["name"]), None)


def _choose(folders: Sequence[Path], manifests: Sequence[dict[str, Any]], *, tolerance: float) -> Kept:
    keys, ids, scores = [], [], []
    for piece in pieces_of(folders, manifests):
        keys.append(read_keys(piece.table))
        ids.append(id_keys(piece.table["query_id"].to_pylist(), piece.table["doc_id"].to_pylist()))
        no_score = np.full(len(piece.table), np.nan, dtype=np.float32)
        scores.append(piece.table["teacher_score"].to_numpy() if piece.is_scored else no_score)
    all_keys, all_ids, all_scores = np.concatenate(keys), np.concatenate(ids), np.concatenate(scores)

    has_score = np.flatnonzero(~np.isnan(all_scores))
    scored = np.zeros(len(all_keys), dtype=bool)
    scored[has_score] = first_of_each(all_keys[has_score])
    again = has_score[~scored[has_score]]
    earlier = has_score[KeyIndex(all_keys[has_score]).find(all_keys[again])]
    differing = np.flatnonzero(np.abs(all_scores[again] - all_scores[earlier]) > tolerance)
    if len(differing):
        row, first = again[differing[0]], earlier[differing[0]]
        raise ValueError(
            f"{len(differing):,} pairs have different scores in two of the stores, first "
            f"{name_row(folders, manifests, int(row))}: {all_scores[first]:g} and {all_scores[row]:g}; "
            "score them anew in one run"
        )

    new_ids = first_of_each(all_ids)
    check_texts(folders, manifests, all_keys, all_ids, np.flatnonzero(~new_ids))
    return Kept(scored, new_ids & ~scored)


def check_texts(
    folders: Sequence[Path], manifests: Sequence[dict[str, Any]], keys: Keys, ids: Keys, repeated: NDArray[np.int64]
) -> None:
    """Make sure that one (query_id, doc_id) has the same texts wherever it stands.

    `keys` and `ids` are those of all rows of all pieces, `repeated` the rows whose id stood earlier.

    Raises:
        ValueError: it has others; the first one is named.
    """
    earlier = KeyIndex(ids).find(ids[repeated])
    differing = repeated[(keys[repeated] != keys[earlier]).any(axis=1)]
    if len(differing):
        raise ValueError(
            f"{len(differing):,} candidates have different texts in two of the stores, first "
            f"{name_row(folders, manifests, int(differing[0]))}; give each text its own ids"
        )


def name_row(folders: Sequence[Path], manifests: Sequence[dict[str, Any]], row: int) -> str:
    """A row of the pieces for a message: `(query_id, doc_id) of FOLDER`."""
    for piece in pieces_of(folders, manifests):
        if row < len(piece.table):
            found = piece.table.slice(row, 1).to_pylist()[0]
            return f"({found['query_id']}, {found['doc_id']}) of {piece.folder}"
        row -= len(piece.table)
    raise AssertionError("a row of no piece")


def write_pieces(out: Path, pieces: Iterator[Piece], kept: Kept, pairs_per_shard: int) -> int:
    """Cut what is kept into shards; their number."""
    tables: list[pa.Table] = []
    aliases: list[pa.Table] = [ALIAS_SCHEMA.empty_table()]
    states: list[NDArray[np.float16]] = []
    num_shards = begin = 0

    def write(count: int) -> None:
        nonlocal num_shards
        table = pa.concat_tables(tables)
        rows = np.concatenate(states) if states else None
        write_tables(
            out, num_shards, table.slice(0, count), pa.concat_tables(aliases), None if rows is None else rows[:count]
        )
        num_shards += 1
        tables[:], aliases[1:] = [table.slice(count)], []
        states[:] = [] if rows is None else [rows[count:]]

    for piece in pieces:
        end = begin + len(piece.table)
        scored, alias = kept.scored[begin:end], kept.alias[begin:end]
        begin = end
        aliases.append(piece.table.select(ALIAS_SCHEMA.names).filter(pa.array(alias)))
        if piece.is_scored:
            tables.append(piece.table.filter(pa.array(scored)))
            if piece.representations is not None:
                states.append(piece.representations[scored])
        while sum(map(len, tables)) > pairs_per_shard:
            write(pairs_per_shard)
    write(pairs_per_shard)
    return num_shards
