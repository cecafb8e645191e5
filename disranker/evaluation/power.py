"""Are there enough queries: how many would show a difference of some size, and which difference these can show.

A paired, two-sided t-test over queries is assumed; its power is exact for normal differences (noncentral t) and good
for others at the sizes of judged sets.  Plan with a difference that matters to the product: put the difference that
was just observed in, and the answer only repeats its p-value.

Cohen, Statistical Power Analysis for the Behavioral Sciences (1988); for retrieval Sakai, Information Retrieval
Journal 19 (2016), https://doi.org/10.1007/s10791-015-9273-z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr, stdtrit

from disranker.evaluation.measures import Measured, measure_name
from disranker.evaluation.resampling import ROUNDING, Floats, aggregate, query_table, subtract
from disranker.evaluation.significance import common_queries

_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(256)  # 1e-5 at its worst: two queries, alpha 1e-4
_SHARES, _WEIGHTS = (_NODES + 1) / 2, _NODE_WEIGHTS / 2


NO_DELTA = "a difference of 0: no number of queries shows it"
NO_SPREAD = "all queries differ alike: there is no spread to plan with"
NOT_FINITE = "the difference is not finite: there is no spread to plan with"
ONE_QUERY = "one query: there is no spread to plan with"


@dataclass(frozen=True, slots=True)
class PowerPlan:
    """What a set of queries can show of the difference of systems `a` and `b`; `delta` is a minus b."""

    a: str
    b: str
    measure: str
    num_queries: int
    delta: float
    """The difference to be seen: the observed one, unless another was given."""
    deviation: float | None
    """Standard deviation over queries of the paired differences; of a pooled PNR, of its linear approximation."""
    queries_needed: int | None
    """Queries that show `delta` in a share `power` of repetitions."""
    smallest_delta: float | None
    """The smallest difference, in size, that `num_queries` queries show in a share `power` of repetitions."""
    alpha: float
    power: float
    note: str = ""
    """Why figures above are None: `NO_DELTA`, `NO_SPREAD`, `NOT_FINITE` or `ONE_QUERY`; empty where none is."""


def plan_queries(
    a: Measured,
    b: Measured,
    measure: str,
    names: tuple[str, str] = ("a", "b"),
    delta: float | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
) -> PowerPlan:
    """How many queries would show the difference of two measured systems, or one of size `delta`.

    The spread over queries is that of the two systems on their common queries.  A pooled PNR is a ratio of sums; each
    query's influence on it takes the place of its difference (linearisation, as for any ratio estimator).

    What the queries cannot tell is None, and `note` says why.  Raises ValueError for different queries, no query, a
    missing measure, a `delta` that is not finite, and alpha or power outside their range.
    """
    name = measure_name(measure)
    queries = common_queries(a, b, name, names)
    if not queries:
        raise ValueError(f"{names[0]} and {names[1]} were measured on no query")
    if delta is not None and not math.isfinite(delta):
        raise ValueError(f"delta={delta} must be finite")
    _check(1.0, alpha, power)
    table_a, table_b = query_table(a, name, queries), query_table(b, name, queries)
    observed = float(subtract(np.array(aggregate(table_a)), np.array(aggregate(table_b))))
    wanted = observed if delta is None else delta
    plan = PowerPlan(*names, name, len(queries), wanted, None, None, None, alpha, power)
    if len(queries) == 1:
        return replace(plan, note=ONE_QUERY)
    if not (math.isfinite(aggregate(table_a)) and math.isfinite(aggregate(table_b))):
        return replace(plan, note=NOT_FINITE)
    deviation = float((_influence(table_a) - _influence(table_b)).std(ddof=1))
    if deviation <= ROUNDING:
        return replace(plan, deviation=0.0, note=NO_SPREAD)
    smallest = smallest_delta(deviation, len(queries), alpha, power)
    plan = replace(plan, deviation=deviation, smallest_delta=smallest)
    if abs(wanted) <= ROUNDING:
        return replace(plan, note=NO_DELTA)
    return replace(plan, queries_needed=queries_needed(wanted, deviation, alpha, power))


def paired_power(delta: float, deviation: float, num_queries: int, alpha: float = 0.05) -> float:
    """How often a two-sided paired t-test over `num_queries` finds p <= alpha, in [0, 1].

    `delta` is the true mean of the per-query differences and `deviation` their standard deviation.  Raises ValueError
    for fewer than two queries, a deviation that is not above 0, or an alpha outside (0, 1).
    """
    _check(deviation, alpha)
    if num_queries < 2:
        raise ValueError(f"num_queries={num_queries} must be at least 2: a t-test needs a spread")
    freedom, shift = num_queries - 1, abs(delta) / deviation * math.sqrt(num_queries)
    critical = float(stdtrit(freedom, 1 - alpha / 2))
    # The mean of the normal tail over the chi-distributed spread; scipy's noncentral t gives nan in the far tails.
    spread = np.sqrt(chdtri(freedom, 1 - _SHARES) / freedom)
    return float(_WEIGHTS @ (ndtr(shift - critical * spread) + ndtr(-shift - critical * spread)))


def queries_needed(delta: float, deviation: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """The fewest queries over which a paired t-test has this power; ValueError for a difference of 0."""
    _check(deviation, alpha, power)
    if delta == 0 or not math.isfinite(delta):
        raise ValueError(f"delta={delta}: no number of queries shows it; give a finite difference other than 0")
    high = 2
    while paired_power(delta, deviation, high, alpha) < power:
        high *= 2
    low = high // 2  # too few, or 1
    while high - low > 1:
        middle = (low + high) // 2
        if paired_power(delta, deviation, middle, alpha) < power:
            low = middle
        else:
            high = middle
    return high


def smallest_delta(deviation: float, num_queries: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference that a paired t-test over `num_queries` finds with this power."""
    _check(deviation, alpha, power)
    high = deviation
    while paired_power(high, deviation, num_queries, alpha) < power:
        high *= 2
    return float(brentq(lambda delta: paired_power(delta, deviation, num_queries, alpha) - power, 0, high))


def _influence(table: Floats) -> Floats:
    """What each query, [Q], adds to the aggregate of a table [Q, 2], to first order; for a mean, value - mean."""
    return np.asarray((table[:, 0] - aggregate(table) * table[:, 1]) / table[:, 1].mean())


def _check(deviation: float, alpha: float, power: float | None = None) -> None:
    if not (deviation > 0 and math.isfinite(deviation)):
        raise ValueError(f"deviation={deviation} must be finite and above 0")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} must lie between 0 and 1")
    if power is not None and not alpha < power < 1:
        raise ValueError(f"power={power} must lie between alpha={alpha} and 1")
