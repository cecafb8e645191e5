"""A scoring run: candidates into a store, over any number of processes, resumed shard by shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disranker import dist
from disranker.schema import Candidate
from disranker.teacher.store import begin_store, distinct, finish_store, shard_path, write_shard
from disranker.train.journal import clock

ScoreBlock = Callable[[Sequence[Candidate]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Teacher:
    """Whoever scores: what identifies it, and how it scores a block of candidates."""

    identity: dict[str, Any]
    score: ScoreBlock


def run_teacher(name: str, content_hash: str, run: Mapping[str, Mapping[str, float]]) -> Teacher:
    """Someone else's teacher: the scores of a TREC run, query_id → doc_id → score."""

    def score(block: Sequence[Candidate]) -> NDArray[np.float32]:
        missing = [(c.query_id, c.doc_id) for c in block if c.doc_id not in run.get(c.query_id, {})]
        if missing:
            named = ", ".join(map(str, missing[:3]))
            raise ValueError(f"the run {name} has no score for {len(missing)} candidates, first: {named}")
        return np.array([run[c.query_id][c.doc_id] for c in block], dtype=np.float32)

    return Teacher({"kind": "run", "name": name, "fingerprint": content_hash}, score)


def score_candidates(
    teacher: Teacher, candidates: Iterable[Candidate], *, out: Path, input_hash: str, pairs_per_shard: int
) -> dict[str, Any]:
    """Score what the store at `out` still lacks; the manifest of the finished store.

    Shards go round the ranks; a kill loses the shards in the making and nothing else.

    Raises:
        ValueError: the store is of another teacher or input, or a score is not finite.
    """
    if dist.is_main():
        begin_store(out, teacher.identity, input_hash, pairs_per_shard)
    dist.barrier()
    counted = _Counted(candidates)
    began, scored, num_shards = time.monotonic(), 0, 0
    for index, block in enumerate(_blocks(iter(distinct(counted, set())), pairs_per_shard)):
        num_shards = index + 1
        path = shard_path(out, index)
        if index % dist.world_size() != dist.process_rank() or path.exists():
            continue
        write_shard(path, block, teacher.score(block))
        scored += len(block)
        rate = scored / (time.monotonic() - began)
        dist.print_once(f"  shard {index}: {scored:,} pairs scored, {rate:,.0f} pairs/s, {clock(scored / rate)} so far")
    dist.barrier()
    if dist.is_main():
        return finish_store(out, num_shards, counted.count)
    return {}


class _Counted:
    """An iterable that counts what passes."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self._candidates, self.count = candidates, 0

    def __iter__(self) -> Iterator[Candidate]:
        for candidate in self._candidates:
            self.count += 1
            yield candidate


def _blocks(candidates: Iterator[Candidate], size: int) -> Iterator[list[Candidate]]:
    while block := list(islice(candidates, size)):
        yield block
