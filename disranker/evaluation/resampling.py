"""Resampling of queries: the randomisation test and the bootstrap, for means over queries and for pooled ratios alike.

Every aggregate here is a sum over queries divided by a sum over queries, so a system's queries are a table [Q, 2] of
numerators and denominators: (value, 1) for a mean, (concordant, discordant) for a pooled PNR.  The query is the unit,
because documents of one query are not independent.  What is compared with what is decided elsewhere.

Smucker, Allan, Carterette (CIKM 2007), https://dl.acm.org/doi/10.1145/1321440.1321528, on why randomisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from disranker.evaluation.measures import Measured
from disranker.evaluation.pnr_measure import tie_rule_of

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Weights [S, Q] of the queries in S samples -> the statistic in each sample, [S]."""

EXACT_QUERIES = 12
"""Up to so many differing queries all 2^n exchanges are tried."""
ROUNDING = 1e-12
"""Differences up to here are no differences: sums in another order must not make one."""
_BLOCK_CELLS = 2_000_000  # samples x queries held at once, 16 MB
_CACHED_CELLS = 8_000_000  # samples x queries kept for the next call, 64 MB


def query_table(measured: Measured, measure: str, queries: Sequence[str]) -> Floats:
    """What a measure's aggregate is made of, [Q, 2], by its name as ir-measures writes it.

    A query whose value is not finite is in neither sum, as in the measure's own mean.
    """
    ties = tie_rule_of(measure)
    if ties is not None:
        return np.array([measured.pairs[query].split(ties) for query in queries]).reshape(-1, 2)
    values = np.array([measured.per_query[measure][query] for query in queries], dtype=np.float64)
    finite = np.isfinite(values)
    return np.stack([np.where(finite, values, 0.0), finite.astype(np.float64)], axis=1)


def aggregate(table: Floats) -> float:
    """The aggregate of a table [Q, 2]; `inf` or `nan` where the denominators add up to 0."""
    return float(_divide(table.sum(axis=0, keepdims=True))[0])


def resampled(table: Floats, weights: Floats) -> Floats:
    """The aggregate of a table [Q, 2] in each of S samples, from the weights [S, Q] of the queries."""
    return _divide(weights @ table)


def subtract(left: Floats, right: Floats) -> Floats:
    """The difference left - right, where two equal infinities differ by 0."""
    with np.errstate(invalid="ignore"):
        return np.where(left == right, 0.0, left - right)  # inf - inf: both perfect


def exchange_test(table_a: Floats, table_b: Floats, samples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the difference of two aggregates, tables [Q, 2], under random exchange of the systems.

    Exact, by every exchange, when at most `EXACT_QUERIES` queries differ; otherwise `samples` exchanges are drawn and
    p = (b + 1) / (samples + 1).  1 when no query differs or the difference is nan.  ValueError for no samples.
    """
    moved = (table_a != table_b).any(axis=1)
    num_moved = int(moved.sum())
    change = (table_b - table_a)[moved]
    total_a, total_b = table_a.sum(axis=0), table_b.sum(axis=0)

    def exchanged(flips: Floats) -> Floats:
        shift = flips @ change
        return subtract(_divide(total_a + shift), _divide(total_b - shift))

    observed = abs(float(exchanged(np.zeros((1, num_moved)))[0]))
    if num_moved == 0 or math.isnan(observed):
        return 1.0
    threshold = observed
    if math.isfinite(observed):
        size = aggregate(np.abs(table_a)) + aggregate(np.abs(table_b))
        threshold -= ROUNDING * (size if math.isfinite(size) else observed)
    if num_moved <= EXACT_QUERIES:
        every = np.array(list(product((0.0, 1.0), repeat=num_moved)))
        return float((np.abs(exchanged(every)) >= threshold).mean())
    rng = np.random.default_rng(seed)
    reached = 0
    for size_of_block in _blocks(samples, num_moved):
        flips = rng.integers(0, 2, size=(size_of_block, num_moved), dtype=np.uint8).astype(np.float64)
        reached += int((np.abs(exchanged(flips)) >= threshold).sum())
    return (reached + 1) / (samples + 1)


def randomisation_test(differences: Floats, samples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the mean of paired `differences` [Q] under random sign flips; see `exchange_test`."""
    ones = np.ones(len(differences))
    # A query of difference d is d against 0; exchanging the two flips its sign.
    return exchange_test(np.stack([differences, ones], axis=1), np.stack([0 * ones, ones], axis=1), samples, seed)


def bootstrap(
    statistic: Statistic, num_queries: int, samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a statistic by drawing queries with replacement; samples where it is nan are left out.

    (nan, nan) when it is nan in every sample.  Raises ValueError for no queries, no samples or a confidence outside
    (0, 1).
    """
    if num_queries == 0:
        raise ValueError("an interval needs at least one query")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1")
    draw = _drawn_once if samples * num_queries <= _CACHED_CELLS else _drawn
    values = np.concatenate([statistic(weights) for weights in draw(num_queries, samples, seed)])
    values = values[~np.isnan(values)]  # a sample of queries without any pair has no PNR
    if not values.size:
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    # An observed value, not a blend of two: between two infinite values there is no middle.
    low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def bootstrap_interval(
    values: Floats, samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean of `values` [Q], by resampling queries; errors as `bootstrap`."""
    return bootstrap(lambda weights: weights @ values / len(values), len(values), samples, seed, confidence)


def _drawn(num_queries: int, samples: int, seed: int) -> Iterator[Floats]:
    """How often each query is drawn in each sample, [S, Q], block after block."""
    rng = np.random.default_rng(seed)
    for size in _blocks(samples, num_queries):
        drawn = rng.integers(0, num_queries, size=(size, num_queries))
        drawn += num_queries * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num_queries).reshape(size, num_queries)
        yield counts.astype(np.float64)


@lru_cache(maxsize=2)
def _drawn_once(num_queries: int, samples: int, seed: int) -> tuple[Floats, ...]:
    """The same, kept: a report asks for an interval of the same queries some two hundred times."""
    return tuple(_drawn(num_queries, samples, seed))


def _blocks(samples: int, num_queries: int) -> Iterator[int]:
    if samples < 1:
        raise ValueError(f"samples={samples} must be at least 1")
    block = max(1, _BLOCK_CELLS // num_queries)
    for start in range(0, samples, block):
        yield min(block, samples - start)


def _divide(sums: Floats) -> Floats:
    """[S, 2] -> [S]: inf for a denominator of 0, nan for 0 / 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])
