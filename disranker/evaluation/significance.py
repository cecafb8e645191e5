"""Is one ranker really better: paired tests, interval, effect size, wins and losses, Good / Same / Bad, over queries.

For a mean measure (nDCG, RR, ...) the statistic is the mean of the per-query differences; for a pooled PNR it is the
difference of the pooled ratios.  The randomisation test and the interval hold for both (`resampling.py`); the paired
t-test and Cohen's d_z need one number a query whose mean is the statistic, so a pooled PNR has none.  Where many
comparisons are made, read `p_holm`: some small p-values come by chance.

Smucker, Allan, Carterette (CIKM 2007), https://dl.acm.org/doi/10.1145/1321440.1321528, on the two tests;
Holm (Scandinavian Journal of Statistics 6, 1979) on many comparisons; Cohen (1988), section 2.3.5, on d_z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr

from disranker.evaluation.measures import Measured, measure_name
from disranker.evaluation.pnr_measure import tie_rule_of
from disranker.evaluation.resampling import (
    ROUNDING,
    Floats,
    aggregate,
    bootstrap,
    exchange_test,
    query_table,
    resampled,
    subtract,
)

GSB_THRESHOLD = 0.05
"""Difference of a query's measure from which on it is good or bad."""

_NAMED_QUERIES = 3  # that an error message lists


@dataclass(frozen=True, slots=True)
class GoodSameBad:
    """Queries by whether the change is worth noticing, as search teams report judgments of two pages side by side."""

    threshold: float
    """A query is good from a difference of +threshold on, bad from -threshold on; of a pooled PNR the difference is
    that of the shares of pairs in the right order."""
    good: int
    same: int
    bad: int
    figure: float
    """(good - bad) / (good + same + bad), in [-1, 1]."""


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
    p_holm: float | None = None
    """`p_value` corrected over all comparisons by this measure (Holm); None until `correct_holm` has seen them."""
    t_statistic: float | None = None
    """Of the paired t-test; None for a pooled PNR, which is no mean over queries, and with fewer than two queries;
    infinite where all queries differ alike."""
    t_p_value: float | None = None
    """Two-sided; None as `t_statistic`."""
    effect_size: float | None = None
    """Cohen's d_z: mean of the per-query differences / their standard deviation; None and infinite as `t_statistic`."""
    good_same_bad: GoodSameBad | None = None
    """Filled by `compare`."""


def compare(
    a: Measured,
    b: Measured,
    measure: str,
    names: tuple[str, str] = ("a", "b"),
    samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    gsb_threshold: float = GSB_THRESHOLD,
) -> Comparison:
    """Compares two measured systems on one measure.

    The randomisation test is exact (every exchange) when few queries differ; otherwise it draws `samples` exchanges.
    Where PNR has no discordant pair the difference may be infinite, and is 0 between two infinite ones.

    Raises ValueError when the systems were measured on different queries or lack the measure, and for a threshold
    that is not above 0.
    """
    name = measure_name(measure)
    queries = common_queries(a, b, name, names)
    table_a, table_b = query_table(a, name, queries), query_table(b, name, queries)
    differences = query_differences(a, b, name, queries)
    t_statistic = t_p_value = effect_size = None
    if not is_pooled(name):
        # Rounding must not make a difference where there is none; pair counts are exact.
        equal = (differences == 0) & (table_a[:, 1] == table_b[:, 1])
        table_b[equal] = table_a[equal]
        t_statistic, t_p_value, effect_size = _paired_t(table_a, table_b)
    return Comparison(
        a=names[0],
        b=names[1],
        measure=name,
        delta=float(subtract(np.array(aggregate(table_a)), np.array(aggregate(table_b)))),
        p_value=exchange_test(table_a, table_b, samples, seed),
        interval=bootstrap(
            lambda weights: subtract(resampled(table_a, weights), resampled(table_b, weights)),
            len(queries),
            samples,
            seed,
            confidence,
        ),
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
        num_queries=len(queries),
        confidence=confidence,
        t_statistic=t_statistic,
        t_p_value=t_p_value,
        effect_size=effect_size,
        good_same_bad=_good_same_bad(differences, gsb_threshold),
    )


def correct_holm(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons in their order with `p_holm` filled in; all those by one measure are one family."""
    corrected = list(comparisons)
    for measure in {comparison.measure for comparison in comparisons}:
        places = [place for place, comparison in enumerate(comparisons) if comparison.measure == measure]
        for place, p_holm in zip(places, holm([comparisons[place].p_value for place in places]), strict=True):
            corrected[place] = replace(corrected[place], p_holm=p_holm)
    return tuple(corrected)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    The k-th smallest of m, k from 0, is multiplied by m - k, never falls below the one before it and is at most 1; to
    reject those at most alpha keeps the chance of any false rejection at alpha, however the tests depend on each other.
    Raises ValueError for a value outside [0, 1].
    """
    wrong = [value for value in p_values if not 0 <= value <= 1]
    if wrong:
        raise ValueError(f"{len(wrong)} p-values are not in [0, 1], first {wrong[0]}")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def measure_interval(
    measured: Measured, measure: str, samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Bootstrap percentile interval over queries of one system's aggregate; ValueError when it lacks the measure."""
    name = measure_name(measure)
    queries = common_queries(measured, measured, name, ("the system", "the system"))
    table = query_table(measured, name, queries)
    return bootstrap(lambda weights: resampled(table, weights), len(queries), samples, seed, confidence)


def common_queries(a: Measured, b: Measured, measure: str, names: tuple[str, str]) -> list[str]:
    """The queries that both systems were measured on, sorted; `measure` is the name as ir-measures writes it.

    Raises ValueError when a system lacks the measure or the two have different queries, naming the first.
    """
    for name, measured in zip(names, (a, b), strict=True):
        if measure not in measured.per_query:
            raise ValueError(f"{name} was not measured by {measure}; it has {', '.join(measured.per_query)}")
    queries_a, queries_b = a.per_query[measure].keys(), b.per_query[measure].keys()
    if queries_a != queries_b:
        alone = sorted(queries_a ^ queries_b)
        raise ValueError(
            f"{names[0]} and {names[1]} were measured on different queries: {len(alone)} are in one only, "
            f"first {', '.join(map(repr, alone[:_NAMED_QUERIES]))}; measure both on the same judgments"
        )
    return sorted(queries_a)


def is_pooled(measure: str) -> bool:
    """Whether a measure's aggregate pools pairs over queries, as PNR does, and is no mean of per-query values."""
    return tie_rule_of(measure) is not None


def query_values(measured: Measured, measure: str, queries: Sequence[str]) -> Floats:
    """One number a query, [Q]: the measure, or of a pooled PNR the share of pairs in the right order; nan without."""
    if not is_pooled(measure):
        return np.array([measured.per_query[measure][query] for query in queries], dtype=np.float64)
    table = query_table(measured, measure, queries)
    with np.errstate(invalid="ignore"):
        return np.asarray(table[:, 0] / table.sum(axis=1))


def query_differences(a: Measured, b: Measured, measure: str, queries: Sequence[str]) -> Floats:
    """`query_values` of a minus b, [Q]; 0 where rounding alone differs, and where a system has no value."""
    differences = subtract(query_values(a, measure, queries), query_values(b, measure, queries))
    differences[np.isnan(differences) | (np.abs(differences) <= ROUNDING)] = 0.0
    return differences


def _paired_t(table_a: Floats, table_b: Floats) -> tuple[float | None, float | None, float | None]:
    """t, p, d_z over the queries where both systems have a value."""
    both = (table_a[:, 1] > 0) & (table_b[:, 1] > 0)
    differences = (table_a - table_b)[both, 0]
    count = len(differences)
    if count < 2:
        return None, None, None
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    if deviation <= ROUNDING:
        if abs(mean) <= ROUNDING:
            return 0.0, 1.0, 0.0
        return math.copysign(math.inf, mean), 0.0, math.copysign(math.inf, mean)
    t_statistic = mean / deviation * math.sqrt(count)
    return t_statistic, 2 * float(stdtr(count - 1, -abs(t_statistic))), mean / deviation


def _good_same_bad(differences: Floats, threshold: float) -> GoodSameBad:
    if not threshold > 0:
        raise ValueError(f"gsb_threshold={threshold} must be above 0: from this difference on a query is good or bad")
    good = int((differences >= threshold - ROUNDING).sum())
    bad = int((differences <= -threshold + ROUNDING).sum())
    return GoodSameBad(threshold, good, len(differences) - good - bad, bad, (good - bad) / len(differences))
