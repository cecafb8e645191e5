"""A click log as columns, with the texts of its pairs: what estimates of users' behaviour are made from.

How likely each position was examined follows in `disranker.data.propensities`, what users would have done with another
ranking in `counterfactual.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disranker.schema import Click, Pair

Floats = NDArray[np.float64]

_NAMED_KEYS = 3  # offenders that an error message lists


@dataclass(frozen=True, slots=True)
class ClickTable:
    """A click log as columns [R], one entry a row of the log; a pair is a query and a document by their texts."""

    pairs: tuple[Pair, ...]
    """The different pairs, in the order in which they first come."""
    pair: NDArray[np.int64]
    """Index into `pairs`."""
    position: NDArray[np.int64]
    """First = 1."""
    impressions: NDArray[np.int64]
    clicks: NDArray[np.int64]
    dwell_seconds: Floats | None
    """Mean of the row's clicks, 0 without a click; None where the log has none."""
    clicked_only: bool
    """The log leaves out what nobody clicked: what was shown is then known for clicked documents alone."""


def tabulate_clicks(clicks: Iterable[Click]) -> ClickTable:
    """A click log as columns; impressions and position must be logged, dwell time for all clicked rows or for none.

    A log that holds not one row with 0 clicks is taken to leave out what nobody clicked (`clicked_only`).

    Raises ValueError for an empty log, a missing column, more clicks than impressions and negative numbers; rows are
    named by their number, from 1.
    """
    index: dict[Pair, int] = {}
    rows: list[tuple[int, int, int, int]] = []
    dwell: list[float | None] = []
    faults: dict[str, list[int]] = {}
    for number, click in enumerate(clicks, start=1):
        if click.position is None:
            faults.setdefault("rows have no position", []).append(number)
        if click.impressions is None:
            faults.setdefault("rows have no impressions", []).append(number)
        if click.position is None or click.impressions is None:
            continue
        if not 0 <= click.clicks <= click.impressions or click.position < 1:
            faults.setdefault("rows break 0 <= clicks <= impressions, position >= 1", []).append(number)
        pair = index.setdefault(Pair(click.query, click.title, click.summary), len(index))
        rows.append((pair, click.position, click.impressions, click.clicks))
        dwell.append(click.dwell_seconds if click.clicks else 0.0)
    if faults:
        named = [
            f"{len(rows)} {what}, first: {', '.join(map(str, rows[:_NAMED_KEYS]))}" for what, rows in faults.items()
        ]
        raise ValueError(f"click log: {'; '.join(named)}")
    if not rows:
        raise ValueError("the click log is empty")
    columns = np.array(rows, dtype=np.int64).T
    lacking = [number for number, seconds in enumerate(dwell, start=1) if seconds is None]
    if 0 < len(lacking) < int((columns[3] > 0).sum()):
        raise ValueError(
            f"click log: {len(lacking)} clicked rows have no dwell_seconds and others have, first: "
            f"{', '.join(map(str, lacking[:_NAMED_KEYS]))}; log it for all or leave the column out"
        )
    return ClickTable(
        pairs=tuple(index),
        pair=columns[0],
        position=columns[1],
        impressions=columns[2],
        clicks=columns[3],
        dwell_seconds=None if lacking else np.array(dwell, dtype=np.float64),
        clicked_only=bool((columns[3] > 0).all()),
    )
