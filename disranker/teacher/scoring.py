"""A scoring run: candidates into a store, over any number of processes and nodes, resumed shard by shard."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disranker import dist
from disranker.schema import Candidate
from disranker.teacher.plan import PLAN_FOLDER, CountTokens, ReadCandidates, deal, make_plan
from disranker.teacher.progress import Progress
from disranker.teacher.store import begin_store, finish_store, shard_path, write_shard

ScoreBlock = Callable[[Sequence[Candidate]], tuple[NDArray[np.float32], NDArray[np.float16] | None]]


@dataclass(frozen=True, slots=True)
class Teacher:
    """Whoever scores: what identifies it, and how it scores a block of candidates."""

    identity: dict[str, Any]
    score: ScoreBlock
    """[N] scores and, of a teacher with `representation`, [N, H] hidden states"""
    count_tokens: CountTokens | None = None
    """tokens of each pair, by which the work is split; None where every pair costs the same"""
    representation: str | None = None


def score_candidates(
    teacher: Teacher, candidates: ReadCandidates, *, out: Path, input_hash: str, pairs_per_shard: int
) -> dict[str, Any]:
    """Score what the store at `out` still lacks; the manifest of the finished store, on process 0.

    `candidates` is called twice, once to plan and once to score, and gives the same candidates each time.  A kill loses
    the shards in the making and nothing else.

    Raises:
        ValueError: the store is of another teacher or input, or a score is not finite.
    """
    found: dict[str, Any] = {}
    if dist.is_main():
        found = begin_store(out, teacher.identity, input_hash, pairs_per_shard, teacher.representation)
        if found["complete"]:
            _sweep(out)
    lacks_nothing = bool(found) and found["complete"] and all((out / one["name"]).exists() for one in found["shards"])
    if dist.broadcast_object(lacks_nothing):
        return found

    plan = make_plan(out, candidates, teacher.count_tokens, pairs_per_shard=pairs_per_shard)
    owners = deal(plan.tokens, _lacking(out, plan.num_shards), dist.world_size()) if dist.is_main() else None
    mine = dist.broadcast_object(owners) == dist.process_rank()
    progress = Progress(out, plan)
    dist.print_once(
        f"  plan       {plan.num_candidates:,} candidates, {plan.num_pairs:,} distinct, {plan.num_shards:,} "
        f"shards, {int(plan.tokens.sum()):,} tokens, {int(mine.sum()):,} shards to do here"
    )
    dist.keep_freed_memory()
    for block in plan.blocks(candidates(), mine):
        write_shard(out, block, *teacher.score(block.candidates))
        progress.tell()
    dist.barrier()
    progress.tell(at_end=True)
    if not dist.is_main():
        return {}
    manifest = finish_store(out, plan.num_shards, plan.num_candidates)
    _sweep(out)
    return manifest


def _lacking(out: Path, num_shards: int) -> NDArray[np.bool_]:
    return np.array([not shard_path(out, index).exists() for index in range(num_shards)])


def _sweep(out: Path) -> None:
    """Remove what only an unfinished store needs."""
    shutil.rmtree(out / PLAN_FOLDER, ignore_errors=True)
    for left in out.glob(".*.tmp"):  # what a process was writing when it was killed
        left.unlink()
