"""How sure a teacher is: brute force, query by query."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from disranker.data.certainty import centred, document_margins, entropy_shares, query_margins

SIZES = [3, 1, 7, 2, 0, 12]
QUERIES = np.random.default_rng(0).permutation(np.repeat(np.arange(6), SIZES))
SCORES = np.random.default_rng(1).normal(size=25).astype(np.float32)


def test_margin_of_a_query_is_the_best_above_the_mean_of_the_rest() -> None:
    found = query_margins(SCORES, QUERIES, 6)
    for query, size in enumerate(SIZES):
        ordered = np.sort(SCORES[query == QUERIES].astype(np.float64))
        assert found[query] == pytest.approx(ordered[-1] - ordered[:-1].mean() if size > 1 else np.nan, nan_ok=True)


def test_entropy_is_1_where_nothing_is_decided_and_0_where_one_document_wins() -> None:
    found = entropy_shares(SCORES, QUERIES, 6)
    for query, size in enumerate(SIZES):
        expected = entropy(softmax(SCORES[query == QUERIES].astype(np.float64))) / np.log(size) if size > 1 else np.nan
        assert found[query] == pytest.approx(expected, nan_ok=True)
    extremes = entropy_shares(np.array([4.0, 4.0, 900.0, -900.0]), np.array([0, 0, 1, 1]), 2)
    assert extremes.tolist() == [1.0, 0.0]


def test_margin_of_a_document_is_the_distance_to_its_nearest_neighbour() -> None:
    found = document_margins(SCORES, QUERIES)
    for row in range(25):
        others = (QUERIES[row] == QUERIES) & (np.arange(25) != row)
        nearest = np.abs(SCORES[others].astype(np.float64) - SCORES[row]).min() if others.any() else np.nan
        assert found[row] == pytest.approx(nearest, nan_ok=True)
    assert document_margins(np.array([1.0, 5.0, 1.0]), np.zeros(3, dtype=np.int64)).tolist() == [0.0, 4.0, 0.0]


def test_centring_takes_the_mean_of_the_query() -> None:
    found = centred(SCORES, QUERIES, 6)
    for query in range(6):
        inside = query == QUERIES
        assert found[inside] == pytest.approx(
            SCORES[inside] - (SCORES[inside].mean() if inside.any() else 0.0), abs=1e-6
        )
