"""`measure_run` and the ir-measures face of PNR, against hand values, pytrec_eval and ir-measures' own Accuracy."""

import math
import subprocess
import sys

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from ir_measures import Accuracy, nDCG

from disranker.evaluation.measures import (
    PNR,
    Rules,
    group_labels,
    group_scores,
    measure_name,
    measure_run,
    pnr,
    rank_documents,
)
from disranker.evaluation.pnr_measure import pair_rule_of, tie_rule_of
from disranker.schema import Judgment


def make_set(seed, num_queries=12, num_docs=15, levels=4, decimals=None):
    rng = np.random.default_rng(seed)
    labels, scores = {}, {}
    for query in range(num_queries):
        docs = [f"d{doc}" for doc in rng.permutation(100)[:num_docs]]
        values = rng.normal(size=num_docs)
        values = values if decimals is None else values.round(decimals)
        labels[f"q-{query}"] = dict(zip(docs, rng.integers(0, levels, num_docs).tolist(), strict=True))
        scores[f"q-{query}"] = dict(zip(docs, values.tolist(), strict=True))
    return labels, scores


def columns(labels, scores):
    rows = [(query, labels[query][doc], score) for query, docs in scores.items() for doc, score in docs.items()]
    return [list(column) for column in zip(*rows, strict=True)]


# --- PNR in ir-measures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decimals", [None, 0])
def test_pnr_mixes_with_their_measures_and_is_pooled(decimals):
    labels, scores = make_set(3, decimals=decimals)
    found = ir_measures.calc_aggregate([nDCG @ 10, PNR], labels, scores)
    assert found[PNR] == pytest.approx(pnr(*columns(labels, scores)).micro, abs=1e-12)
    assert found[nDCG @ 10] == pytest.approx(ir_measures.calc_aggregate([nDCG @ 10], labels, scores)[nDCG @ 10])
    per_query = {metric.query_id: metric.value for metric in PNR.iter_calc(labels, scores)}
    assert per_query["q-0"] == pnr(*columns({"q-0": labels["q-0"]}, {"q-0": scores["q-0"]})).micro
    assert found[PNR] != pytest.approx(np.mean(list(per_query.values())))


def test_pnr_is_parsed_by_name_and_with_a_tie_rule():
    assert ir_measures.parse_measure("PNR") == PNR
    strict = ir_measures.parse_measure("PNR(ties='discordant')")
    labels, scores = {"q": {"a": 2, "b": 1, "c": 0}}, {"q": {"a": 1.0, "b": 1.0, "c": 0.0}}
    assert ir_measures.calc_aggregate([PNR, strict], labels, scores) == {PNR: 5.0, strict: 2.0}
    with pytest.raises(AssertionError, match="ties"):
        ir_measures.calc_aggregate([PNR(ties="win")], labels, scores)


def test_pnr_takes_qrels_as_named_tuples_and_ignores_queries_missing_from_the_run():
    qrels = [ir_measures.Qrel("q", "a", 1), ir_measures.Qrel("q", "b", 0), ir_measures.Qrel("other", "a", 1)]
    run = [ir_measures.ScoredDoc("q", "a", 1.0), ir_measures.ScoredDoc("q", "b", 2.0)]
    assert ir_measures.calc_aggregate([PNR], qrels, run) == {PNR: 0.0}


def test_pnr_is_the_odds_of_accuracy_on_binary_labels_without_ties():
    rng = np.random.default_rng(5)
    labels, scores = {}, {}
    for query in range(8):  # the same number of pairs in every query, so that mean accuracy is pooled accuracy
        docs = [f"d{doc}" for doc in range(12)]
        labels[str(query)] = dict(zip(docs, [1] * 4 + [0] * 8, strict=True))
        scores[str(query)] = dict(
            zip(docs, (rng.permutation(12) + 2.0 * np.array([1] * 4 + [0] * 8)).tolist(), strict=True)
        )
        scores[str(query)] = {doc: score + index / 100 for index, (doc, score) in enumerate(scores[str(query)].items())}
    accuracy = ir_measures.calc_aggregate([Accuracy], labels, scores)[Accuracy]
    assert 0.5 < accuracy < 1
    assert pnr(*columns(labels, scores)).micro == pytest.approx(accuracy / (1 - accuracy), rel=1e-12)
    for metric in Accuracy.iter_calc(labels, scores):
        one = pnr(*columns({metric.query_id: labels[metric.query_id]}, {metric.query_id: scores[metric.query_id]}))
        expected = metric.value / (1 - metric.value) if metric.value < 1 else math.inf
        assert one.micro == pytest.approx(expected, rel=1e-9)


def test_numpy_alone_is_enough_for_pnr():
    code = (
        "import sys; from disranker.evaluation.measures import pnr; pnr(['q','q'], [1, 0], [1., 0.]); "
        "heavy = {'ir_measures', 'scipy', 'torch', 'pandas', 'matplotlib', 'bm25s'} & set(sys.modules); "
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- measure_run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decimals", [None, 0])
def test_ndcg_agrees_with_pytrec_eval(decimals):
    labels, scores = make_set(11, decimals=decimals)
    measured = measure_run(labels, scores, ("nDCG@5", "nDCG@10", "nDCG"))
    reference = pytrec_eval.RelevanceEvaluator(labels, {"ndcg_cut_5,10", "ndcg"}).evaluate(scores)
    for query, values in reference.items():
        assert measured.per_query["nDCG@5"][query] == pytest.approx(values["ndcg_cut_5"], abs=1e-9)
        assert measured.per_query["nDCG@10"][query] == pytest.approx(values["ndcg_cut_10"], abs=1e-9)
        assert measured.per_query["nDCG"][query] == pytest.approx(values["ndcg"], abs=1e-9)
    mean = np.mean([values["ndcg_cut_10"] for values in reference.values()])
    assert measured.aggregate["nDCG@10"] == pytest.approx(mean, abs=1e-9)


def test_linear_and_exponential_gain_by_hand():
    labels, scores = {"q": {"a": 3, "b": 1, "c": 0}}, {"q": {"b": 3.0, "a": 2.0, "c": 1.0}}
    measured = measure_run(labels, scores, ("nDCG@2", "nDCG(dcg='exp-log2')@2"))
    discount = 1 / math.log2(3)
    assert measured.aggregate["nDCG@2"] == pytest.approx((1 + 3 * discount) / (3 + 1 * discount))
    assert measured.aggregate["nDCG(dcg='exp-log2')@2"] == pytest.approx((1 + 7 * discount) / (7 + 1 * discount))


def test_a_measure_that_fails_on_the_set_is_named():
    with pytest.raises(ValueError, match="measure Accuracy cannot be computed"):
        measure_run({"q": {"a": 1}}, {"q": {"a": 1.0}}, ("Accuracy",))


def test_names_come_out_one_way():
    assert measure_name("NDCG@10") == measure_name(" nDCG @ 10".strip()) == "nDCG@10"
    assert list(measure_run({"q": {"a": 1}}, {"q": {"a": 1.0}}, ("NDCG@10", "MRR")).aggregate) == ["nDCG@10", "RR"]


def test_ties_never_depend_on_input_order():
    # Accuracy sorts by score alone and would follow the order that it is given
    measures = ("nDCG@3", "PNR", "Accuracy(rel=2)", "Judged@3", "nDCG(dcg='exp-log2')@3")
    labels, scores = make_set(13, decimals=0)
    rng = np.random.default_rng(0)
    shuffled = {}
    for query in rng.permutation(list(scores)):
        docs = rng.permutation(list(scores[query]))
        shuffled[str(query)] = {str(doc): scores[query][str(doc)] for doc in docs}
    assert measure_run(labels, scores, measures) == measure_run(labels, shuffled, measures)


def test_documents_are_placed_by_float32_score_then_doc_id_descending():
    assert rank_documents({"a": 1.0, "b": 1.0 + 1e-12, "c": 2.0, "d10": 1.0, "d9": 1.0}) == ["c", "d9", "d10", "b", "a"]
    # the relevant document is last among equals, as trec_eval has it
    labels = {"q": {"a": 1, "b": 0}}
    assert measure_run(labels, {"q": {"a": 1.0, "b": 1.0}}, ("nDCG@1",)).aggregate["nDCG@1"] == 0.0
    close = {"q": {"a": 1.0 + 1e-12, "b": 1.0}}  # a tie in float32, for PNR too
    assert measure_run(labels, close, ("PNR",)).aggregate["PNR"] == 1.0


def test_reranking_a_cut_run_is_measured_with_the_full_judgments():
    labels = {"q": {"a": 2, "b": 0, "outside": 3}, "absent": {"x": 1, "y": 0}}
    scores = {"q": {"a": 2.0, "b": 1.0, "new": 3.0}}
    measured = measure_run(labels, scores, ("nDCG@3", "PNR"))
    ideal = 3 + 2 / math.log2(3)
    assert measured.per_query["nDCG@3"] == {"absent": 0.0, "q": pytest.approx(2 / math.log2(3) / ideal)}
    assert measured.aggregate["nDCG@3"] == pytest.approx(measured.per_query["nDCG@3"]["q"] / 2)
    assert measured.pairs == {"absent": (0, 0, 0), "q": (1, 1, 0)}  # a > b right, a > new (label 0) wrong
    assert measured.counts == {
        "num_queries": 2,
        "num_queries_skipped": 0,
        "num_queries_missing": 1,
        "num_queries_without_relevant": 0,
        "num_queries_without_pairs": 1,
        "num_documents": 3,
        "num_unjudged": 1,
        "num_unscored": 3,
        "num_tied_documents": 0,
    }
    with pytest.raises(ValueError, match=r"1 scored documents have no label.*'new'"):
        measure_run(labels, scores, ("nDCG@3",), rules=Rules(unjudged="error"))


def test_negative_labels_have_no_gain():
    measured = measure_run({"q": {"a": 1, "b": -2}}, {"q": {"b": 2.0, "a": 1.0}}, ("nDCG@2", "nDCG(dcg='exp-log2')@2"))
    assert list(measured.aggregate.values()) == pytest.approx([1 / math.log2(3)] * 2)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ({"q": {"a": 1}}, {"q": {"a": math.nan}}, r"NaN or infinite.*\(query_id 'q', doc_id 'a'\): nan"),
        ({"q": {"a": 1}}, {"q": {"a": 1e300}}, "1 scores are NaN or infinite in float32"),
        ({"q": {"a": 1}}, {"q": {"a": 1.0}, "r": {"a": 1.0}}, "1 scored queries have no judgment.*'r'"),
        ({"q": {"a": 1}}, {"r": {"a": 1.0}}, "no query is both scored and judged.*'r'.*'q'"),
        ({"q": {"a": 1}}, {}, "no query is both"),
        ({"q": {"a": None}}, {"q": {"a": 1.0}}, "1 labels are missing.*None"),
        ({"q": {"a": math.nan}}, {"q": {"a": 1.0}}, "1 labels are missing.*nan"),
        ({"q": {"a": 0.5}}, {"q": {"a": 1.0}}, "no whole numbers.*0.5"),
        ({"q": {}}, {"q": {"a": 1.0}}, "no document at all"),
    ],
)
def test_bad_input_is_refused_by_name(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        measure_run(labels, scores)


@pytest.mark.parametrize("measure", ["nGCD@10", "nDCG@", "PNR(ties='win')", "nDCG(k=3)", "P", "nDCG@0", "PNR(gap=0)"])
def test_unknown_measures_are_refused_by_name(measure):
    with pytest.raises(ValueError, match=measure[:3]):
        measure_run({"q": {"a": 1}}, {"q": {"a": 1.0}}, (measure,))


def test_grouping_refuses_what_comes_twice():
    judged = [Judgment("q", "a", "", "", "", 1), Judgment("q", "b", "", "", "", 0)]
    assert group_labels(judged) == {"q": {"a": 1, "b": 0}}
    assert group_scores(["q", "q"], ["a", "b"], np.float32([1, 2])) == {"q": {"a": 1.0, "b": 2.0}}
    with pytest.raises(ValueError, match=r"1 documents are judged twice.*'a'"):
        group_labels([*judged, judged[0]])
    with pytest.raises(ValueError, match=r"1 documents are scored twice.*'b'"):
        group_scores(["q", "q"], ["b", "b"], [1.0, 2.0])
    with pytest.raises(ValueError, match="2 query_ids, 1 doc_ids"):
        group_scores(["q", "q"], ["b"], [1.0, 2.0])


# --- PairAccuracy, macro averages and gaps ----------------------------------------------------------------------------

# One query 3:1 right, one all right, one without pairs; in the first, the wrong pair is that of labels 1 and 0.
PAIR_LABELS = {"a": {"x": 2, "y": 1, "z": 0, "w": 0}, "b": {"x": 1, "y": 0}, "c": {"x": 1}}
PAIR_SCORES = {"a": {"x": 4.0, "z": 3.0, "y": 2.0, "w": 1.0}, "b": {"x": 1.0, "y": 0.0}, "c": {"x": 1.0}}


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("PNR", 5 / 1),
        ("PNR(avg='macro')", 4.0),  # b is infinite, c has no pair
        ("PNR(gap=2)", math.inf),
        ("PNR(gap=3)", math.nan),
        ("PairAccuracy", (4 / 5 + 1) / 2),
        ("PairAccuracy(avg='micro')", 5 / 6),
        ("PairAccuracy(gap=2)", 1.0),
    ],
)
def test_pair_measures_by_hand_in_measure_run_and_in_ir_measures(measure, expected):
    found = measure_run(PAIR_LABELS, PAIR_SCORES, [measure])
    assert found.aggregate[measure] == pytest.approx(expected, nan_ok=True)
    parsed = ir_measures.parse_measure(measure)
    assert str(parsed) == measure
    assert ir_measures.calc_aggregate([parsed], PAIR_LABELS, PAIR_SCORES)[parsed] == pytest.approx(
        expected, nan_ok=True
    )


def test_macro_equals_that_of_pnr_and_only_perfect_queries_are_infinite():
    labels, scores = make_set(21, num_docs=4)
    expected = pnr(*columns(labels, scores), ties="discordant").macro
    measure = "PNR(ties='discordant',avg='macro')"
    assert measure_run(labels, scores, [measure]).aggregate[measure] == pytest.approx(expected, rel=1e-12)
    perfect = measure_run({"q": {"a": 1, "b": 0}}, {"q": {"a": 1.0, "b": 0.0}}, ["PNR(avg='macro')"])
    assert perfect.aggregate["PNR(avg='macro')"] == math.inf


def test_pair_accuracy_is_their_accuracy_on_binary_labels_without_ties():
    labels, scores = make_set(31, levels=2)
    found = measure_run(labels, scores, ["PairAccuracy", "Accuracy"])
    assert found.per_query["PairAccuracy"] == pytest.approx(found.per_query["Accuracy"], abs=1e-12)


def test_terms_add_up_to_the_aggregate():
    labels, scores = make_set(22, decimals=0)
    for measure in ("PNR(ties='ignore')", "PNR(avg='macro')", "PairAccuracy", "PairAccuracy(avg='micro')"):
        found = measure_run(labels, scores, [measure])
        rule = pair_rule_of(measure)
        terms = np.array([rule.terms(counts) for counts in found.pairs.values()]).sum(axis=0)
        assert found.aggregate[measure] == pytest.approx(terms[0] / terms[1], rel=1e-12)
    assert pair_rule_of("nDCG@5") is None


def test_tie_rule_is_that_of_the_pooled_pnr_alone():
    assert (tie_rule_of("PNR"), tie_rule_of("PNR(ties='ignore')")) == ("half", "ignore")
    assert [tie_rule_of(name) for name in ("nDCG@5", "PNR(avg='macro')", "PairAccuracy")] == [None] * 3
    for pooled in ("PairAccuracy(avg='micro')", "PNR(gap=2)"):
        with pytest.raises(ValueError, match="pooled over pairs that cannot be resampled"):
            tie_rule_of(pooled)


def test_a_query_with_negative_labels_alone_does_not_hang_other_libraries():
    for _ in range(20):  # what pytrec_eval made of it depended on the memory that it found
        found = measure_run({"q": {"a": -1}}, {"q": {"b": 0.0, "c": 1.0, "d": -1.0}}, ["Rprec", "nDCG(gains={1:2})@2"])
        assert set(found.aggregate.values()) == {0.0}
