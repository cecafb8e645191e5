"""Student against teacher: retention, correlations, spreads of scores, and where they part."""

import json
import math
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from disranker.evaluation.agreement import FiveNumbers, compare_to_teacher, retained_quality
from disranker.evaluation.measures import Measured, measure_run, rank_documents
from disranker.evaluation.pairs import PairCounts

MEASURES = ("nDCG@5", "PNR")


def world(num_queries=25, num_documents=8, seed=0):
    rng = np.random.default_rng(seed)
    labels = {f"q{q:02}": {f"d{d}": int(rng.integers(0, 4)) for d in range(num_documents)} for q in range(num_queries)}
    teacher = {q: {d: 3 * (label + rng.normal(0, 0.8)) for d, label in docs.items()} for q, docs in labels.items()}
    student = {q: {d: score / 5 + rng.normal(0, 0.3) - 7 for d, score in docs.items()} for q, docs in teacher.items()}
    return labels, teacher, student


def agree(labels, teacher, student, measures=MEASURES, **settings):
    parts = (measure_run(labels, scores, measures) for scores in (teacher, student))
    return compare_to_teacher(labels, teacher, student, *parts, measures, samples=200, **settings)


def test_retention_is_the_ratio_of_the_aggregates():
    labels, teacher, student = world()
    parts = [measure_run(labels, scores, MEASURES) for scores in (teacher, student)]
    for measure in MEASURES:
        found = retained_quality(*parts, measure)
        assert (found.teacher, found.student) == pytest.approx([part.aggregate[measure] for part in parts])
        assert found.retention == pytest.approx(found.student / found.teacher)
        assert found.interval[0] < found.retention < found.interval[1]
        assert (found.measure, found.num_queries) == (measure, 25)


def test_retention_interval_covers_the_truth():
    rng, covered = np.random.default_rng(1), 0
    for seed in range(150):
        teacher, noise = rng.uniform(0.4, 1, 60), rng.normal(0, 0.1, 60)
        parts = [
            Measured({}, {"nDCG@5": {f"q{at}": float(value) for at, value in enumerate(values)}}, {}, {})
            for values in (teacher, 0.9 * teacher + noise)
        ]
        low, high = retained_quality(*parts, "nDCG@5", samples=300, seed=seed).interval
        covered += low <= 0.9 <= high
    assert covered / 150 == pytest.approx(0.94, abs=0.05)


def test_retention_of_nothing_and_of_perfection():
    def counted(*pairs):
        named = {f"q{at}": PairCounts(*counts) for at, counts in enumerate(pairs)}
        return Measured({}, {"PNR": {query: counts.pnr() for query, counts in named.items()}}, named, {})

    nothing, something = counted((0, 2, 0), (0, 1, 0)), counted((1, 1, 0), (1, 0, 0))
    assert retained_quality(something, nothing, "PNR").retention == 0
    assert retained_quality(nothing, something, "PNR").retention == math.inf
    assert math.isnan(retained_quality(nothing, nothing, "PNR").retention)
    perfect = counted((2, 0, 0), (1, 0, 0))
    assert math.isnan(retained_quality(perfect, perfect, "PNR").retention)


def test_correlations_are_means_over_queries():
    labels, teacher, student = world()
    found = agree(labels, teacher, student)
    for correlation, reference in ((found.kendall, stats.kendalltau), (found.spearman, stats.spearmanr)):
        values = [
            reference(
                np.array(list(teacher[query].values()), dtype=np.float32),
                np.array([student[query][doc] for doc in teacher[query]], dtype=np.float32),
            ).statistic
            for query in teacher
        ]
        assert correlation.mean == pytest.approx(np.mean(values))
        assert correlation.quantiles == pytest.approx(np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)))
        assert correlation.interval[0] < correlation.mean < correlation.interval[1]
        assert (correlation.num_queries, correlation.num_constant, correlation.num_single) == (25, 0, 0)


def test_queries_without_a_correlation_are_counted():
    labels = {"flat": {"a": 1, "b": 0}, "single": {"a": 1}, "good": {"a": 1, "b": 0}}
    teacher = {"flat": {"a": 1.0, "b": 2.0}, "single": {"a": 1.0}, "good": {"a": 2.0, "b": 1.0}}
    student = {"flat": {"a": 0.5, "b": 0.5}, "single": {"a": 1.0}, "good": {"a": 9.0, "b": 8.0}}
    found = agree(labels, teacher, student).kendall
    assert (found.num_queries, found.num_constant, found.num_single, found.mean) == (1, 1, 1, 1.0)
    none = agree({"single": {"a": 1}}, {"single": {"a": 1.0}}, {"single": {"a": 2.0}}).spearman
    assert (none.num_queries, none.quantiles, none.num_single) == (0, (), 1)
    assert math.isnan(none.mean) and math.isnan(none.interval[0])


def test_scales_do_not_matter():
    labels, teacher, _ = world()
    scaled = {query: {doc: 4 * score + 8 for doc, score in docs.items()} for query, docs in teacher.items()}
    found = agree(labels, teacher, scaled)
    assert found.kendall.mean == found.spearman.mean == 1
    assert [each.retention for each in found.retention] == [1, 1]
    assert (found.position_gaps, found.query_losses) == ((), ())
    assert all(abs(gap.score_gap) < 1e-5 for gap in found.score_gaps)  # float32
    assert agree(labels, teacher, teacher).score_gaps == ()


def test_histogram():
    labels, teacher, student = world()
    found = agree(labels, teacher, student, num_bins=10).histogram
    assert len(found.edges) == 11 and sum(found.teacher) == sum(found.student) == 25 * 8
    raw = np.array([score for docs in teacher.values() for score in docs.values()])
    assert (found.teacher_mean, found.teacher_deviation) == pytest.approx((raw.mean(), raw.std()), rel=1e-5)
    edges = found.teacher_mean + found.teacher_deviation * np.array(found.edges)
    inside = [int(((raw >= low) & (raw < high)).sum()) for low, high in pairwise(edges)]
    assert list(found.teacher)[:-1] == inside[:-1]


def test_constant_scores_have_no_spread():
    labels, teacher, _ = world(3)
    flat = {query: dict.fromkeys(docs, 0.1) for query, docs in teacher.items()}
    found = agree(labels, teacher, flat)
    assert {grade.student for grade in found.grades} == {FiveNumbers(0, 0, 0, 0, 0)}
    assert found.kendall.num_constant == 3


def test_grades_and_documents_without_a_label():
    labels = {"q": {"a": 0, "b": 2, "c": 2, "e": 2}}
    teacher = {"q": {"a": -3.0, "b": 1.0, "c": 3.0, "d": 0.0, "e": -1.0}}  # mean 0, deviation 2
    found = agree(labels, teacher, teacher)
    assert [(grade.label, grade.num_documents) for grade in found.grades] == [(0, 1), (2, 3), (None, 1)]
    assert found.grades[1].teacher == FiveNumbers(-0.5, 0.0, 0.5, 1.0, 1.5)
    assert found.grades[2].student == FiveNumbers(0, 0, 0, 0, 0)


def test_where_they_differ_most():
    labels, teacher, student = world()
    moved = dict(student["q07"])
    best = rank_documents(teacher["q07"])[0]
    moved[best] = -100.0
    found = agree(labels, teacher, {**student, "q07": moved}, num_listed=3)
    gap = found.score_gaps[0]
    assert (gap.query_id, gap.doc_id, gap.label) == ("q07", best, labels["q07"][best])
    assert (gap.teacher_position, gap.student_position, gap.num_documents) == (1, 8, 8)
    assert (gap.teacher_score, gap.student_score) == pytest.approx((teacher["q07"][best], -100), rel=1e-6)
    assert gap.score_gap < 0
    assert found.position_gaps[0] == gap
    for gaps in (found.score_gaps, found.position_gaps):
        assert len(gaps) == 3
    sizes = [abs(each.score_gap) for each in found.score_gaps]
    assert sizes == sorted(sizes, reverse=True)


def test_listed_documents_are_the_head_of_all():
    world_of_ties = world(12, 6, seed=3)
    every, few, none = (agree(*world_of_ties, num_listed=count) for count in (10_000, 7, 0))
    assert every.position_gaps[:7] == few.position_gaps and every.score_gaps[:7] == few.score_gaps
    assert (none.position_gaps, none.score_gaps, none.query_losses) == ((), (), ())
    moved = [(abs(gap.teacher_position - gap.student_position), abs(gap.score_gap)) for gap in every.position_gaps]
    assert moved == sorted(moved, reverse=True) and moved[-1][0] > 0
    assert len(every.score_gaps) == 72


@pytest.mark.parametrize("measure", MEASURES)
def test_queries_with_the_largest_losses(measure):
    labels, teacher, student = world()
    found = agree(labels, teacher, student, measures=(measure,), num_listed=4).query_losses
    parts = [measure_run(labels, scores, (measure,)) for scores in (teacher, student)]

    def value(part, query):
        if measure == "PNR":
            concordant, discordant = part.pairs[query].split()
            return concordant / (concordant + discordant)
        return part.per_query[measure][query]

    losses = sorted((value(parts[0], query) - value(parts[1], query) for query in labels), reverse=True)
    assert [each.loss for each in found] == pytest.approx(losses[:4])
    for each in found:
        assert each.loss == pytest.approx(each.teacher - each.student)
        assert each.teacher == pytest.approx(value(parts[0], each.query_id))
        assert (each.measure, each.num_documents) == (measure, 8)


def test_positions_of_equal_scores_are_those_of_the_measures():
    labels = {"q": {"a": 1, "b": 0, "c": 0}}
    found = agree(labels, {"q": {"a": 2.0, "b": 1.0, "c": 0.0}}, {"q": {"a": 1.0, "b": 1.0, "c": 1.0}})
    assert {(gap.doc_id, gap.teacher_position, gap.student_position) for gap in found.position_gaps} == {
        ("a", 1, 3),
        ("c", 3, 1),
    }


def test_it_is_json():
    found = asdict(agree(*world(6)))
    assert json.loads(json.dumps(found, allow_nan=False))["kendall"]["name"] == "kendall_tau_b"


def test_faults_are_named():
    labels, teacher, student = world(3)
    with pytest.raises(ValueError, match="big and small have scored different queries: 1 are in one only, first query"):
        agree(labels, teacher, {query: student[query] for query in ("q00", "q01")}, names=("big", "small"))
    fewer = {**student, "q01": {doc: score for doc, score in student["q01"].items() if doc != "d3"}}
    with pytest.raises(ValueError, match=r"different rows: 1 .* first \(query_id 'q01', doc_id 'd3'\)"):
        agree(labels, teacher, fewer)
    parts = [measure_run(labels, scores, MEASURES) for scores in (teacher, student)]
    broken = {**student, "q01": {**student["q01"], "d3": math.nan}}
    with pytest.raises(ValueError, match=r"1 scores of student are NaN .* first of \(query_id 'q01', doc_id 'd3'\)"):
        compare_to_teacher(labels, teacher, broken, *parts, MEASURES)
    with pytest.raises(ValueError, match="measures is empty"):
        compare_to_teacher(labels, teacher, student, *parts, ())
    with pytest.raises(ValueError, match="num_bins=0"):
        compare_to_teacher(labels, teacher, student, *parts, MEASURES, num_bins=0)
    with pytest.raises(ValueError, match="have scored nothing"):
        compare_to_teacher(labels, {}, {}, *parts, MEASURES)
