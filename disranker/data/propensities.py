"""How likely each position of a list is examined, told from a click log.

Under the position-based model a document is clicked when its position is examined, with the position's propensity, and
its text attracts, whatever else is on the page.

Wang et al., Position Bias Estimation for Unbiased Learning to Rank in Personal Search (WSDM 2018),
https://doi.org/10.1145/3159652.3159732.  That documents which users meet at several positions suffice, without an
experiment: Agarwal et al., Estimating Position Bias without Intrusive Interventions (WSDM 2019),
https://arxiv.org/abs/1812.05161.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from disranker.data.faults import Fault, InputError, strict
from disranker.data.fields import parse_count, parse_score, refuse
from disranker.data.rows import read_rows

Floats = NDArray[np.float64]

_TOLERANCE = 1e-6  # relative change of a propensity in one EM step
_SURE = 1 - 1e-9  # the most likely that a click may become, so that 1 - t a stays above 0


class ClickColumns(Protocol):
    """A click log as columns [R], one entry a row of the log."""

    @property
    def pair(self) -> NDArray[np.int64]:
        """A number for every query and document, from 0 without a gap."""

    @property
    def position(self) -> NDArray[np.int64]:
        """First = 1."""

    @property
    def impressions(self) -> NDArray[np.int64]: ...

    @property
    def clicks(self) -> NDArray[np.int64]: ...

    @property
    def clicked_only(self) -> bool:
        """The log leaves out what nobody clicked."""


@dataclass(frozen=True, slots=True)
class Propensities:
    """How likely each position is examined, in that of position 1; only the ratios matter anywhere."""

    values: tuple[float, ...]
    """Positions 1, 2, ...; the first is 1."""
    iterations: int
    converged: bool
    num_rows: int
    """Of the log, that told something: their pair (or group) stands at several positions and has a click,
    or in a clicked-only log a row with two."""
    num_rows_unused: int
    """All others, among them those below the last position asked for."""


def read_propensities(path: Path) -> tuple[float, ...]:
    """Propensities of positions 1, 2, ... from a CSV, TSV, JSONL or Parquet file with columns position, propensity.

    Raises:
        InputError: a position that is missing or comes twice, a propensity that is not above 0.
    """
    found: dict[int, float] = {}
    for row in strict(read_rows(path, ["position", "propensity"])):
        position, value = parse_count(row, "position", 1), parse_score(row, "propensity")
        if position is None or position in found:
            what = "no position is given" if position is None else f"position {position} stands there twice"
            refuse(row, "number", what, "write each position once, from 1")
        if value <= 0:
            refuse(row, "number", f"propensity is {value:g}, not above 0", "leave out positions that nobody examines")
        found[position] = value
    gap = next((position for position in range(1, len(found) + 1) if position not in found), None)
    if gap is not None:
        what = f"position {gap} is missing below position {max(found)}"
        raise InputError(Fault("number", str(path), None, what, "write each position once, from 1"))
    return tuple(found[position] for position in range(1, len(found) + 1))


def estimate_propensities(
    table: ClickColumns,
    depth: int = 10,
    groups: ArrayLike | None = None,
    max_iterations: int = 1000,
) -> Propensities:
    """Propensities of positions 1 .. depth, by maximum likelihood of the position-based model: EM without regression.

    P(click) = propensity(position) x attraction(pair), and both are free numbers.  E step, for an impression without a
    click, with t and a for the two: P(examined) = t (1 - a) / (1 - t a), P(attracts) = a (1 - t) / (1 - t a); with a
    click both are 1.  M step: propensity and attraction are the mean of these over the position and over the pair.
    What a clicked-only log leaves out is filled in by its expected number, (1 - s) / s rows for each row of n
    impressions, s = 1 - (1 - t a)^n.  An iteration is three EM steps, extrapolated (SQUAREM: Varadhan, Roland,
    Scandinavian Journal of Statistics 2008, https://doi.org/10.1111/j.1467-9469.2007.00585.x).

    Only a pair that the log shows at several positions tells anything.  Where few do, `groups` (one entry a pair: a
    label, a bin of a ranker's score) gives all pairs of a group one attraction; a ranking that knows
    more than the groups do then makes the first positions look more examined than they are.

    Raises ValueError for a depth below 2, when no pairs link a position with the first one, when a position has no
    click (its propensity would be 0), and for a clicked-only log of single impressions, in which every row is a click.
    """
    of_row = table.pair
    if groups is not None:
        values = np.asarray(groups)
        num_pairs = int(table.pair.max()) + 1
        if len(values) != num_pairs:
            raise ValueError(f"{len(values)} groups for {num_pairs} pairs of the click log; give one a pair")
        of_row = np.unique(values, return_inverse=True)[1][table.pair]
    if table.clicked_only and table.impressions.max() == 1:
        raise ValueError(
            "every row of the click log is one impression with a click: propensities cannot be estimated; "
            "log impressions too, or give the propensities"
        )
    if depth < 2:
        raise ValueError(f"depth={depth}: propensities compare positions, so it takes two; for one position give [1.0]")
    shown = (table.position <= depth) & (table.impressions > 0)
    # A pair that has no more than the fewest clicks possible fits any propensities, with an attraction of 0; it would
    # only keep the steps from coming to rest.
    more = table.clicks - table.clicked_only
    telling = np.bincount(of_row[shown], more[shown], of_row.max() + 1) > 0
    used = shown & telling[of_row] & _at_several_positions(of_row, table.position, shown)
    place = table.position[used] - 1
    group = np.unique(of_row[used], return_inverse=True)[1]
    n, k = table.impressions[used].astype(np.float64), table.clicks[used].astype(np.float64)
    _check_linked(place, group, depth)
    clicks_at = np.bincount(place, k, depth)
    if not clicks_at.all():
        position = int(np.flatnonzero(clicks_at == 0)[0]) + 1
        raise ValueError(
            f"position {position} has no click in the rows that tell about it, so its propensity would be 0; "
            "use a smaller depth or more of the log"
        )

    counts = _Counts(place, group, n, k, depth, table.clicked_only)
    rates = np.log(np.concatenate([np.full(depth, 0.5), np.bincount(group, k) / np.bincount(group, n)]))
    iterations, converged = 0, False
    while not converged and iterations < max_iterations:
        iterations += 1
        change, rates = _accelerated_step(counts, rates)
        converged = bool(np.abs(change[:depth] - change[0]).max() < _TOLERANCE)
    found = np.exp(rates[:depth] - rates[0])
    return Propensities(
        values=tuple(found.tolist()),
        iterations=iterations,
        converged=converged,
        num_rows=int(used.sum()),
        num_rows_unused=int((~used).sum()),
    )


class _Counts(NamedTuple):
    """The rows that tell something, [R]; `rates` are the logarithms of all propensities, then of all attractions."""

    place: NDArray[np.int64]
    """Position - 1."""
    group: NDArray[np.int64]
    n: Floats
    """Impressions."""
    k: Floats
    """Clicks."""
    depth: int
    clicked_only: bool

    def step(self, rates: Floats) -> Floats:
        """The rates after one EM step."""
        t, a = np.exp(rates[self.place]), np.exp(rates[self.depth + self.group])
        both = np.minimum(t * a, _SURE)
        trials = self.n / (1 - self._unseen(both)) if self.clicked_only else self.n
        missed = (trials - self.k) / (1 - both)
        return np.log(
            np.concatenate(
                [
                    np.bincount(self.place, self.k + missed * t * (1 - a)) / np.bincount(self.place, trials),
                    np.bincount(self.group, self.k + missed * a * (1 - t)) / np.bincount(self.group, trials),
                ]
            )
        )

    def log_likelihood(self, rates: Floats) -> float:
        both = np.minimum(np.exp(rates[self.place] + rates[self.depth + self.group]), _SURE)
        rows = self.k * np.log(both) + (self.n - self.k) * np.log1p(-both)
        return float((rows - np.log(1 - self._unseen(both)) if self.clicked_only else rows).sum())

    def _unseen(self, both: Floats) -> Floats:
        """The chance that nobody clicks, so that the row is left out."""
        return np.exp(self.n * np.log1p(-both))


def _accelerated_step(counts: _Counts, rates: Floats) -> tuple[Floats, Floats]:
    """The change that the first EM step made, and the rates after three of them, the third from where they point."""
    once = counts.step(rates)
    twice = counts.step(once)
    change = once - rates
    bend = twice - once - change
    size = float(np.linalg.norm(bend))
    if not size:
        return change, twice
    length = max(1.0, float(np.linalg.norm(change)) / size)
    ahead = np.minimum(rates + 2 * length * change + length**2 * bend, np.log(_SURE))
    ahead = counts.step(ahead)
    # Plain EM never loses likelihood; a jump may.
    return change, ahead if counts.log_likelihood(ahead) >= counts.log_likelihood(twice) else twice


def _at_several_positions(
    group: NDArray[np.int64], position: NDArray[np.int64], shown: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """[R] whether the row's group is shown at more than one position."""
    if not shown.any():
        return shown
    size = int(group.max()) + 1
    lowest, highest = np.full(size, np.iinfo(np.int64).max), np.zeros(size, dtype=np.int64)
    np.minimum.at(lowest, group[shown], position[shown])
    np.maximum.at(highest, group[shown], position[shown])
    return (lowest < highest)[group]


def _check_linked(place: NDArray[np.int64], group: NDArray[np.int64], depth: int) -> None:
    """Refuses positions whose propensity cannot be held against that of the first one."""
    num_nodes = depth + (int(group.max()) + 1 if group.size else 0)
    edges = coo_array((np.ones(len(place), dtype=np.int8), (place, depth + group)), shape=(num_nodes, num_nodes))
    part = connected_components(edges, directed=False)[1][:depth]
    alone = (np.flatnonzero(part != part[0]) + 1).tolist()
    if alone:
        raise ValueError(
            f"no document of the click log links position 1 with positions {', '.join(map(str, alone))}: it must be "
            "shown at several positions; use a smaller depth, groups of documents, or given propensities"
        )
