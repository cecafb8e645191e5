"""How scores are spread, against figures worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from disranker.evaluation.measures import Measured
from disranker.evaluation.runs import System, write_system
from disranker.sweep.distributions import BIN_EDGES, spread_scores

Scores = Mapping[str, Mapping[str, float]]


def system(folder: Path, name: str, scores: Scores) -> System:
    rows = [(query, doc, score) for query, docs in scores.items() for doc, score in docs.items()]
    query_ids, doc_ids, values = zip(*rows, strict=True)
    return write_system(folder, System(name, "run", Measured({}, {}, {}, {})), query_ids, doc_ids, values)


SCORES: Scores = {"q": {"a": 1.0, "b": 3.0}, "r": {"a": 5.0, "b": 7.0, "c": 9.0}}


def test_the_spread_of_one_seed_by_hand(tmp_path: Path) -> None:
    spread = spread_scores({0: system(tmp_path, "one", SCORES)}, None)
    assert (spread.mean, spread.std) == pytest.approx((5.0, np.sqrt(8.0)))
    # Deviations from the queries' means: 1, 1, 2, 0, 2 in squares 1 + 1 + 4 + 0 + 4 of 5 x 8.
    assert spread.within_queries == pytest.approx(10 / 40)
    assert spread.quantiles[2] == pytest.approx(0.0) and spread.tau is None
    assert sum(spread.histogram) == pytest.approx(1.0) and len(spread.histogram) == len(BIN_EDGES) - 1


def test_seeds_are_standardised_apart(tmp_path: Path) -> None:
    larger = {query: {doc: 100 + 10 * score for doc, score in docs.items()} for query, docs in SCORES.items()}
    one, other = system(tmp_path / "0", "one", SCORES), system(tmp_path / "1", "one", larger)
    single, both = spread_scores({0: one}, None), spread_scores({0: one, 1: other}, None)
    assert both.mean == pytest.approx((5.0 + 150.0) / 2)
    assert both.histogram == pytest.approx(single.histogram)
    assert both.within_queries == pytest.approx(single.within_queries)


def test_agreement_is_the_mean_tau_over_queries(tmp_path: Path) -> None:
    other = {"q": {"a": 2.0, "b": 1.0}, "r": {"c": 1.0, "a": 0.0, "b": 5.0}}
    whole = {0: system(tmp_path / "0", "whole", SCORES)}
    spread = spread_scores({0: system(tmp_path / "1", "other", other)}, whole)
    expected = np.mean([-1.0, kendalltau([5.0, 7.0, 9.0], [0.0, 5.0, 1.0]).statistic])
    assert spread.tau == pytest.approx(expected)
    assert spread_scores(whole, whole).tau is None


def test_constant_scores_have_a_spread_and_no_agreement(tmp_path: Path) -> None:
    flat = {query: dict.fromkeys(docs, 1.0) for query, docs in SCORES.items()}
    spread = spread_scores({0: system(tmp_path / "1", "flat", flat)}, {0: system(tmp_path / "0", "whole", SCORES)})
    assert (spread.std, spread.within_queries, spread.tau) == (0.0, 0.0, None)
    far = {"q": {"a": 0.0, "b": 0.0, "c": 0.0}, "r": {**{f"d{i}": 0.0 for i in range(60)}, "e": 1.0}}
    outer = spread_scores({0: system(tmp_path / "2", "far", far)}, None)
    assert outer.histogram[-1] == pytest.approx(1 / 64)  # beyond the last edge, counted in the last bin
