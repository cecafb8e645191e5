"""Is one ranker really better: paired randomisation test, bootstrap interval, wins and losses, all over queries.

The query is the unit: documents of one query are not independent.  For a mean measure (nDCG, RR, ...) the statistic is
the mean of the per-query differences; for PNR it is the difference of the pooled ratios, resampled by query through
the pair counts.  Numpy only.  p-values are for one comparison; who makes many should expect some small ones by chance.

Smucker, Allan, Carterette (CIKM 2007), https://dl.acm.org/doi/10.1145/1321440.1321528, on why randomisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from disranker.evaluation.measures import Measured, measure_name
from disranker.evaluation.pairs import TieRule
from disranker.evaluation.pnr_measure import tie_rule_of

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Weights [S, Q] of the queries in S samples -> the statistic in each sample, [S]."""

EXACT_QUERIES = 12
"""Up to so many differing queries all 2^n sign flips are tried."""
_ROUNDING = 1e-12  # relative; sums in another order must not make an equal statistic look smaller
_BLOCK_CELLS = 2_000_000  # samples x queries held at once, 16 MB


@dataclass(frozen=True, slots=True)
class Comparison:
    """System `a` against system `b` on the same queries; `delta` is a minus b."""

    a: str
    b: str
    measure: str
    delta: float
    p_value: float
    """Two-sided: how often random exchange of the two systems' queries gives a difference at least as large."""
    interval: tuple[float, float]
    """Bootstrap percentile interval of `delta`."""
    wins: int
    """Queries where `a` is better."""
    ties: int
    losses: int
    num_queries: int
    confidence: float = 0.95


def compare(
    a: Measured,
    b: Measured,
    measure: str,
    names: tuple[str, str] = ("a", "b"),
    samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """Compares two measured systems on one measure.

    The randomisation test is exact (every exchange) when at most `EXACT_QUERIES` queries differ; otherwise it draws
    `samples` exchanges and p = (b + 1) / (samples + 1).  Where PNR has no discordant pair the difference may be
    infinite, and is 0 between two infinite ones.

    Raises ValueError when the systems were measured on different queries or lack the measure.
    """
    name = measure_name(measure)
    queries = _common_queries(a, b, name, names)
    ties = tie_rule_of(name)
    if ties is not None:
        pairs_a, pairs_b = _pair_table(a, queries, ties), _pair_table(b, queries, ties)
        return _compare_ratios(pairs_a, pairs_b, name, names, samples, seed, confidence)
    values_a = np.array([a.per_query[name][query] for query in queries])
    values_b = np.array([b.per_query[name][query] for query in queries])
    differences = values_a - values_b
    equal = np.abs(differences) <= _ROUNDING
    differences[equal] = 0.0
    return Comparison(
        a=names[0],
        b=names[1],
        measure=name,
        delta=float(differences.mean()),
        p_value=randomisation_test(differences, samples=samples, seed=seed),
        interval=bootstrap_interval(differences, samples=samples, seed=seed, confidence=confidence),
        wins=int((differences > 0).sum()),
        ties=int(equal.sum()),
        losses=int((differences < 0).sum()),
        num_queries=len(queries),
        confidence=confidence,
    )


def measure_interval(
    measured: Measured, measure: str, samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Bootstrap percentile interval over queries of one system's aggregate; ValueError when it lacks the measure."""
    name = measure_name(measure)
    queries = _common_queries(measured, measured, name, ("the system", "the system"))
    ties = tie_rule_of(name)
    if ties is None:
        values = np.array([measured.per_query[name][query] for query in queries])
        return bootstrap_interval(values, samples=samples, seed=seed, confidence=confidence)
    pairs = _pair_table(measured, queries, ties)
    return _interval(lambda weights: _ratio(weights @ pairs), len(queries), samples, seed, confidence)


def randomisation_test(differences: Floats, samples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the mean of paired `differences` [Q] under random sign flips; 1 when nothing differs."""
    moved = differences[differences != 0]  # a flip of 0 changes nothing, so zeros neither help nor hurt
    return _flip_test(lambda flips: (1 - 2 * flips) @ moved, len(moved), samples, seed)


def bootstrap_interval(
    values: Floats, samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean of `values` [Q], by resampling queries; ValueError for no values."""
    return _interval(lambda weights: weights @ values / len(values), len(values), samples, seed, confidence)


def _compare_ratios(
    pairs_a: Floats,
    pairs_b: Floats,
    measure: str,
    names: tuple[str, str],
    samples: int,
    seed: int,
    confidence: float,
) -> Comparison:
    """`pairs_a` and `pairs_b` are [Q, 2]: concordant, discordant after the tie rule."""
    moved = (pairs_a != pairs_b).any(axis=1)
    change = (pairs_b - pairs_a)[moved]
    total_a, total_b = pairs_a.sum(axis=0), pairs_b.sum(axis=0)

    def exchanged(flips: Floats) -> Floats:
        shift = flips @ change
        return _difference(_ratio(total_a + shift), _ratio(total_b - shift))

    def resampled(weights: Floats) -> Floats:
        return _difference(_ratio(weights @ pairs_a), _ratio(weights @ pairs_b))

    # A query's share of concordant pairs, compared without a division: exact, and defined where PNR is infinite.
    left = pairs_a[:, 0] * pairs_b.sum(axis=1)
    right = pairs_b[:, 0] * pairs_a.sum(axis=1)
    return Comparison(
        a=names[0],
        b=names[1],
        measure=measure,
        delta=float(resampled(np.ones((1, len(pairs_a))))[0]),
        p_value=_flip_test(exchanged, int(moved.sum()), samples, seed),
        interval=_interval(resampled, len(pairs_a), samples, seed, confidence),
        wins=int((left > right).sum()),
        ties=int((left == right).sum()),
        losses=int((left < right).sum()),
        num_queries=len(pairs_a),
        confidence=confidence,
    )


def _flip_test(statistic: Statistic, num_moved: int, samples: int, seed: int) -> float:
    """`statistic` takes flips [S, n] of 0 and 1 over the n queries that differ; all 0 is what was observed."""
    if num_moved == 0:
        return 1.0
    observed = abs(float(statistic(np.zeros((1, num_moved)))[0]))
    threshold = observed * (1 - _ROUNDING) if math.isfinite(observed) else observed
    if num_moved <= EXACT_QUERIES:
        flips = np.array(list(product((0.0, 1.0), repeat=num_moved)))
        return float((np.abs(statistic(flips)) >= threshold).mean())
    rng = np.random.default_rng(seed)
    reached = 0
    for size in _blocks(samples, num_moved):
        flips = rng.integers(0, 2, size=(size, num_moved), dtype=np.uint8).astype(np.float64)
        reached += int((np.abs(statistic(flips)) >= threshold).sum())
    return (reached + 1) / (samples + 1)


def _interval(
    statistic: Statistic, num_queries: int, samples: int, seed: int, confidence: float
) -> tuple[float, float]:
    if num_queries == 0:
        raise ValueError("an interval needs at least one query")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1")
    rng = np.random.default_rng(seed)
    found = []
    for size in _blocks(samples, num_queries):
        drawn = rng.integers(0, num_queries, size=(size, num_queries))
        drawn += num_queries * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * num_queries).reshape(size, num_queries)
        found.append(statistic(weights.astype(np.float64)))
    values = np.concatenate(found)
    values = values[~np.isnan(values)]  # a sample of queries without any pair has no PNR
    if not values.size:
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    # An observed value, not a blend of two: between two infinite values there is no middle.
    low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def _blocks(samples: int, num_queries: int) -> Iterator[int]:
    if samples < 1:
        raise ValueError(f"samples={samples} must be at least 1")
    block = max(1, _BLOCK_CELLS // num_queries)
    for start in range(0, samples, block):
        yield min(block, samples - start)


def _ratio(counts: Floats) -> Floats:
    """[S, 2] concordant, discordant -> [S] PNR; inf without discordant, nan without both."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(counts[:, 0] / counts[:, 1])


def _difference(left: Floats, right: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.where(left == right, 0.0, left - right)  # inf - inf: both perfect, no difference


def _pair_table(measured: Measured, queries: list[str], ties: TieRule) -> Floats:
    return np.array([measured.pairs[query].split(ties) for query in queries])


def _common_queries(a: Measured, b: Measured, measure: str, names: tuple[str, str]) -> list[str]:
    for name, measured in zip(names, (a, b), strict=True):
        if measure not in measured.per_query:
            raise ValueError(f"{name} was not measured by {measure}; it has {', '.join(measured.per_query)}")
    queries_a, queries_b = a.per_query[measure].keys(), b.per_query[measure].keys()
    if queries_a != queries_b:
        alone = sorted(queries_a ^ queries_b)
        raise ValueError(
            f"{names[0]} and {names[1]} were measured on different queries: {len(alone)} are in one only, "
            f"first {', '.join(map(repr, alone[:3]))}; measure both on the same judgments"
        )
    return sorted(queries_a)
