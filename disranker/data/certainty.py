"""How sure a teacher is of a query, or of a document's place: from its scores alone, for all queries at once.

`scores` and `queries` are [N], the query of each score as an index from 0 to `num_queries`; rows of a query need not
stand together.  What is not defined is nan: of a query with fewer than two scores.  Numpy only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def query_margins(scores: NDArray[Any], queries: Ints, num_queries: int) -> Floats:
    """[Q] the best score minus the mean of the query's other scores."""
    sizes = np.bincount(queries, minlength=num_queries)
    best = _highest(scores, queries, num_queries)
    others = np.bincount(queries, scores, num_queries) - best
    return np.where(sizes >= 2, best - others / np.maximum(sizes - 1, 1), np.nan)


def entropy_shares(scores: NDArray[Any], queries: Ints, num_queries: int) -> Floats:
    """[Q] entropy of the softmax over each query's scores, over ln D: 1 where all are equal, near 0 where one wins."""
    sizes = np.bincount(queries, minlength=num_queries)
    shifted = scores - _highest(scores, queries, num_queries)[queries]
    mass = np.exp(shifted)
    total = np.bincount(queries, mass, num_queries)
    inner = np.bincount(queries, mass * shifted, num_queries)
    shares = np.full(num_queries, np.nan)
    several = sizes >= 2
    # -sum p ln p = ln Z - sum p x, with x shifted so that the largest is 0
    shares[several] = (np.log(total[several]) - inner[several] / total[several]) / np.log(sizes[several])
    return shares


def document_margins(scores: NDArray[Any], queries: Ints) -> Floats:
    """[N] distance of each score to the nearest other score of its query."""
    order = np.lexsort((scores, queries))
    ordered = scores[order].astype(np.float64)
    gaps = np.where(queries[order][1:] == queries[order][:-1], np.diff(ordered), np.inf)
    nearest = np.minimum(np.append(np.inf, gaps), np.append(gaps, np.inf))
    margins = np.empty(len(order))
    margins[order] = np.where(np.isinf(nearest), np.nan, nearest)
    return margins


def centred(scores: NDArray[Any], queries: Ints, num_queries: int) -> Floats:
    """[N] each score minus the mean of its query."""
    sizes = np.maximum(np.bincount(queries, minlength=num_queries), 1)
    return np.asarray(scores - (np.bincount(queries, scores, num_queries) / sizes)[queries])


def _highest(scores: NDArray[Any], queries: Ints, num_queries: int) -> Floats:
    """[Q] the highest score; 0 where there is none."""
    found = np.full(num_queries, -np.inf)
    np.maximum.at(found, queries, scores)
    return np.where(np.isinf(found), 0.0, found)
