"""Correlations of many queries at once against scipy, one query at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from disranker.evaluation import correlation
from disranker.evaluation.correlation import kendall_tau_b, positions, spearman_rho
from disranker.evaluation.measures import rank_documents

VALUES = st.integers(-3, 3).map(float) | st.floats(-10, 10, width=32)
QUERIES = st.lists(st.lists(st.tuples(VALUES, VALUES), max_size=12), min_size=1, max_size=6)


def columns(queries):
    lengths = np.array([len(rows) for rows in queries])
    rows = np.array([row for rows in queries for row in rows], dtype=np.float64).reshape(-1, 2)
    return lengths, rows[:, 0], rows[:, 1]


def by_scipy(correlate, rows):
    left, right = zip(*rows, strict=True) if rows else ((), ())
    if len(set(left)) < 2 or len(set(right)) < 2:
        return np.nan
    return correlate(left, right).statistic


@settings(max_examples=60, deadline=None)
@given(QUERIES)
def test_every_query_as_scipy_has_it(queries):
    expected = [by_scipy(stats.kendalltau, rows) for rows in queries]
    np.testing.assert_allclose(kendall_tau_b(*columns(queries)), expected, atol=1e-12)
    expected = [by_scipy(stats.spearmanr, rows) for rows in queries]
    np.testing.assert_allclose(spearman_rho(*columns(queries)), expected, atol=1e-12)


def test_by_hand():
    # pairs of (1,1) (2,3) (3,2): two concordant, one discordant
    lengths, left, right = columns([[(1, 1), (2, 3), (3, 2)], [(1, 5), (2, 4)]])
    assert kendall_tau_b(lengths, left, right) == pytest.approx([1 / 3, -1])
    assert spearman_rho(lengths, left, right) == pytest.approx([0.5, -1])


def test_a_long_query_with_ties():
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 50, 3000).astype(float), rng.normal(size=3000).round(2)
    lengths = np.array([3000])
    assert kendall_tau_b(lengths, left, right)[0] == pytest.approx(stats.kendalltau(left, right).statistic, abs=1e-12)
    assert spearman_rho(lengths, left, right)[0] == pytest.approx(stats.spearmanr(left, right).statistic, abs=1e-12)


def test_no_correlation_of_constants_single_rows_and_nothing():
    lengths, left, right = columns([[(1, 1), (1, 2)], [(1, 1)], [], [(1, 2), (2, 2)], [(1, 1), (2, 2)]])
    for correlate in (kendall_tau_b, spearman_rho):
        np.testing.assert_array_equal(np.isnan(correlate(lengths, left, right)), [True, True, True, True, False])
    assert kendall_tau_b(np.array([], dtype=np.int64), np.array([]), np.array([])).size == 0


def test_blocks_do_not_show(monkeypatch):
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 9, size=40)
    left, right = rng.integers(0, 4, (2, lengths.sum())).astype(float)
    whole = [correlate(lengths, left, right) for correlate in (kendall_tau_b, spearman_rho)]
    monkeypatch.setattr(correlation, "_BLOCK_ROWS", 5)
    assert len(list(correlation._blocks(lengths))) > 10
    for correlate, expected in zip((kendall_tau_b, spearman_rho), whole, strict=True):
        np.testing.assert_array_equal(correlate(lengths, left, right), expected)


def test_positions_are_those_of_the_measures():
    rng = np.random.default_rng(2)
    queries = [{f"d{doc}": float(rng.integers(0, 3)) for doc in range(size)} for size in (5, 1, 8)]
    lengths, scores, expected = np.array([5, 1, 8]), [], []
    for documents in queries:
        placed = {doc: place for place, doc in enumerate(rank_documents(documents), start=1)}
        for doc in sorted(documents, reverse=True):  # trec_eval's order of equal scores
            scores.append(documents[doc])
            expected.append(placed[doc])
    assert positions(lengths, np.array(scores)).tolist() == expected
