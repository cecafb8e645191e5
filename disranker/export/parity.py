"""Parity: two scorers, the same pairs, how far apart their scores are.

An export is only written when it scores as the bundle does; this is the comparison that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from disranker.schema import Pair


class PairScorer(Protocol):
    """Whatever scores pairs: a bundle, an export."""

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Parity:
    """How two scorers agree on the same pairs; differences are absolute, in units of the score."""

    num_pairs: int
    max_difference: float
    mean_difference: float
    spearman: float | None
    """Rank correlation of the scores; None where one side gives every pair the same score."""
    score_std: float
    """Standard deviation of the first scorer's scores, against which a difference is large or small."""
    worst_pair: int
    """Index of the pair with the largest difference."""

    def __str__(self) -> str:
        spearman = "none (all scores equal)" if self.spearman is None else f"{self.spearman:.6f}"
        return (
            f"{self.num_pairs:,} pairs, largest difference {self.max_difference:.2e} (pair {self.worst_pair}), "
            f"mean {self.mean_difference:.2e}, Spearman {spearman}, std of the scores {self.score_std:.3g}"
        )


class ParityError(ValueError):
    """An export that does not score as its bundle; `parity` has the figures."""

    def __init__(self, parity: Parity, max_difference: float) -> None:
        super().__init__(
            f"the export does not score as the bundle, within {max_difference:g}: {parity}; nothing was written"
        )
        self.parity = parity


def check_parity(scorer_a: PairScorer, scorer_b: PairScorer, pairs: Sequence[Pair]) -> Parity:
    """Score `pairs` with both and compare; `scorer_a` is the one that is held to be right.

    Raises:
        ValueError: there are no pairs, or a score is not finite.
    """
    if not pairs:
        raise ValueError("a parity check needs at least one pair; give it a file of judged pairs that has some")
    scores_a = np.asarray(scorer_a.score(pairs), dtype=np.float64)
    scores_b = np.asarray(scorer_b.score(pairs), dtype=np.float64)
    for name, scores in (("first", scores_a), ("second", scores_b)):
        if not np.isfinite(scores).all():
            at = int(np.flatnonzero(~np.isfinite(scores))[0])
            # A NaN is larger than no limit, so it would pass.
            raise ValueError(f"the {name} scorer gives pair {at} the score {scores[at]}: {pairs[at]}")
    difference = np.abs(scores_a - scores_b)
    return Parity(
        num_pairs=len(pairs),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        spearman=_spearman(scores_a, scores_b),
        score_std=float(scores_a.std()),
        worst_pair=int(difference.argmax()),
    )


def _spearman(scores_a: NDArray[np.float64], scores_b: NDArray[np.float64]) -> float | None:
    from scipy.stats import spearmanr

    if np.ptp(scores_a) == 0.0 or np.ptp(scores_b) == 0.0:
        return None
    return float(spearmanr(scores_a, scores_b).statistic)
