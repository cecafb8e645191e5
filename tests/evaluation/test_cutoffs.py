"""Cut-offs against hand values, brute force and scikit-learn."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disranker.evaluation.cutoffs import GradeCuts, best_threshold, confuse_grades, fit_grade_cuts, measure_cutoffs

rows = st.lists(st.tuples(st.integers(0, 3), st.integers(-4, 4)), min_size=2, max_size=30).filter(
    lambda rows: any(label >= 2 for label, _ in rows) and any(label < 2 for label, _ in rows)
)


def test_hand_values():
    # positives (label >= 2) at 0.9, 0.6, 0.6; others at 0.6, 0.1
    labels, scores = [3, 2, 1, 2, 0], [0.9, 0.6, 0.6, 0.6, 0.1]
    report = measure_cutoffs(labels, scores, rel=2, thresholds=[0.95, 0.9, 0.5, 0.0])
    assert (report.num_positive, report.num_negative) == (3, 2)
    assert report.auroc == (2 + 1.5 + 1.5) / 6
    assert report.average_precision == pytest.approx(1 / 3 * 1 + 2 / 3 * 3 / 4)
    nothing, first, middle, everything = report.thresholds
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, 0.0, 0.0)
    assert (first.precision, first.recall, first.f1) == (1.0, 1 / 3, 0.5)
    assert (middle.true_positives, middle.false_positives, middle.false_negatives, middle.true_negatives) == (
        3,
        1,
        0,
        1,
    )
    assert everything.precision == 3 / 5
    assert (report.best.threshold, report.best.f1) == (0.6, 6 / 7)
    assert best_threshold(labels, scores, rel=2) == 0.6
    json.dumps(asdict(report), allow_nan=False)


@settings(max_examples=30, deadline=None)
@given(rows, st.integers(-5, 5))
def test_figures_equal_scikit_learn_and_brute_force(rows, threshold):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    positive = labels >= 2
    report = measure_cutoffs(labels, scores, rel=2, thresholds=[threshold])
    assert report.auroc == pytest.approx(metrics.roc_auc_score(positive, scores), abs=1e-12)
    assert report.average_precision == pytest.approx(metrics.average_precision_score(positive, scores), abs=1e-12)
    shown, found = scores >= threshold, report.thresholds[0]
    assert found.precision == (pytest.approx(positive[shown].mean()) if shown.any() else None)
    assert found.recall == pytest.approx(metrics.recall_score(positive, shown))
    assert found.f1 == pytest.approx(metrics.f1_score(positive, shown))
    assert found.true_negatives == (~shown & ~positive).sum()
    f1 = {float(at): metrics.f1_score(positive, scores >= at) for at in scores}
    assert report.best.f1 == pytest.approx(max(f1.values()))
    assert report.best.threshold == max(at for at in f1 if f1[at] == pytest.approx(max(f1.values())))


def test_cuts_keep_the_shares_of_the_grades():
    rng = np.random.default_rng(0)
    labels, scores = rng.choice([0, 2, 3], 500, p=[0.6, 0.3, 0.1]), rng.normal(size=500)
    cuts = fit_grade_cuts(labels, scores)
    assert cuts.grades == (0, 2, 3)
    predicted = cuts.predict(scores)
    assert np.bincount(predicted).tolist() == np.bincount(labels).tolist()
    assert confuse_grades(labels, labels, fit_grade_cuts(labels, labels)).accuracy == 1.0


def test_equal_scores_get_one_grade_the_upper():
    cuts = fit_grade_cuts([0, 0, 1, 1], [1.0, 2.0, 2.0, 3.0])
    assert cuts == GradeCuts((0, 1), (2.0,))
    assert cuts.predict([1.9, 2.0, 9.0]).tolist() == [0, 1, 1]
    assert fit_grade_cuts([2, 2], [1.0, 2.0]) == GradeCuts((2,), ())


def test_confusion_by_hand_with_a_label_that_has_no_cut():
    confusion = confuse_grades([0, 0, 1, 3, 3], [0.1, 0.6, 0.7, 0.8, 0.2], GradeCuts((0, 1), (0.5,)))
    assert confusion.grades == (0, 1, 3)
    assert confusion.counts == ((1, 1, 0), (0, 1, 0), (1, 1, 0))
    assert (confusion.accuracy, confusion.within_one) == (2 / 5, 3 / 5)
    assert confusion.mean_absolute_error == (0 + 1 + 0 + 2 + 3) / 5
    json.dumps(asdict(confusion))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([2, 3], [0.1, 0.2], "2 of 2 documents have a label of at least rel=2.*the labels are 2, 3"),
        ([0, 1], [0.1, 0.2], "0 of 2 documents"),
        ([0, 2], [0.1, float("nan")], "1 scores are NaN or infinite: row 1: nan"),
        ([0, None], [0.1, 0.2], "1 labels are missing or no whole numbers: row 1: nan"),
        ([0, 2.5], [0.1, 0.2], "1 labels are missing or no whole numbers: row 1: 2.5"),
        ([0], [0.1, 0.2], "1 labels and 2 scores"),
        ([], [], "no documents"),
    ],
)
def test_bad_rows_are_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        measure_cutoffs(labels, scores, rel=2)
