"""The choice of examples in stage 3, and what the student says of its training pairs while it learns.

Where the settings go by disagreement, the student scores all its training pairs at the start of an epoch, split over
the ranks, and the scores stay in the output folder until the run is done: a run that is killed in the middle of an
epoch goes on with what the epoch began with.  What is drawn by them is the business of `disranker.data.mining`.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from disranker import dist
from disranker.config.distill import DistillConfig
from disranker.config.mining import MiningConfig
from disranker.data.batches import Order, Sampler, StepPlan, fill_steps
from disranker.data.mining import MinedSampler
from disranker.data.sampling import GroupSampler, Sampling
from disranker.data.tokens import TokenTable
from disranker.models.scorer import Scorer
from disranker.shards import write_atomic
from disranker.train.checkpoint import CHECKPOINT_FOLDER
from disranker.train.distilled import DistillPairs, check_groups
from disranker.train.journal import clock

# Dealt to the ranks in turn; large enough to be sorted into full batches, small enough that ranks end together.
_TOKENS_PER_CHUNK = 1 << 16


class Chosen(NamedTuple):
    """Which examples a run sees."""

    sampler: Sampler
    order: Order | None
    """the groups of an epoch; None: all of them, at random"""
    facts: dict[str, str]
    """Lines for the plan."""


def choose_examples(config: DistillConfig, pairs: DistillPairs, table: TokenTable, scorer: Scorer, out: Path) -> Chosen:
    """What the settings draw anew in every epoch: documents of each group, and where they are mined, groups.

    Every rank calls this.

    Raises:
        ValueError: the store is an ordering and a choice goes by distances, a choice has nothing to go by or leaves too
            few documents for a term, or a run is to be gone on with whose scores are gone.
    """
    scores, seed = pairs.targets.teacher_scores, config.training.seed
    if config.mining is None:
        plain = GroupSampler(pairs.groups, scores, docs_per_query=config.docs_per_query, seed=seed, sampling=Sampling())
        return Chosen(plain, None, {})
    _check_distances(config, pairs)
    student = None
    if config.mining.by_disagreement:
        # Under ZeRO-3 a forward gathers weights, so all ranks run the same ones.
        student = StudentScores(out, table, scorer, split=config.training.zero_stage < 3)
    sampler = MinedSampler(
        pairs.groups, scores, mining=config.mining, docs_per_query=config.docs_per_query, seed=seed, student=student
    )
    too_few = {}
    if config.mining.documents is not None:
        too_few = check_groups(config, sampler.groups, ~np.isnan(scores), mend="raise mining.documents.share")
    return Chosen(sampler, sampler.order, {**too_few, **sampler.facts})


def check_reached(mining: MiningConfig | None, plan: StepPlan[Any], num_steps: int) -> None:
    """Refuse a run that ends before its first epoch that is drawn by disagreement.

    Raises:
        ValueError: it does.
    """
    drawn = mining.disagreement if mining is not None else None
    # Epochs that an easy-first order by disagreement cuts can be counted only when they are there.
    if mining is None or drawn is None or any(mining.needs_student(epoch) for epoch in range(drawn.from_epoch)):
        return
    before = plan.num_steps(drawn.from_epoch)
    if before >= num_steps:
        raise ValueError(
            f"mining.disagreement begins with epoch {drawn.from_epoch}, at step {before}, and the run has {num_steps} "
            "steps: it would never count; lower from_epoch, or raise training.steps"
        )


def _check_distances(config: DistillConfig, pairs: DistillPairs) -> None:
    """An ordering has no distances to be sure by."""
    assert config.mining is not None
    by_distance = [name for name, part in config.mining if part is not None and name != "mix"]
    if pairs.store.manifest["teacher"].get("kind") == "ordering" and by_distance:
        raise ValueError(
            f"{pairs.store.folder} holds an ordering: the distances between its scores, by which "
            f"mining.{by_distance[0]} goes, mean nothing; only mining.mix goes by the order alone"
        )


class StudentScores:
    """The student's raw scores of its training pairs at the start of epochs, 4 bytes a pair and epoch on disk."""

    def __init__(self, out: Path, table: TokenTable, scorer: Scorer, *, split: bool) -> None:
        """Every rank makes one, before training; `split`: each rank scores its part, else each scores all.

        Raises:
            ValueError: `out` holds a checkpoint, but no longer the scores of its epochs.
        """
        self._folder, self._table, self._scorer, self._split = out / "cache" / "student-scores", table, scorer, split
        if not (out / CHECKPOINT_FOLDER / "latest").exists():
            if dist.is_main():
                # What a run left that had no checkpoint yet: it may have had other settings.
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder.mkdir(parents=True)
        elif not self._folder.exists():
            raise ValueError(
                f"{out} holds a checkpoint, but {self._folder} is gone, which says what its epoch was drawn by: remove "
                f"{out / CHECKPOINT_FOLDER} and train again"
            )
        dist.barrier()

    def __call__(self, epoch: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """[len(rows)] scores of those rows of the table, the same in every call, on every rank.

        They are those on disk of that epoch's start, or else of the student as it is.

        Raises:
            ValueError: a score is not finite.
        """
        path = self._folder / f"epoch-{epoch:05}.npy"
        if dist.broadcast_object(path.exists()):
            there: NDArray[np.float32] = np.load(path)
            return there
        began = time.monotonic()
        scores = self._score(rows)
        wrong = int((~np.isfinite(scores)).sum())
        if wrong:
            raise ValueError(f"{wrong:,} scores of the student are not finite: lower optim.learning_rate")
        if dist.is_main():
            with write_atomic(path) as temporary, temporary.open("wb") as file:
                np.save(file, scores)
        dist.barrier()
        spent = clock(time.monotonic() - began)
        dist.print_once(f"  epoch {epoch}: the student scored {len(scores):,} training pairs in {spent}")
        return scores

    def _score(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        # The same chunks on any number of ranks, so that a pair is in the same batch, and its score the same sum.
        lengths = self._table.lengths[rows]
        chunks = fill_steps(np.argsort(-lengths, kind="stable"), lengths, _TOKENS_PER_CHUNK)
        num_parts = dist.world_size() if self._split else 1
        mine = chunks[dist.process_rank() :: num_parts] if self._split else chunks
        ranker = self._scorer.ranker.to(dist.device())  # before the first epoch the engine has not moved it yet
        was_training = ranker.training
        ranker.eval()
        scored = [self._scorer.score_tokens([self._table[int(rows[at])] for at in chunk]) for chunk in mine]
        ranker.train(was_training)
        scores = np.empty(len(rows), dtype=np.float32)
        for part, found in enumerate(dist.gather_objects(scored)[:num_parts]):
            for chunk, values in zip(chunks[part::num_parts], found, strict=True):
                scores[chunk] = values
        return scores
