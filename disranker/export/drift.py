"""Drift: what an exported variant changes of the scores, of the ranking and of the speed, beside the bundle in torch.

The gate of an export.  A variant in float32 computes the same numbers in another order, so its scores must be the same
but for rounding; any other may move them, so long as the ranking stays as good.  What is measured here says nothing of
other software: that each export proves with its golden pairs.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from disranker.evaluation.correlation import spearman_rho
from disranker.evaluation.measures import Measured, group_labels, group_scores, measure_run
from disranker.evaluation.significance import compare
from disranker.schema import Judgment, Pair

MEASURES = ("nDCG@10", "PNR")
MAX_NDCG_LOSS = 0.002
"""Loss of nDCG@10 up to which a variant of another type is good enough."""
THREADS = (1, 2)
"""Threads at which speed is measured."""

_SAMPLES = 2000
_TIMED_PAIRS = 100
_WARM_UP_PAIRS = 8
_ROUNDS = 3


class PairScorer(Protocol):
    """Whatever scores pairs: a bundle, an exported file."""

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Change:
    """A measure with the variant's scores beside the same measure with the bundle's; None where it is not finite."""

    bundle: float | None
    variant: float | None
    delta: float | None
    """variant - bundle."""
    interval: tuple[float | None, float | None]
    """Of `delta`, 95%, bootstrap over queries."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How a variant's scores differ from the bundle's on the same judged pairs; differences are absolute."""

    num_pairs: int
    num_queries: int
    max_difference: float
    mean_difference: float
    worst_pair: tuple[str, str]
    """query_id and doc_id of the largest difference."""
    score_std: float
    """Standard deviation of the bundle's scores, against which a difference is large or small."""
    spearman: float | None
    """Spearman's rho of the two within each query, mean over queries; None where no query has two different scores."""
    spearman_least: float | None
    """Of the query that changed most."""
    changes: dict[str, Change]
    """nDCG@10 and PNR."""

    def __str__(self) -> str:
        spearman = (
            "none (all scores equal)"
            if self.spearman is None
            else f"{self.spearman:.6f} (least {self.spearman_least:.6f})"
        )
        changes = "".join(f", {measure} {_shown(change)}" for measure, change in self.changes.items())
        return (
            f"largest difference {self.max_difference:.2e} ({' '.join(self.worst_pair)}), "
            f"mean {self.mean_difference:.2e}, std of the scores {self.score_std:.3g}, "
            f"Spearman in a query {spearman}{changes}"
        )


class DriftError(ValueError):
    """A variant beyond the limit; `drift` has the figures."""

    def __init__(self, name: str, fault: str, drift: Drift) -> None:
        super().__init__(
            f"{name} does not score as the bundle: {fault}; on {drift.num_pairs:,} pairs of {drift.num_queries:,} "
            f"queries: {drift}; nothing was written; --accept_drift writes it all the same"
        )
        self.drift = drift


def measure_drift(
    judgments: Sequence[Judgment], bundle_scores: NDArray[np.float32], scores: NDArray[np.float32]
) -> Drift:
    """Compare a variant's scores [N] with the bundle's [N], both of the pairs of `judgments` in their order.

    Raises:
        ValueError: there are no pairs, a score is not finite, or a document is judged twice for a query.
    """
    if not judgments:
        raise ValueError("drift needs at least one judged pair; give a file that has some")
    for name, values in (("bundle", bundle_scores), ("export", scores)):
        if not np.isfinite(values).all():
            at = int(np.flatnonzero(~np.isfinite(values))[0])
            # A NaN is larger than no limit, so it would pass.
            raise ValueError(f"the {name} gives pair {at} the score {values[at]}: {judgments[at].pair}")
    left, right = bundle_scores.astype(np.float64), scores.astype(np.float64)
    difference = np.abs(left - right)
    worst = judgments[int(difference.argmax())]
    rho = _spearman_by_query(judgments, left, right)
    return Drift(
        num_pairs=len(judgments),
        num_queries=len({judgment.query_id for judgment in judgments}),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        worst_pair=(worst.query_id, worst.doc_id),
        score_std=float(left.std()),
        spearman=float(rho.mean()) if len(rho) else None,
        spearman_least=float(rho.min()) if len(rho) else None,
        changes=_changes(_measured(judgments, left), _measured(judgments, right)),
    )


def find_fault(drift: Drift, *, precision: str, max_difference: float, max_ndcg_loss: float) -> str | None:
    """Why a variant is beyond its limit, or None: scores for float32, nDCG@10 for every other type."""
    if precision == "float32":
        if drift.max_difference <= max_difference:
            return None
        return f"its scores differ by up to {drift.max_difference:.2e}, more than {max_difference:g}"
    delta = drift.changes["nDCG@10"].delta
    if delta is not None and -delta <= max_ndcg_loss:
        return None
    return f"it changes nDCG@10 by {_signed(delta)}, and a loss of {max_ndcg_loss:g} is allowed"


def first_queries(judgments: Sequence[Judgment], max_pairs: int) -> list[Judgment]:
    """The judgments of the first queries, as many as have `max_pairs` pairs together, one at least; in their order."""
    sizes: dict[str, int] = {}
    for judgment in judgments:
        sizes[judgment.query_id] = sizes.get(judgment.query_id, 0) + 1
    kept: set[str] = set()
    num_pairs = 0
    for query_id, size in sizes.items():
        if kept and num_pairs + size > max_pairs:
            break
        kept.add(query_id)
        num_pairs += size
    return [judgment for judgment in judgments if judgment.query_id in kept]


def measure_speeds(
    loaders: Mapping[str, Callable[[], PairScorer]], pairs: Sequence[Pair]
) -> dict[str, dict[str, float]]:
    """Name -> threads -> pairs a second, encoding included: the median of three rounds in which all take their turn.

    A round is a request of up to 100 pairs of all lengths; a loader opens a scorer with as many threads as torch has.
    """
    timed = _of_all_lengths(pairs)
    speeds: dict[str, dict[str, float]] = {name: {} for name in loaders}
    for threads in THREADS:
        with torch_threads(threads):
            scorers = {name: load() for name, load in loaders.items()}
            seconds: dict[str, list[float]] = {name: [] for name in loaders}
            for scorer in scorers.values():
                scorer.score(timed[-_WARM_UP_PAIRS:])
            for _ in range(_ROUNDS):
                for name, scorer in scorers.items():
                    began = time.perf_counter()
                    scorer.score(timed)
                    seconds[name].append(time.perf_counter() - began)
        for name, taken in seconds.items():
            speeds[name][str(threads)] = len(timed) / statistics.median(taken)
    return speeds


def _of_all_lengths(pairs: Sequence[Pair]) -> list[Pair]:
    by_length = sorted(pairs, key=lambda pair: sum(map(len, pair)))
    at = np.linspace(0, len(by_length) - 1, min(_TIMED_PAIRS, len(by_length))).round().astype(int)
    return [by_length[index] for index in at.tolist()]


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """So many threads for torch, and for sessions that are opened meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measured(judgments: Sequence[Judgment], scores: NDArray[np.float64]) -> Measured:
    query_ids, doc_ids = [one.query_id for one in judgments], [one.doc_id for one in judgments]
    return measure_run(group_labels(judgments), group_scores(query_ids, doc_ids, scores), MEASURES)


def _changes(bundle: Measured, variant: Measured) -> dict[str, Change]:
    changes = {}
    for measure in MEASURES:
        compared = compare(variant, bundle, measure, ("the export", "the bundle"), samples=_SAMPLES)
        low, high = compared.interval
        changes[measure] = Change(
            bundle=_finite(bundle.aggregate[measure]),
            variant=_finite(variant.aggregate[measure]),
            delta=_finite(compared.delta),
            interval=(_finite(low), _finite(high)),
        )
    return changes


def _spearman_by_query(
    judgments: Sequence[Judgment], left: NDArray[np.float64], right: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Spearman's rho within each query that has two different scores on both sides."""
    rows: dict[str, list[int]] = {}
    for row, judgment in enumerate(judgments):
        rows.setdefault(judgment.query_id, []).append(row)
    order = np.concatenate([np.array(at) for at in rows.values()])
    rho = spearman_rho(np.array([len(at) for at in rows.values()]), left[order], right[order])
    return rho[~np.isnan(rho)]


def _finite(value: float) -> float | None:
    # JSON has no infinity: PNR has one where no pair stands in the wrong order.
    return value if math.isfinite(value) else None


def _signed(value: float | None) -> str:
    return "infinitely" if value is None else f"{value:+.4f}"


def _shown(change: Change) -> str:
    low, high = change.interval
    return f"{_signed(change.delta)} [{_signed(low)}, {_signed(high)}]"
