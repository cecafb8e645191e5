"""Calibration against hand values, the conditions of each optimum, and scikit-learn."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from disranker.evaluation.calibration import (
    Bin,
    calibrate,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    measure_reliability,
)


def make_rows(scale, bias, num=4000, seed=0):
    """Scores for which sigmoid(scale · score + bias) is the truth."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(1.0, 3.0, num)
    return rng.random(num) < expit(scale * scores + bias), scores


def test_reliability_by_hand():
    probs = np.array([0.9, 0.1, 0.2, 0.8])
    found = measure_reliability(np.array([True, False, True, True]), probs, num_bins=2)
    low, high = found.bins
    assert (low.low, low.high, low.count, low.share_positive) == (0.1, 0.2, 2, 0.5)
    assert (low.mean_prob, high.mean_prob) == (pytest.approx(0.15), pytest.approx(0.85))
    assert found.ece == pytest.approx((0.35 + 0.15) / 2)
    assert found.brier == pytest.approx((0.01 + 0.01 + 0.64 + 0.04) / 4)


def test_equal_probabilities_share_a_bin_whatever_the_order():
    probs, positive = np.array([0.5, 0.5, 0.5, 0.5, 0.7]), np.array([True, True, False, False, True])
    found = measure_reliability(positive, probs, num_bins=5)
    assert found.bins == (Bin(0.5, 0.5, 4, 0.5, 0.5), Bin(0.7, 0.7, 1, pytest.approx(0.7), 1.0))
    assert measure_reliability(positive[::-1], probs[::-1], num_bins=5) == found


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(np.linspace(0, 1, 9).tolist())), min_size=1), st.integers(1, 20)
)
def test_bins_hold_every_row_once(rows, num_bins):
    positive, probs = (np.array(column) for column in zip(*rows, strict=True))
    found = measure_reliability(positive, probs, num_bins)
    assert sum(of.count for of in found.bins) == len(rows)
    assert len(found.bins) <= num_bins
    assert sum(of.count * of.share_positive for of in found.bins) == pytest.approx(positive.sum())
    for of in found.bins:
        inside = (probs >= of.low) & (probs <= of.high)
        assert (inside.sum(), of.mean_prob) == (of.count, pytest.approx(probs[inside].mean()))
    assert found.brier == pytest.approx(np.mean((probs - positive) ** 2))


@pytest.mark.parametrize("unit", [1.0, 1e4, 1e-4])
def test_platt_finds_scale_and_bias_and_meets_the_conditions_of_an_optimum(unit):
    positive, scores = make_rows(0.7, -1.5)
    found = fit_platt(positive, scores * unit)
    assert (found.scale * unit, found.bias) == (pytest.approx(0.7, abs=0.05), pytest.approx(-1.5, abs=0.1))
    num = positive.sum()
    targets = np.where(positive, (num + 1) / (num + 2), 1 / (len(positive) - num + 2))
    wrong = found.probs(scores * unit) - targets
    assert (wrong.mean(), (wrong * scores).mean()) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))


def test_platt_stays_finite_where_scores_part_perfectly():
    found = fit_platt(np.array([False, False, True, True]), np.array([-2.0, -1.0, 1.0, 2.0]))
    assert 0 < found.scale < 10
    assert found.bias == pytest.approx(0, abs=1e-6)


def test_temperature_finds_the_divisor():
    positive, scores = make_rows(0.25, 0.0)
    found = fit_temperature(positive, scores)
    assert found.temperature == pytest.approx(4.0, abs=0.3)
    logits = scores / found.temperature
    assert np.mean((expit(logits) - positive) * logits) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("decimals", [None, 0])
def test_isotonic_equals_scikit_learn(decimals):
    isotonic = pytest.importorskip("sklearn.isotonic")
    positive, scores = make_rows(0.7, -1.5, num=500)
    scores = scores if decimals is None else scores.round(decimals)
    theirs = isotonic.IsotonicRegression(out_of_bounds="clip").fit(scores, positive)
    where = np.linspace(-12, 14, 301)
    found = fit_isotonic(positive, scores)
    assert found.probs(where) == pytest.approx(theirs.predict(where), abs=1e-9)
    assert len(found.scores) < len(np.unique(scores))


def make_queries(scale, bias, num_queries=300):
    positive, scores = make_rows(scale, bias, num=num_queries * 20)
    return [f"q{row // 20}" for row in range(len(scores))], np.where(positive, 3, 1), scores


def test_calibration_helps_on_queries_that_it_has_not_seen():
    query_ids, labels, scores = make_queries(0.3, -1.0)
    report = calibrate(query_ids, labels, scores, rel=2, seed=3)
    assert report.num_fit_queries + report.num_held_queries == 300
    assert 100 < report.num_fit_queries < 200
    assert report.before.num_rows == 20 * report.num_held_queries
    for after in (report.platt, report.isotonic):
        assert after.ece < 0.04 < 0.1 < report.before.ece
        assert after.brier < report.before.brier
    assert report.platt.brier < report.temperature.brier < report.before.brier  # the bias is out of its reach
    json.dumps(asdict(report), allow_nan=False)


def test_the_split_is_by_query_and_follows_the_seed_not_the_order():
    query_ids, labels, scores = make_queries(1.0, 0.0, num_queries=40)
    order = np.random.default_rng(1).permutation(len(labels))
    one = calibrate(query_ids, labels, scores, rel=2)
    other = calibrate([query_ids[row] for row in order], labels[order], scores[order], rel=2)
    assert other.fitted_platt.scale == pytest.approx(one.fitted_platt.scale, rel=1e-6)
    assert (other.num_fit_queries, other.before.ece) == (one.num_fit_queries, pytest.approx(one.before.ece))
    assert calibrate(query_ids, labels, scores, rel=2, seed=1).fitted_platt != one.fitted_platt


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(ValueError, match=r"of the . queries (fitted on|held out), .* of 0 documents have a label"):
        calibrate(["q", "q"], [0, 2], [0.0, 1.0], rel=2)
    with pytest.raises(ValueError, match="1 query_ids and 2 labels"):
        calibrate(["q"], [0, 2], [0.0, 1.0], rel=2)
    with pytest.raises(ValueError, match="fit_share=1 must lie between"):
        calibrate(["q", "q"], [0, 2], [0.0, 1.0], rel=2, fit_share=1)
    with pytest.raises(ValueError, match=r"probabilities must lie in \[0, 1\]"):
        measure_reliability(np.array([True]), np.array([1.5]))
    with pytest.raises(ValueError, match="num_bins=0"):
        measure_reliability(np.array([True]), np.array([0.5]), num_bins=0)
