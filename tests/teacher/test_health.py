"""The health of scores against a plain reading of its definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disranker.teacher import health as health_module
from disranker.teacher.health import describe_scores, health_lines


def by_definition(scores: list[float], queries: list[int]) -> dict[str, float | int | None]:
    groups = [[s for s, q in zip(scores, queries, strict=True) if q == query] for query in dict.fromkeys(queries)]
    many = [group for group in groups if len(group) > 1]
    pairs = [pair for group in many for pair in itertools.combinations(group, 2)]

    def entropy(group: list[float]) -> float:
        total = sum(math.exp(s) for s in group)
        return -sum(math.exp(s) / total * math.log(math.exp(s) / total) for s in group)

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    return {
        "saturated_share": sum(s in (min(scores), max(scores)) for s in scores) / len(scores),
        "num_queries": len(groups),
        "queries_of_one_document": len(groups) - len(many),
        "constant_queries": sum(len(set(group)) == 1 for group in many),
        "tied_pairs_share": sum(a == b for a, b in pairs) / len(pairs) if pairs else 0.0,
        "mean_query_std": mean([float(np.std(group)) for group in many]),
        "mean_query_entropy": mean([entropy(group) for group in many]),
        "mean_query_entropy_share": mean([entropy(group) / math.log(len(group)) for group in many]),
    }


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), min_size=2, max_size=40).filter(
        lambda rows: len({score for score, _ in rows}) > 1
    ),
    st.sampled_from([1, 3, 1000]),
)
def test_health_is_what_its_definition_says(rows: list[tuple[int, int]], at_once: int) -> None:
    scores, queries = [score / 2 for score, _ in rows], [query for _, query in rows]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(health_module, "_ROWS_AT_ONCE", at_once)
        found = describe_scores(np.array(scores, dtype=np.float32), np.array(queries, dtype=np.uint64))
    assert found["health"] == pytest.approx(by_definition(scores, queries), abs=1e-9)
    assert found["scores"]["quantiles"]["0.5"] == pytest.approx(np.median(scores))
    assert found["scores"]["std"] == pytest.approx(np.std(scores))


def test_extreme_scores_stay_finite() -> None:
    scores = np.array([1e4, -1e4, 3e38, 0.0], dtype=np.float32)
    found = describe_scores(scores, np.zeros(4, dtype=np.uint64))
    assert found["health"]["mean_query_entropy"] == pytest.approx(0.0, abs=1e-12)
    assert all(math.isfinite(value) for value in found["health"].values())


def test_one_document_per_query_has_no_spread() -> None:
    found = describe_scores(np.array([1.0, 2.0], dtype=np.float32), np.arange(2, dtype=np.uint64))
    assert found["health"]["mean_query_std"] is None and found["health"]["tied_pairs_share"] == 0.0
    assert len(health_lines(found)) == 3


def test_scores_that_are_all_equal_are_refused() -> None:
    with pytest.raises(ValueError, match=r"every pair the same score \(2\.5\): it has learned nothing"):
        describe_scores(np.full(3, 2.5, dtype=np.float32), np.zeros(3, dtype=np.uint64))


def test_the_screen_shows_ties_and_saturation() -> None:
    found = describe_scores(np.array([0.0, 0.0, 1.0, 2.0], dtype=np.float32), np.zeros(4, dtype=np.uint64))
    shown = "\n".join(health_lines(found))
    assert "mean 0.75" in shown and "50% 0.5" in shown
    assert "16.67% of the pairs of a query tie, 75.00% of all scores are at an extreme, 0 of 1 queries" in shown
    assert "std 0.8292 within a query, entropy 1.049 nats (76% of a uniform teacher's)" in shown
