"""Which queries and documents an epoch of stage 3 sees: by the teacher's certainty, its list, and the student.

Every draw is a function of (seed, epoch, query_id), of the teacher's scores, and of the student's scores at the start
of the epoch where they are asked for; so it is the same on any number of ranks and after a resume.  What each choice
means stands in `disranker.config.mining`.  This module scores nothing: where the student's scores come from is the
business of `disranker.train.mining`.

Shapes: N rows of the token table, Q groups that are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disranker.config.mining import Curriculum, Disagreement, DocumentChoice, MiningConfig, QueryChoice
from disranker.data.certainty import centred, document_margins, entropy_shares, query_margins
from disranker.schema import stable_seed

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Groups = Sequence[tuple[str, Rows]]
StudentScores = Callable[[int, Rows], NDArray[np.float32]]
"""epoch, rows -> raw scores of the student at the start of the epoch, one for each row"""


@dataclass(frozen=True, slots=True)
class _Epoch:
    """What is drawn by in one epoch."""

    number: int
    weights_N: Floats | None
    """Probability of every row within its group; None where documents are drawn evenly."""
    disagreement_Q: Floats | None
    """None where the student has no say in the epoch."""


class MinedSampler:
    """The rows that each group consists of in each epoch, and the groups of each epoch in their order."""

    def __init__(
        self,
        groups: Groups,
        teacher_scores: NDArray[np.float32],
        *,
        mining: MiningConfig,
        docs_per_query: int,
        seed: int,
        student: StudentScores | None = None,
    ) -> None:
        """`groups` are (query_id, rows); `teacher_scores` [N] are standardised, nan where the teacher has not scored.

        `student` is needed where the settings go by disagreement; it is asked once an epoch, for the same rows.

        Raises:
            ValueError: a choice has nothing to go by.
        """
        self._scores, self._taught = teacher_scores, ~np.isnan(teacher_scores)
        self._mining, self._docs_per_query, self._seed, self._student = mining, docs_per_query, seed, student
        self.facts: dict[str, str] = {}
        """Lines for a run's plan."""
        self._groups = list(groups)
        if mining.queries is not None:
            self._keep_queries(mining.queries)
        if mining.documents is not None:
            self._keep_documents(mining.documents)
        self._flat = self._flatten()
        self._difficulty_Q = self._by_margin() if mining.curriculum is not None else None
        self._tie_Q = _hashes([query_id for query_id, _ in self._groups], seed, "tie")
        self._epoch: _Epoch | None = None
        if mining.by_disagreement and np.bincount(self._flat[1], minlength=1).max() < 2:
            raise ValueError("mining by disagreement compares the scores of a query's documents, and no query has two")
        self._describe()

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def groups(self) -> Groups:
        """The groups that are kept, with the rows that are kept of each."""
        return self._groups

    def rows(self, item: int, epoch: int) -> Rows:
        """The rows of a group in an epoch."""
        query_id, rows = self._groups[item]
        if len(rows) <= self._docs_per_query:
            return rows
        # Seeded as `GroupSampler` is: what is not mined is drawn as without mining.
        random = np.random.default_rng(stable_seed(self._seed, epoch, query_id))
        weights_N = self._at(epoch).weights_N
        mix = self._mining.mix
        if mix is None:
            return _draw(random, rows, self._docs_per_query, weights_N)
        taught = rows[self._taught[rows]]
        # Equal scores are placed by chance.
        listed = taught[np.lexsort((random.permutation(len(taught)), -self._scores[taught]))]
        third = len(listed) / 3
        middle = listed[max(mix.top, math.floor(third)) : math.ceil(2 * third)]
        chosen = np.concatenate([listed[: mix.top], _draw(random, middle, mix.middle)])
        left = np.setdiff1d(rows, chosen)
        return np.concatenate([chosen, _draw(random, left, self._docs_per_query - len(chosen), weights_N)])

    def order(self, epoch: int) -> Rows:
        """The groups of an epoch in their order; some may be left out, some may stand there several times."""
        curriculum, disagreement = self._mining.curriculum, self._mining.disagreement
        admitted = np.ones(len(self), dtype=bool)
        difficulty_Q = self._difficulty(curriculum, epoch) if curriculum is not None else None
        if curriculum is not None and difficulty_Q is not None and curriculum.over == "epochs":
            assert curriculum.start_share is not None
            share = curriculum.start_share + (1.0 - curriculum.start_share) * epoch / curriculum.epochs
            admitted[np.lexsort((self._tie_Q, difficulty_Q))[_count(share, len(self)) :]] = False
        times = admitted.astype(np.int64)
        if disagreement is not None and disagreement.of == "queries" and epoch >= disagreement.from_epoch:
            times[admitted] = self._times(np.flatnonzero(admitted), disagreement, epoch)
        groups = np.repeat(np.arange(len(self)), times)
        # The order that an epoch has without mining, where every group stands once.
        order = groups[np.random.default_rng(stable_seed(self._seed, "order", epoch)).permutation(len(groups))]
        if curriculum is not None and difficulty_Q is not None and curriculum.over == "steps":
            order = order[np.argsort(difficulty_Q[order], kind="stable")]
        return order

    # --- once -----------------------------------------------------------------------------------------------------

    def _flatten(self) -> tuple[Rows, Rows]:
        """The rows of all groups that the teacher has scored, and the group of each."""
        sizes = [len(rows) for _, rows in self._groups]
        rows = np.concatenate([rows for _, rows in self._groups])
        groups = np.repeat(np.arange(len(self._groups)), sizes)
        taught = self._taught[rows]
        return rows[taught], groups[taught]

    def _keep_queries(self, choice: QueryChoice) -> None:
        rows, groups = self._flatten()
        measure = query_margins if choice.by == "margin" else entropy_shares
        certainty_Q = measure(self._scores[rows], groups, len(self._groups))
        if choice.by == "entropy":
            certainty_Q = -certainty_Q
        known = np.flatnonzero(~np.isnan(certainty_Q))
        if len(known) == 0:
            raise ValueError("mining.queries compares the teacher's scores of a query, and no query has two")
        ties = _hashes([self._groups[at][0] for at in known.tolist()], self._seed, "queries")
        best_first = known[np.lexsort((ties, -certainty_Q[known] if choice.keep == "certain" else certainty_Q[known]))]
        num_kept = _count(choice.share, len(known))
        stays = np.ones(len(self._groups), dtype=bool)
        stays[best_first[num_kept:]] = False
        before = len(self._groups)
        self._groups = [group for group, kept in zip(self._groups, stays, strict=True) if kept]
        self.facts["queries"] = f"{len(self._groups):,} of {before:,}, the most {choice.keep} by {choice.by}"

    def _keep_documents(self, choice: DocumentChoice) -> None:
        flat, groups = self._flatten()
        margins_N = np.full(len(self._scores), np.nan)
        margins_N[flat] = document_margins(self._scores[flat], groups)
        before = sum(len(rows) for _, rows in self._groups)
        kept = []
        for query_id, rows in self._groups:
            scored = rows[self._taught[rows]]
            ties = np.random.default_rng(stable_seed(self._seed, "documents", query_id)).permutation(len(scored))
            margins = margins_N[scored]
            best_first = scored[np.lexsort((ties, -margins if choice.keep == "certain" else margins))]
            out = best_first[max(2, _count(choice.share, len(scored))) :]
            kept.append((query_id, rows[~np.isin(rows, out)]))
        self._groups = kept
        num_kept = sum(len(rows) for _, rows in kept)
        self.facts["documents"] = f"{num_kept:,} of {before:,}, the most {choice.keep} of each query by margin"

    def _by_margin(self) -> Floats:
        """[Q] how hard the teacher finds a query; where it cannot say, the middle."""
        rows, groups = self._flat
        margins_Q = query_margins(self._scores[rows], groups, len(self))
        known = ~np.isnan(margins_Q)
        if not known.any():
            raise ValueError("mining.curriculum compares the teacher's scores of a query, and no query has two")
        return -np.where(known, margins_Q, np.median(margins_Q[known]))

    def _describe(self) -> None:
        mining = self._mining
        sizes = np.array([len(rows) for _, rows in self._groups])
        larger = int((sizes > self._docs_per_query).sum())
        if mining.mix is not None:
            mix = mining.mix
            self.facts["mix"] = (
                f"{mix.top} of the top, {mix.middle} of the middle third, {mix.random} of the rest; "
                f"{len(sizes) - larger:,} of {len(sizes):,} queries have no more than {mix.total} and are taken whole"
            )
        if mining.disagreement is not None:
            if mining.disagreement.of == "documents" and larger == 0:
                raise ValueError(
                    "mining.disagreement of documents draws docs_per_query of a larger group, and no query has more "
                    f"than {self._docs_per_query} documents: lower docs_per_query, or take disagreement of queries"
                )
            self.facts["drawn"] = (
                f"{mining.disagreement.of} by disagreement of student and teacher from epoch "
                f"{mining.disagreement.from_epoch} on, {mining.disagreement.even_share:.0%} evenly"
            )
        if mining.curriculum is not None:
            one = mining.curriculum
            first = f", {_count(one.start_share, len(self)):,} of {len(self):,} first" if one.start_share else ""
            self.facts["curriculum"] = f"easy first by {one.by} over the {one.over} of {one.epochs} epochs{first}"

    # --- every epoch ----------------------------------------------------------------------------------------------

    def _at(self, epoch: int) -> _Epoch:
        if self._epoch is None or self._epoch.number != epoch:
            self._epoch = self._open(epoch)
        return self._epoch

    def _open(self, epoch: int) -> _Epoch:
        if not self._mining.needs_student(epoch):
            return _Epoch(epoch, None, None)
        assert self._student is not None
        rows, groups = self._flat
        student, teacher = (_standardise(one) for one in (self._student(epoch, rows), self._scores[rows]))
        differences = np.abs(centred(student, groups, len(self)) - centred(teacher, groups, len(self)))
        sizes = np.bincount(groups, minlength=len(self))
        disagreement_Q = np.bincount(groups, differences, len(self)) / np.maximum(sizes, 1)
        disagreement_Q[sizes < 2] = np.median(disagreement_Q[sizes >= 2])
        drawn = self._mining.disagreement
        if drawn is None or drawn.of == "queries" or epoch < drawn.from_epoch:
            return _Epoch(epoch, None, disagreement_Q)
        differences_N = np.full(len(self._scores), np.nan)
        differences_N[rows] = differences
        weights_N = np.zeros(len(self._scores))
        for _, own in self._groups:
            values = differences_N[own]
            # A document that the teacher has not scored is as likely as the mean of its group.
            values = np.where(np.isnan(values), np.nanmean(values) if not np.isnan(values).all() else 0.0, values)
            weights_N[own] = _probabilities(values, drawn.even_share)
        return _Epoch(epoch, weights_N, disagreement_Q)

    def _difficulty(self, curriculum: Curriculum, epoch: int) -> Floats | None:
        """[Q] larger is harder; None once the curriculum is over."""
        if epoch >= curriculum.epochs:
            return None
        return self._difficulty_Q if curriculum.by == "margin" else self._at(epoch).disagreement_Q

    def _times(self, groups: Rows, drawn: Disagreement, epoch: int) -> Rows:
        """How often each of these groups stands in an epoch: its expected number rounded up or down by chance."""
        disagreement_Q = self._at(epoch).disagreement_Q
        assert disagreement_Q is not None
        expected = len(groups) * _probabilities(disagreement_Q[groups], drawn.even_share)
        chances = _hashes([self._groups[at][0] for at in groups.tolist()], self._seed, "times", epoch) / 2**64
        times: Rows = np.floor(expected + chances).astype(np.int64)
        return times


def _hashes(query_ids: Sequence[str], *seeds: object) -> NDArray[np.uint64]:
    """A random number for each query_id, the same wherever the query stands."""
    return np.array([stable_seed(*seeds, query_id) for query_id in query_ids], dtype=np.uint64)


def _standardise(scores: NDArray[np.float32]) -> Floats:
    """Scores with mean 0 and standard deviation 1; of a student with one score for all pairs, zeros."""
    centre, spread = scores.mean(dtype=np.float64), scores.std(dtype=np.float64)
    return (scores - centre) / (spread if spread > 0.0 else 1.0)


def _probabilities(values: Floats, even_share: float) -> Floats:
    """Probabilities in proportion to values of 0 or more, but for a share that is spread evenly."""
    total = values.sum()
    if total == 0.0:
        return np.full(len(values), 1.0 / len(values))
    return (1.0 - even_share) * values / total + even_share / len(values)


def _count(share: float, number: int) -> int:
    """A share of a number, rounded up; what is a whole number but for rounding stays one."""
    return min(number, math.ceil(share * number - 1e-9))


def _draw(random: np.random.Generator, rows: Rows, count: int, weights_N: Floats | None = None) -> Rows:
    if len(rows) <= count:
        return rows
    if weights_N is None:
        return random.choice(rows, count, replace=False)
    weights = weights_N[rows]
    return random.choice(rows, count, replace=False, p=weights / weights.sum())
