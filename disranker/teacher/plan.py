"""The plan of a scoring run: which candidates are scored, in which shard, and what each shard costs.

One pass over the candidates, split over the ranks, writes the content key and the number of tokens of each into
segments of fixed size; then the first occurrence of every key is found by passes over ranges of keys.  All of it lies
in files that are mapped into memory, 21 bytes a candidate, so no process holds an object per candidate.  Segments are
atomic and the plan is whole once `plan.json` stands, so a killed run goes on with it; a finished store has none.

Shard i holds the i-th block of first occurrences in the order of the input.  The plan knows no model and writes no
score.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from disranker import dist
from disranker.schema import Candidate, Pair
from disranker.shards import write_atomic, write_json
from disranker.teacher.keys import Keys, first_of_each, keys_of

CountTokens = Callable[[Sequence[Pair]], Sequence[int]]
ReadCandidates = Callable[[], Iterable[Candidate]]

PLAN_FOLDER = ".plan"
SEGMENT_ROWS = 1 << 14
ROWS_PER_PASS = 1 << 22
"""Keys that one pass over a range of them sorts at once: some 200 MB of memory."""

_ROW = np.dtype([("key", "<u8", (2,)), ("tokens", "<u4")])
_SHARD = np.dtype([("begin", "<i8"), ("pairs", "<i8"), ("tokens", "<i8")])


@dataclass(frozen=True, slots=True)
class Block:
    """The candidates of one shard: those to score, and those after them whose texts were met before."""

    index: int
    candidates: list[Candidate]
    keys: Keys
    aliases: list[Candidate]
    alias_keys: Keys


class Plan:
    """A finished plan, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        counts = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        self.num_candidates: int = counts["num_candidates"]
        self.num_pairs: int = counts["num_pairs"]
        self._first = np.load(folder / "first.npy", mmap_mode="r")
        self._shards = np.load(folder / "shards.npy")

    @property
    def num_shards(self) -> int:
        return len(self._shards)

    @property
    def pairs(self) -> NDArray[np.int64]:
        """[num_shards] pairs of each shard."""
        return self._shards["pairs"]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """[num_shards] tokens of each shard; a teacher that reads no text counts 1 a pair."""
        return self._shards["tokens"]

    def blocks(self, candidates: Iterable[Candidate], wanted: NDArray[np.bool_]) -> Iterator[Block]:
        """The blocks of the shards that are `wanted`, in the order of the input.

        Raises:
            ValueError: the candidates are not those that were planned.
        """
        stream = iter(candidates)
        ends = [*self._shards["begin"][1:].tolist(), self.num_candidates]
        at = 0
        for index in np.flatnonzero(wanted).tolist():
            begin, end = int(self._shards["begin"][index]), ends[index]
            deque(islice(stream, begin - at), maxlen=0)
            rows = list(islice(stream, end - begin))
            at = end
            keys = self._keys(begin, end)
            if len(rows) != end - begin or (keys_of([rows[0].pair]) != keys[:1]).any():
                raise ValueError(
                    f"the candidates have changed since they were planned (row {begin + 1}, shard {index}); "
                    f"remove {self._folder.parent} and score again"
                )
            first = np.asarray(self._first[begin:end])
            yield Block(
                index,
                [rows[row] for row in np.flatnonzero(first)],
                keys[first],
                [rows[row] for row in np.flatnonzero(~first)],
                keys[~first],
            )

    def _keys(self, begin: int, end: int) -> Keys:
        parts = []
        for segment in range(begin // SEGMENT_ROWS, math.ceil(end / SEGMENT_ROWS)):
            offset = segment * SEGMENT_ROWS
            rows = np.load(_segment_path(self._folder, segment), mmap_mode="r")
            parts.append(rows["key"][max(0, begin - offset) : end - offset])
        return np.concatenate(parts)


def make_plan(
    store: Path, candidates: ReadCandidates, count_tokens: CountTokens | None, *, pairs_per_shard: int
) -> Plan:
    """The plan of the store in that folder, made unless it is there already; every rank calls this and gets the same.

    Raises:
        ValueError: there is no candidate.
    """
    folder = store / PLAN_FOLDER
    if not dist.broadcast_object((folder / "plan.json").exists()):
        num_candidates = _write_segments(folder, candidates, count_tokens)
        if num_candidates == 0:
            raise ValueError("no candidate was read: there is nothing to score")
        dist.barrier()
        if dist.is_main():
            _finish_plan(folder, num_candidates, pairs_per_shard)
    dist.barrier()
    return Plan(folder)


def _segment_path(folder: Path, segment: int) -> Path:
    return folder / f"rows-{segment:06}.npy"


def _write_segments(folder: Path, candidates: ReadCandidates, count_tokens: CountTokens | None) -> int:
    """Write this rank's segments; the number of candidates."""
    stream = iter(candidates())
    segment, num_candidates = 0, 0
    while block := [candidate.pair for candidate in islice(stream, SEGMENT_ROWS)]:
        path = _segment_path(folder, segment)
        if segment % dist.world_size() == dist.process_rank() and not path.exists():
            rows = np.empty(len(block), dtype=_ROW)
            rows["key"] = keys_of(block)
            rows["tokens"] = 1 if count_tokens is None else _count(block, count_tokens)
            _save(path, rows)
        segment += 1
        num_candidates += len(block)
    return num_candidates


def _count(block: Sequence[Pair], count_tokens: CountTokens) -> list[int]:
    # In pieces: what a tokenizer returns takes kilobytes a pair.
    pieces = (block[begin : begin + 1024] for begin in range(0, len(block), 1024))
    return [number for piece in pieces for number in count_tokens(piece)]


def _finish_plan(folder: Path, num_candidates: int, pairs_per_shard: int) -> None:
    segments = [_segment_path(folder, segment) for segment in range(math.ceil(num_candidates / SEGMENT_ROWS))]
    with write_atomic(folder / "first.npy") as temporary:
        first = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.bool_, shape=(num_candidates,))
        num_parts = math.ceil(num_candidates / ROWS_PER_PASS)
        for part in range(num_parts):
            _mark_firsts(first, segments, part, num_parts)
        shards = _cut(first, segments, pairs_per_shard)
        del first
    _save(folder / "shards.npy", shards)
    write_json(folder / "plan.json", {"num_candidates": num_candidates, "num_pairs": int(shards["pairs"].sum())})


def _mark_firsts(first: NDArray[np.bool_], segments: Sequence[Path], part: int, num_parts: int) -> None:
    """Mark the first occurrence of each key whose upper 32 bits lie in the `part`-th of `num_parts` equal ranges."""
    keys, rows = [], []
    for index, path in enumerate(segments):
        segment = np.load(path, mmap_mode="r")["key"]
        inside = np.flatnonzero(((segment[:, 0] >> np.uint64(32)) * np.uint64(num_parts)) >> np.uint64(32) == part)
        keys.append(segment[inside])
        rows.append(inside + index * SEGMENT_ROWS)
    first[np.concatenate(rows)] = first_of_each(np.concatenate(keys))


def _cut(first: NDArray[np.bool_], segments: Sequence[Path], pairs_per_shard: int) -> NDArray[np.void]:
    """Where each shard begins in the input, its pairs and its tokens."""
    num_pairs = int(np.count_nonzero(first))
    shards = np.zeros(math.ceil(num_pairs / pairs_per_shard), dtype=_SHARD)
    before = 0
    for index, path in enumerate(segments):
        rows = np.flatnonzero(first[index * SEGMENT_ROWS : (index + 1) * SEGMENT_ROWS])
        numbers = before + np.arange(len(rows))
        shard = numbers // pairs_per_shard
        np.add.at(shards["pairs"], shard, 1)
        np.add.at(shards["tokens"], shard, np.load(path, mmap_mode="r")["tokens"][rows].astype(np.int64))
        begins = numbers % pairs_per_shard == 0
        shards["begin"][shard[begins]] = rows[begins] + index * SEGMENT_ROWS
        before += len(rows)
    return shards


def _save(path: Path, array: NDArray[np.void]) -> None:
    with write_atomic(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def deal(tokens: NDArray[np.int64], lacking: NDArray[np.bool_], num_ranks: int) -> NDArray[np.int32]:
    """[num_shards] the rank that scores each shard, -1 where the shard is there.

    Longest processing time first (Graham 1969): the shard with most tokens goes to the rank with fewest, so that all
    end together within the length of one shard.
    """
    owners = np.full(len(tokens), -1, dtype=np.int32)
    loads = [(0, rank) for rank in range(num_ranks)]
    shards = np.flatnonzero(lacking)
    for shard in shards[np.argsort(-tokens[shards], kind="stable")].tolist():
        load, rank = heapq.heappop(loads)
        owners[shard] = rank
        heapq.heappush(loads, (load + int(tokens[shard]), rank))
    return owners
