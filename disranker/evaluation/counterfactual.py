"""What users would have done with another ranking, estimated from the click log of the ranking they saw.

Inverse propensity scoring under the position-based model (`disranker.data.propensities`): a click counts for a new
ranking as much as the new ranking would have had the document examined, over as much as the log had.

What a log of (query, document, position, impressions, clicks) lets one estimate, all per page view: clicks, long
clicks, dwell seconds.  It has no page and no user in it: the share of pages with a click follows only if clicks on one
page are taken as independent, and its name says so; the share of users who click cannot be had.  Neither bias beyond
position (trust, examples on the same page) nor users who stop at a good document are in the model.

Li et al., Offline Evaluation of Ranking Policies with Click Models (KDD 2018), https://arxiv.org/abs/1804.10488;
Swaminathan, Joachims, The Self-Normalized Estimator for Counterfactual Learning (NeurIPS 2015).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from disranker.evaluation.click_table import ClickTable
from disranker.evaluation.measures import rank_documents
from disranker.evaluation.resampling import bootstrap
from disranker.schema import Pair

Floats = NDArray[np.float64]
Run = Mapping[str, Mapping[str, float]]
"""query_id -> doc_id -> score."""

LONG_CLICK_SECONDS = 30.0
"""A click with at least so much dwell time is a long one: the usual mark of a satisfied click."""
_NAMED_KEYS = 3  # offenders that an error message lists


class _Row(Protocol):
    @property
    def query_id(self) -> str: ...
    @property
    def doc_id(self) -> str: ...
    @property
    def pair(self) -> Pair: ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """One online metric of the new ranking, per page view."""

    logged: float
    """What the log itself shows for the same queries and positions."""
    value: float
    """Inverse propensity scoring, weights clipped; documents that the log lacks count as never clicked."""
    interval: tuple[float, float]
    """Bootstrap percentile interval of `value` over queries; the propensities are taken as known."""
    delta: float
    """value - logged."""
    delta_interval: tuple[float, float]
    self_normalised: float | None
    """SNIPS: `value` over the share of the new ranking's examination that the weighted log stands for, so documents
    that the log lacks or whose weight was clipped count like the average of the others.  None where it is not defined:
    for a log of clicked documents alone, and for the page CTR."""
    self_normalised_interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class ClickEstimates:
    """What users would have done with a new ranking."""

    metrics: dict[str, Estimate]
    """clicks_per_page; page_ctr_if_independent; with dwell times also long_clicks_per_page, dwell_seconds_per_page."""
    depth: int
    """Positions that count, of the log and of the new ranking: those with a propensity."""
    num_queries: int
    num_queries_without_log: int
    """Ranked, but never shown in the log: in no figure."""
    page_views: int
    """Of the queries in the figures, by the log; queries count by them."""
    supported_share: float
    """Of the first `depth` documents of the new ranking: the log shows them (in a clicked-only log: has a click)."""
    clip: float | None
    clipped_share: float
    """Of the supported documents: their weight was above `clip`."""
    effective_sample_size: float
    """Kish: the (sum w)^2 / (sum w^2) impressions that would tell as much if all weighed the same."""
    num_impressions: int
    """Of the log, that have a weight."""
    clicked_only: bool
    long_click_seconds: float
    samples: int
    seed: int
    confidence: float


def rank_pairs(run: Run, rows: Iterable[_Row]) -> dict[str, list[Pair]]:
    """A run, query_id -> doc_id -> score, as texts best first; `rows` are the candidates or judgments it has scored.

    Raises ValueError, naming the first, when a scored document is in no row.
    """
    texts = {(row.query_id, row.doc_id): row.pair for row in rows}
    missing = [(query, doc) for query, docs in run.items() for doc in docs if (query, doc) not in texts]
    if missing:
        named = ", ".join(f"(query_id {query!r}, doc_id {doc!r})" for query, doc in missing[:_NAMED_KEYS])
        raise ValueError(f"{len(missing)} scored documents have no texts: {named}")
    return {query: [texts[query, doc] for doc in rank_documents(docs)] for query, docs in run.items() if docs}


def estimate_clicks(
    table: ClickTable,
    ranking: Mapping[str, Sequence[Pair]],
    propensities: Sequence[float],
    *,
    clip: float | None = 10.0,
    long_click_seconds: float = LONG_CLICK_SECONDS,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> ClickEstimates:
    """Online metrics of a new ranking, query_id -> pairs best first, by inverse propensity scoring of the log.

    With propensities t, N page views of a query and n(d, p) impressions of document d at position p, a click on d has
    the weight  w = t(new position of d) N / sum over p of t(p) n(d, p),  at most `clip`.  A query's metric is the
    weighted sum over its clicks divided by N, and queries count by N: the impressions of the position, or of the
    document, that has most.  The page CTR is 1 - product over d of (1 - clicks expected on d).  Positions below the
    last propensity count nowhere.

    In a clicked-only log nobody knows where a document was shown without a click: it is taken to be shown in all page
    views of its query, as well placed as where it was clicked.  That is exact where a query has one list, and too low
    an estimate where its lists hold different documents.  Where users stop at a good document (a cascade), differences
    between rankings come out too large, though in the right direction.

    Raises ValueError for a propensity that is not above 0, a clip that is not above 0, and when no ranked query is in
    the log.
    """
    examined = np.array(propensities, dtype=np.float64)
    if not examined.size or not (np.isfinite(examined) & (examined > 0)).all():
        raise ValueError(f"propensities={examined.tolist()} must be finite and above 0, one a position from 1 on")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip} bounds the weights; it must be above 0, or None for no bound")
    log = _read_log(table, examined, long_click_seconds)
    shown = _place(table, log, ranking, examined)
    num_units = len(shown.queries)
    supported = shown.pair >= 0
    # A pair that stands twice in a ranking (two documents with one text) is examined at either place.
    key, inverse = np.unique(shown.unit[supported] * len(table.pairs) + shown.pair[supported], return_inverse=True)
    unit, pair = np.divmod(key, len(table.pairs))
    views = log.views[shown.queries]
    weight = _sum_by(inverse, shown.examined[supported], len(key)) * views[unit] / log.examined[pair]
    clipped = np.zeros(len(key), dtype=bool) if clip is None else weight > clip
    weight[clipped] = clip

    def of_units(values: Floats) -> Floats:
        return _sum_by(unit, values, num_units)

    covered = of_units(weight * log.examined[pair])
    wanted = _sum_by(shown.unit, shown.examined, num_units) * views

    def estimate(weighted: Floats, logged: Floats, self_normalise: bool) -> Estimate:
        """From sums by unit, [U], over all page views of the unit's query."""

        def interval(statistic: Callable[[Floats], Floats]) -> tuple[float, float]:
            return bootstrap(statistic, num_units, samples, seed, confidence)

        def normalised(weights: Floats) -> Floats:
            with np.errstate(divide="ignore", invalid="ignore"):  # a sample in which the log supports nothing
                return (weights @ weighted) / (weights @ covered) * (weights @ wanted) / (weights @ views)

        everyone = np.ones((1, num_units))
        normalise = self_normalise and not table.clicked_only and bool(covered.any())
        return Estimate(
            logged=float(logged.sum() / views.sum()),
            value=float(weighted.sum() / views.sum()),
            interval=interval(lambda weights: (weights @ weighted) / (weights @ views)),
            delta=float((weighted - logged).sum() / views.sum()),
            delta_interval=interval(lambda weights: (weights @ (weighted - logged)) / (weights @ views)),
            self_normalised=float(normalised(everyone)[0]) if normalise else None,
            self_normalised_interval=interval(normalised) if normalise else None,
        )

    metrics = {
        name: estimate(of_units(weight * values[pair]), log.sum_by_query(values)[shown.queries], True)
        for name, values in log.totals.items()
    }
    with np.errstate(divide="ignore"):  # a sure click: log 0
        clicks = log.totals["clicks_per_page"]
        none_new = np.exp(of_units(np.log1p(-np.minimum(weight * clicks[pair] / views[unit], 1))))
        shares = np.minimum(clicks / np.maximum(log.views[log.query], 1), 1)
        none_logged = np.exp(log.sum_by_query(np.log1p(-shares)))[shown.queries]
    metrics["page_ctr_if_independent"] = estimate((1 - none_new) * views, (1 - none_logged) * views, False)

    impressions = log.impressions[pair]
    squares = float((impressions * weight**2).sum())
    return ClickEstimates(
        metrics=metrics,
        depth=len(examined),
        num_queries=num_units,
        num_queries_without_log=len(ranking) - num_units,
        page_views=int(views.sum()),
        supported_share=float(supported.mean()),
        clip=clip,
        clipped_share=float(clipped.mean()) if len(clipped) else 0.0,
        effective_sample_size=float((impressions * weight).sum()) ** 2 / squares if squares else 0.0,
        num_impressions=int(impressions.sum()),
        clicked_only=table.clicked_only,
        long_click_seconds=long_click_seconds,
        samples=samples,
        seed=seed,
        confidence=confidence,
    )


class _Log(NamedTuple):
    """The log's rows up to the last position, summed."""

    query_codes: dict[str, int]
    query: NDArray[np.int64]
    """[pairs] the query of each pair."""
    views: Floats
    """[queries] page views."""
    impressions: Floats
    """[pairs]"""
    examined: Floats
    """[pairs] impressions times propensity."""
    totals: dict[str, Floats]
    """metric -> [pairs] what users did, summed."""

    def sum_by_query(self, of_pair: Floats) -> Floats:
        """[pairs] -> [queries]."""
        return _sum_by(self.query, of_pair, len(self.views))


def _read_log(table: ClickTable, examined: Floats, long_click_seconds: float) -> _Log:
    depth = len(examined)
    codes: dict[str, int] = {}
    query = np.array([codes.setdefault(pair.query, len(codes)) for pair in table.pairs])
    rows = table.position <= depth
    pair, place = table.pair[rows], table.position[rows] - 1
    impressions, clicks = table.impressions[rows].astype(np.float64), table.clicks[rows].astype(np.float64)

    def by_pair(values: Floats) -> Floats:
        return _sum_by(pair, values, len(table.pairs))

    at_position = _sum_by(query[pair] * depth + place, impressions, len(codes) * depth).reshape(-1, depth)
    totals = {"clicks_per_page": by_pair(clicks)}
    if table.dwell_seconds is not None:
        dwell = table.dwell_seconds[rows]
        totals["long_clicks_per_page"] = by_pair(clicks * (dwell >= long_click_seconds))
        totals["dwell_seconds_per_page"] = by_pair(clicks * dwell)
    views, shown_times = at_position.max(axis=1), by_pair(impressions)
    np.maximum.at(views, query, shown_times)  # a page shows a document once
    examinations = by_pair(impressions * examined[place])
    if table.clicked_only:
        seen = shown_times > 0
        examinations[seen] *= (views[query] / np.where(seen, shown_times, 1))[seen]
    return _Log(
        query_codes=codes,
        query=query,
        views=views,
        impressions=shown_times,
        examined=examinations,
        totals=totals,
    )


class _Shown(NamedTuple):
    """The documents that the new ranking shows; a unit is one of its queries that the log has too."""

    queries: NDArray[np.int64]
    """[units] code of the query in the log."""
    unit: NDArray[np.int64]
    """[documents]"""
    pair: NDArray[np.int64]
    """[documents] index into the log's pairs, -1 where it never shows the document."""
    examined: Floats
    """[documents] propensity of the new position."""


def _place(table: ClickTable, log: _Log, ranking: Mapping[str, Sequence[Pair]], examined: Floats) -> _Shown:
    index = {pair: number for number, pair in enumerate(table.pairs) if log.examined[number] > 0}
    queries: list[int] = []
    documents: list[tuple[int, int, int]] = []
    for query_id in sorted(ranking):
        pairs = ranking[query_id][: len(examined)]
        code = log.query_codes.get(pairs[0].query) if pairs else None
        if code is None or not log.views[code]:
            continue
        documents += [(len(queries), index.get(pair, -1), place) for place, pair in enumerate(pairs)]
        queries.append(code)
    if not queries:
        raise ValueError(
            f"no query is both ranked and in the click log: {len(ranking)} ranked (first: "
            f"{next((pairs[0].query for pairs in ranking.values() if pairs), None)!r}), {len(log.views)} logged "
            f"(first: {table.pairs[0].query!r}); rank queries of the log"
        )
    unit, pair, place = np.array(documents).T
    return _Shown(np.array(queries), unit, pair, examined[place])


def _sum_by(keys: NDArray[np.int64], values: Floats, size: int) -> Floats:
    """[size] the sum of `values` by key."""
    return np.asarray(np.bincount(keys, values, size), dtype=np.float64)
