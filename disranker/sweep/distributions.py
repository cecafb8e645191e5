"""How the systems of a sweep spread their scores, and how alike they order documents; numbers alone, no drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from disranker.evaluation.correlation import kendall_tau_b
from disranker.evaluation.runs import System

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BIN_EDGES = tuple(edge / 4 for edge in range(-16, 17))
"""Of the histograms, in standard deviations; what lies outside is in the outermost bins."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoreSpread:
    """The scores of one system over all measured rows of all seeds; each seed is standardised by itself."""

    mean: float
    """Of the raw scores, mean over the seeds."""
    std: float
    """Of the raw scores, mean over the seeds."""
    within_queries: float
    """Share of the variance that lies between documents of one query, which alone can rank them."""
    quantiles: tuple[float, ...]
    """Of the standardised scores, at `QUANTILES`."""
    histogram: tuple[float, ...]
    """Share of the rows in each of the bins between `BIN_EDGES`."""
    tau: float | None
    """Mean over queries of Kendall's tau-b with the system that others keep a share of; None for that one itself, where
    none is named, and where no query has one."""


def spread_scores(by_seed: Mapping[int, System], whole: Mapping[int, System] | None) -> ScoreSpread:
    """The spread of a system's scores; `whole` is the system whose value others keep a share of."""
    columns = {seed: _column(system.read_scores()) for seed, system in by_seed.items()}
    standardised = [(scores - scores.mean()) / (scores.std() or 1.0) for scores, _ in columns.values()]
    pooled = np.concatenate(standardised)
    counted, _ = np.histogram(pooled.clip(BIN_EDGES[0], BIN_EDGES[-1]), BIN_EDGES)
    return ScoreSpread(
        mean=float(np.mean([scores.mean() for scores, _ in columns.values()])),
        std=float(np.mean([scores.std() for scores, _ in columns.values()])),
        within_queries=float(
            np.mean([_within(one, lengths) for one, (_, lengths) in zip(standardised, columns.values(), strict=True)])
        ),
        quantiles=tuple(np.quantile(pooled, QUANTILES).tolist()),
        histogram=tuple((counted / len(pooled)).tolist()),
        tau=_agreement(by_seed, whole) if whole is not None and whole is not by_seed else None,
    )


def _column(scores: Mapping[str, Mapping[str, float]]) -> tuple[Floats, NDArray[np.int64]]:
    """([N] scores, query after query, [Q] rows of each query)."""
    values = np.array(list(chain.from_iterable(of.values() for of in scores.values())), dtype=np.float64)
    return values, np.array([len(of) for of in scores.values()], dtype=np.int64)


def _within(standardised: Floats, lengths: NDArray[np.int64]) -> float:
    """The variance that is left when every query's mean is taken out, as a share of the whole, which is 1."""
    queries = np.repeat(np.arange(len(lengths)), lengths)
    means = np.bincount(queries, standardised) / lengths
    return float(((standardised - means[queries]) ** 2).mean())


def _agreement(by_seed: Mapping[int, System], whole: Mapping[int, System]) -> float | None:
    found: list[Floats] = []
    for seed, system in by_seed.items():
        ours, theirs = system.read_scores(), whole[seed].read_scores()
        rows = {query: [doc for doc in of if doc in theirs.get(query, {})] for query, of in ours.items()}
        left = np.array([ours[query][doc] for query, docs in rows.items() for doc in docs])
        right = np.array([theirs[query][doc] for query, docs in rows.items() for doc in docs])
        found.append(kendall_tau_b(np.array([len(docs) for docs in rows.values()], dtype=np.int64), left, right))
    taus = np.concatenate(found)
    return float(np.nanmean(taus)) if np.isfinite(taus).any() else None
