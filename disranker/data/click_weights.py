"""What the rows of a click log weigh, computed on columns: position bias, dwell time, CTR, caps, near-duplicates.

The formulas with their sources stand in `docs/clicks.md`.  Texts are known here by their hashes, but for
near-duplicates, whose texts a function reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from disranker.config.clicks import ClickThroughConfig, DwellConfig, EvidenceConfig, PositionConfig
from disranker.data.near_duplicates import NUM_HASHES, find_near_duplicates, mix, sign
from disranker.data.propensities import estimate_propensities, read_propensities
from disranker.schema import stable_seed

Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]
"""Hashes of texts; two of ten million are the same with a probability of 3e-6."""
Texts = Callable[[NDArray[np.int64]], Iterator[str]]
"""The documents of some rows, in ascending order, as one text each."""

MOST_COUNT = (1 << 32) - 1
"""Largest number that a column of counts holds."""
_MOST_ROWS = 500_000
"""Rows that propensities are estimated from at most: ten numbers need no more."""


class LogColumns(NamedTuple):
    """The rows of the training part as columns [R]."""

    query: Keys
    document: Keys
    position: NDArray[np.uint32]
    """0 where it is not logged and nothing goes by it; so are impressions."""
    clicks: NDArray[np.uint32]
    impressions: NDArray[np.uint32]
    dwell_seconds: Floats
    """Empty where nothing goes by it; 0 without a click."""

    @property
    def pair(self) -> Keys:
        """A hash of query and document."""
        return mix(self.query ^ mix(self.document))


class Weighed(NamedTuple):
    """What became of the rows."""

    weights: NDArray[np.float32]
    """[R], 0 where a row is left out."""
    facts: dict[str, str]


@dataclass
class _Selection:
    """The rows that are kept so far, and what each step has left."""

    keep: NDArray[np.bool_]
    weights: NDArray[np.float32]
    facts: dict[str, str] = field(default_factory=dict)

    def narrow(self, name: str, keep: NDArray[np.bool_], how: str) -> None:
        before = int(self.keep.sum())
        self.keep &= keep
        self.facts[name] = f"{how}: kept {int(self.keep.sum()):,} of {before:,} rows"

    @property
    def rows(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.keep)


def weigh(columns: LogColumns, config: EvidenceConfig, seed: int, texts: Texts) -> Weighed:
    """The weight of every row; `texts` reads the documents of rows."""
    chosen = _Selection(columns.clicks > 0, np.ones(len(columns.clicks), dtype=np.float32))
    propensity = None
    if config.position is not None:
        propensity, source = _examined(columns, config.position)
        chosen.facts["position"] = _correct_position(chosen, columns, config.position, propensity, source)
    if config.dwell is not None:
        _judge_dwell(chosen, columns, config.dwell)
    if config.ctr is not None:
        _judge_click_through(chosen, columns, config.ctr, propensity)
    if config.near_duplicates is not None:
        _leave_out_near_duplicates(chosen, columns, config.near_duplicates, texts)
    if config.max_per_query is not None:
        _draw(chosen, "per query", columns.query, columns.pair, config.max_per_query, seed)
    if config.max_per_document is not None:
        _draw(chosen, "per doc", columns.document, columns.pair, config.max_per_document, seed)
    chosen.weights[~chosen.keep] = 0
    kept = chosen.weights[chosen.keep].astype(np.float64)
    if len(kept):
        chosen.weights /= kept.mean()
    if len(kept) and config.weighs:
        spread = f"{kept.min() / kept.mean():.3g} to {kept.max() / kept.mean():.3g}, mean 1"
        alike = int(kept.sum() ** 2 / (kept**2).sum())
        chosen.facts["weights"] = f"{spread}; {len(kept):,} rows tell as much as {alike:,} of equal weight"
    return Weighed(chosen.weights, chosen.facts)


# --- position ---------------------------------------------------------------------------------------------------------


class _Shown(NamedTuple):
    """Rows as `estimate_propensities` takes them."""

    pair: NDArray[np.int64]
    position: NDArray[np.int64]
    impressions: NDArray[np.int64]
    clicks: NDArray[np.int64]
    clicked_only: bool


def _examined(columns: LogColumns, config: PositionConfig) -> tuple[Floats, str]:
    """Propensities of positions 1, 2, ..., the first 1, and where they are from."""
    if config.propensities is not None:
        values, source = tuple(config.propensities), "given"
    elif config.propensities_file is not None:
        values, source = read_propensities(config.propensities_file), str(config.propensities_file)
    else:
        shown = _shown_at_several_positions(columns, config.depth)
        try:
            found = estimate_propensities(shown, config.depth)
        except ValueError as error:
            raise ValueError(f"evidence.position: {error}") from error
        values = found.values
        source = f"estimated from {found.num_rows:,} rows of documents shown at several positions"
        source += ", clicked rows alone" if shown.clicked_only else ""
        source += "" if found.converged else f", not converged after {found.iterations} iterations"
    return np.array(values) / values[0], source


def _shown_at_several_positions(columns: LogColumns, depth: int) -> _Shown:
    """The rows that propensities follow from; of too many, those of pairs that a hash draws."""
    rows = np.flatnonzero((columns.position <= depth) & (columns.impressions > 0))
    keys = columns.pair[rows]
    pair, position = _number(keys), columns.position[rows]
    num_pairs = int(pair.max(initial=-1)) + 1
    lowest, highest = np.full(num_pairs, MOST_COUNT, dtype=np.uint32), np.zeros(num_pairs, dtype=np.uint32)
    np.minimum.at(lowest, pair, position)
    np.maximum.at(highest, pair, position)
    telling = (lowest < highest)[pair]
    num_telling = int(telling.sum())
    if not num_telling:
        raise ValueError(
            "evidence.position: the log shows no document at several positions for one query, so it does not tell how "
            f"likely positions 1 to {depth} are examined; give propensities or propensities_file"
        )
    if num_telling > _MOST_ROWS:
        telling &= mix(keys) < np.uint64(_MOST_ROWS / num_telling * 2**64)
    rows = rows[telling]
    numbers = np.unique(pair[telling], return_inverse=True)[1]
    return _Shown(
        pair=numbers,
        position=columns.position[rows].astype(np.int64),
        impressions=columns.impressions[rows].astype(np.int64),
        clicks=columns.clicks[rows].astype(np.int64),
        clicked_only=bool((columns.clicks > 0).all()),
    )


def _at(propensity: Floats, position: NDArray[np.uint32]) -> Floats:
    """[R] the propensity of each row; below the last known position that of the last one."""
    return propensity[np.minimum(position, len(propensity)).astype(np.int64) - 1]


def _correct_position(
    chosen: _Selection, columns: LogColumns, config: PositionConfig, propensity: Floats, source: str
) -> str:
    """Weigh each click by 1 / propensity, and say by what."""
    inverse = 1 / _at(propensity, columns.position)
    clip = config.clip if config.clip is not None else np.inf
    chosen.weights *= columns.clicks * np.minimum(inverse, clip)
    clipped = int((chosen.keep & (inverse > clip)).sum())
    below = int((chosen.keep & (columns.position > len(propensity))).sum())
    line = f"propensities {', '.join(f'{value:.3g}' for value in propensity)} ({source})"
    line += f"; clicks of {clipped:,} rows count {clip:g} at most" if clipped else ""
    return line + (f"; {below:,} rows below position {len(propensity)} count as there" if below else "")


# --- what a row is worth ----------------------------------------------------------------------------------------------


def _judge_dwell(chosen: _Selection, columns: LogColumns, config: DwellConfig) -> None:
    seconds = columns.dwell_seconds
    keep = seconds >= config.min_seconds
    if config.weight is not None:
        capped = np.minimum(seconds, config.cap_seconds) / config.cap_seconds
        if config.weight == "log":
            capped = np.log1p(capped * config.cap_seconds) / np.log1p(config.cap_seconds)
        chosen.weights *= capped
        keep &= seconds > 0  # a row without weight is no row
    shortest = f"{config.min_seconds:g} s and more" if config.min_seconds else "above 0 s"
    chosen.narrow("dwell", keep, shortest)


def _judge_click_through(
    chosen: _Selection, columns: LogColumns, config: ClickThroughConfig, propensity: Floats | None
) -> None:
    pair = _number(columns.pair)
    clicks = np.bincount(pair, columns.clicks)
    impressions = np.bincount(pair, columns.impressions)
    examined = impressions
    if propensity is not None:
        examined = np.bincount(pair, columns.impressions * _at(propensity, columns.position))
    prior = config.prior_ctr if config.prior_ctr is not None else clicks.sum() / examined.sum()
    # A pair that nobody has examined has no clicks either: 0, and not 0 / 0.
    seen = np.maximum(examined + config.prior_impressions, np.finfo(np.float64).tiny)
    ctr = (clicks + config.prior_impressions * prior) / seen
    if config.weight:
        chosen.weights *= ctr[pair]
    keep = (ctr >= config.min_ctr) & (impressions >= config.min_impressions) & (ctr > 0)
    how = f"CTR from {config.min_ctr:g}, impressions from {config.min_impressions:,}, prior {prior:.3g}"
    chosen.narrow("ctr", keep[pair], f"{how} x {config.prior_impressions:g}")


def _leave_out_near_duplicates(chosen: _Selection, columns: LogColumns, similarity: float, texts: Texts) -> None:
    document, first_row, priority = _number_documents(columns, chosen.rows)
    signatures = sign(texts(first_row), len(first_row))
    del first_row
    left_out = find_near_duplicates(signatures, priority, similarity)
    keep = np.ones_like(chosen.keep)
    keep[chosen.rows] = ~left_out[document]
    how = f"{int(left_out.sum()):,} of {len(left_out):,} documents are like another"
    chosen.narrow("duplicates", keep, f"{how} (similarity {similarity:g}, {NUM_HASHES} MinHashes)")


def _number_documents(
    columns: LogColumns, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
    """The number of each row's document, the first row of each document, and its place by clicks, most first.

    Numbers are in the order of first rows.
    """
    _, first, found = np.unique(columns.document[rows], return_index=True, return_inverse=True)
    by_row = np.argsort(first)
    number = np.empty(len(first), dtype=np.int32)
    number[by_row] = np.arange(len(first), dtype=np.int32)
    document = number[found]
    # The one that users like most stays; of equals, the one that comes first.
    by_clicks = np.argsort(-np.bincount(document, columns.clicks[rows]), kind="stable")
    priority = np.empty(len(first), dtype=np.int32)
    priority[by_clicks] = np.arange(len(first), dtype=np.int32)
    return document, rows[first[by_row]], priority


def _draw(chosen: _Selection, name: str, groups: Keys, pairs: Keys, most: int, seed: int) -> None:
    """Keep `most` rows of each group, by a hash of (seed, query, document, how often the pair came before)."""
    rows = chosen.rows
    lots = pairs[rows]
    repeats = _places(lots, np.argsort(lots, kind="stable"))
    lots += mix(repeats.astype(np.uint64) ^ np.uint64(stable_seed("evidence", seed)))
    del repeats  # every byte a row is 10 MB of 10 million rows
    lots = mix(lots)
    kept = groups[rows]
    order = np.lexsort((lots, kept))
    del lots
    keep = np.ones_like(chosen.keep)
    keep[rows] = _places(kept, order) < most
    chosen.narrow(name, keep, f"{most:,} at most")


def _number(keys: Keys) -> NDArray[np.int32]:
    """[R] the number of each row's key, in the order of keys; `np.unique` takes twice the memory for it."""
    order = np.argsort(keys)
    number = np.empty(len(keys), dtype=np.int32)
    number[order] = np.cumsum(_begins(keys[order]), dtype=np.int32) - 1
    return number


def _begins(arranged: Keys) -> NDArray[np.bool_]:
    """[R] where another value begins."""
    begins = np.ones(len(arranged), dtype=np.bool_)
    np.not_equal(arranged[1:], arranged[:-1], out=begins[1:])
    return begins


def _places(groups: Keys, order: NDArray[np.int64]) -> NDArray[np.int32]:
    """The place of each row in its group, from 0, where `order` sorts the rows by group."""
    starts = np.flatnonzero(_begins(groups[order]))
    places = np.empty(len(order), dtype=np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    places[order] -= np.repeat(starts.astype(np.int32), np.diff(np.append(starts, len(order))))
    return places
