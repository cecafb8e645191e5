"""What a ranker costs to run: latency of one request by number and length of its documents, price, and speed-up.

Works on anything with `score(pairs)`.  The pairs per second of a whole test set are measured where it is scored
(`systems.py`); nothing here compares quality, and nothing sets threads or devices: they are what the caller made them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from disranker.schema import Pair

Clock = Callable[[], float]
"""Seconds since any fixed moment, never going back."""

DOCUMENTS = (1, 10, 100)
LENGTHS = ("short", "middle", "long")
"""The thirds of the given rows by length: equally many rows in each."""
WARM_UP_CALLS = 1
"""Calls before the timed ones of every cell: first use of a shape allocates and, on some devices, compiles."""
MAX_REPEATS = 1000
"""Timed calls of a cell at most, also where the budget of seconds would allow more."""


class Scores(Protocol):
    """The one thing that is timed."""

    def score(self, pairs: Sequence[Pair]) -> Any: ...


@dataclass(frozen=True, slots=True)
class LatencyCell:
    """The time of one call of `score` with `documents` documents for one query, all from one third by length."""

    documents: int
    length: str
    """`short`, `middle` or `long`."""
    mean_length: float
    """Of the pairs in the timed calls, in `Latency.length_unit`."""
    repeats: int
    """Timed calls behind the percentiles; with fewer than 100 of them p99 is the slowest one."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    pairs_per_second: float
    """Over all timed calls of the cell."""


@dataclass(frozen=True, slots=True)
class Latency:
    """A table of latencies, and how it was measured."""

    cells: tuple[LatencyCell, ...]
    """By length, then by number of documents."""
    length_unit: str
    """`tokens` or `characters`."""
    warm_up_calls: int
    """Untimed calls before each cell."""
    seconds_per_cell: float
    """Budget: no timed call of a cell began after so many seconds of them."""
    seed: int
    """Of the choice of rows."""


def measure_latency(
    scorer: Scores,
    pairs: Sequence[Pair],
    *,
    documents: Sequence[int] = DOCUMENTS,
    seconds: float = 2.0,
    token_lengths: Sequence[int] | None = None,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> Latency:
    """Times `scorer.score` on requests of one query with so many documents, short, middle and long ones.

    The rows `pairs` are split into thirds by length: `token_lengths` (one a pair) where given, else characters of
    query, title and summary.  A request takes the query of one row and the documents of that third, drawn anew for each
    call; a document comes twice only when the third is smaller than the request.  Each cell has `WARM_UP_CALLS` untimed
    calls, then timed ones until `seconds` are used up, at least one and at most `MAX_REPEATS`.  Percentiles are
    observed times (nearest rank).

    Raises ValueError for fewer than three pairs, document counts below 1 or twice, a budget that is not positive, or
    lengths that are not one a pair.
    """
    if len(pairs) < len(LENGTHS):
        raise ValueError(f"{len(pairs)} pairs cannot be split into thirds by length; give at least {len(LENGTHS)}")
    if not documents or min(documents) < 1 or len(set(documents)) < len(documents):
        raise ValueError(f"documents={list(documents)} must be different whole numbers, each at least 1")
    if not seconds > 0:
        raise ValueError(f"seconds={seconds} is the time budget of a cell; it must be above 0")
    if token_lengths is not None and len(token_lengths) != len(pairs):
        raise ValueError(f"{len(token_lengths)} token_lengths for {len(pairs)} pairs; give one a pair")
    sizes = np.array([sum(map(len, pair)) for pair in pairs] if token_lengths is None else token_lengths)
    thirds = np.array_split(np.argsort(sizes, kind="stable"), len(LENGTHS))
    return Latency(
        cells=tuple(
            _time_cell(scorer, pairs, sizes, third, length, count, seconds, np.random.default_rng(seed), clock)
            for length, third in zip(LENGTHS, thirds, strict=True)
            for count in documents
        ),
        length_unit="characters" if token_lengths is None else "tokens",
        warm_up_calls=WARM_UP_CALLS,
        seconds_per_cell=seconds,
        seed=seed,
    )


def _time_cell(
    scorer: Scores,
    pairs: Sequence[Pair],
    sizes: np.ndarray[Any, Any],
    third: np.ndarray[Any, Any],
    length: str,
    documents: int,
    seconds: float,
    rng: np.random.Generator,
    clock: Clock,
) -> LatencyCell:
    def request() -> tuple[list[Pair], float]:
        query = pairs[rng.choice(third)].query
        rows = rng.choice(third, size=documents, replace=documents > len(third))
        return [Pair(query, pairs[row].title, pairs[row].summary) for row in rows], float(sizes[rows].mean())

    for _ in range(WARM_UP_CALLS):
        scorer.score(request()[0])
    times: list[float] = []
    lengths: list[float] = []
    spent = 0.0
    while not times or (spent < seconds and len(times) < MAX_REPEATS):
        asked, mean_length = request()
        began = clock()
        scorer.score(asked)
        times.append(clock() - began)
        lengths.append(mean_length)
        spent += times[-1]
    p50, p95, p99 = np.percentile(times, [50, 95, 99], method="inverted_cdf") * 1000
    return LatencyCell(
        documents=documents,
        length=length,
        mean_length=float(np.mean(lengths)),
        repeats=len(times),
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        pairs_per_second=documents * len(times) / spent,
    )


def cost_per_million_pairs(pairs_per_second: float, price_per_hour: float) -> float:
    """What a million pairs cost on a machine of this price, in the price's own unit: price / 3600 * 10^6 / speed.

    Raises ValueError for a speed that is not above 0, or a negative price.
    """
    if not price_per_hour >= 0:
        raise ValueError(f"price_per_hour={price_per_hour} must not be negative")
    return price_per_hour / 3600 * 1e6 / _checked_speed(pairs_per_second, "pairs_per_second")


def speed_up(pairs_per_second: float, teacher_pairs_per_second: float) -> float:
    """How many times faster than the teacher: the ratio of their pairs per second, on the machines they ran on.

    Raises ValueError for a speed that is not above 0.
    """
    teacher_speed = _checked_speed(teacher_pairs_per_second, "teacher_pairs_per_second")
    return _checked_speed(pairs_per_second, "pairs_per_second") / teacher_speed


def _checked_speed(value: float, name: str) -> float:
    if not value > 0:
        raise ValueError(f"{name}={value} must be above 0; measure the system's speed first")
    return value
