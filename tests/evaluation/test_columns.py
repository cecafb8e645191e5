"""Joining labels and scores as columns, and what each rule does with its cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disranker.evaluation import measures
from disranker.evaluation.columns import Rows, SortedDocIds, columns_from_dicts, join_columns
from disranker.evaluation.measures import Rules, measure_columns, measure_run, rank_documents

LABELS = {"q": {"a": 2, "b": 0, "c": 1}, "none": {"a": 0, "b": 0}, "absent": {"a": 1, "b": 0}}
SCORES = {"q": {"a": 1.0, "b": 3.0, "new": 2.0}, "none": {"a": 2.0, "b": 1.0}}


def names(columns, query):
    rows = range(columns.starts[query], columns.starts[query + 1])
    return [columns.doc_ids.name(int(columns.docs[row])) for row in rows]


def test_rows_are_sorted_by_query_score_and_doc_id():
    scores = {"r": {"a": 1.0, "b": 1.0 + 1e-12, "c": 2.0, "d10": 1.0, "d9": 1.0}, "q": {"z": -1.0, "y": -0.0, "x": 0.0}}
    columns = columns_from_dicts({"r": {"c": 4, "b": -1, "gone": 3}, "q": {"x": 1}}, scores)
    assert columns.query_ids == ["q", "r"]
    assert names(columns, 0) == ["y", "x", "z"]  # 0 and -0 are equal
    assert names(columns, 1) == rank_documents(scores["r"]) == ["c", "d9", "d10", "b", "a"]
    assert columns.labels.tolist() == [0, 1, 0, 4, 0, 0, -1, 0]
    assert columns.judged.tolist() == [False, True, False, True, False, False, True, False]
    assert (columns.unscored_starts.tolist(), columns.unscored_labels.tolist()) == ([0, 0, 1], [3])
    assert columns.key(3) == "(query_id 'r', doc_id 'c')"
    assert columns.tied().tolist() == [True, True, False, False, True, True, True, True]


score = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0])


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("pqr"), st.dictionaries(st.text("ab文é", max_size=3), score, min_size=1), min_size=1
    )
)
def test_places_are_those_of_rank_documents(scores):
    columns = columns_from_dicts({query: {"x": 1} for query in scores}, scores)
    assert {query: names(columns, index) for index, query in enumerate(columns.query_ids)} == {
        query: rank_documents(documents) for query, documents in scores.items()
    }


def join(judged, scored):
    """(query code, document code, value) rows of the queries p, q and the documents a, b."""
    rows = [Rows(np.array(table[0]), np.array(table[1]), np.array(table[2])) for table in (judged, scored)]
    return join_columns(["p", "q"], SortedDocIds(["a", "b"]), *rows)


def test_rows_in_another_order_join_to_the_same():
    judged = ([0, 0, 1], [0, 1, 0], [3, 1, 2])
    aligned = join(judged, ([0, 0, 1], [0, 1, 0], [0.5, 0.7, 0.1]))
    mixed = join(judged, ([1, 0, 0], [0, 1, 0], [0.1, 0.7, 0.5]))
    for columns in (aligned, mixed):
        assert columns.labels.tolist() == [1, 3, 2]
        assert columns.judged.all()
        assert len(columns.unscored_labels) == 0
    assert join(([1], [0], [3]), ([1], [0], [0.5])).query_ids == ["q"]  # p has no row at all


@pytest.mark.parametrize(
    ("judged", "scored", "message"),
    [
        (([0, 0], [0, 0], [1, 2]), ([0], [0], [1.0]), r"2 documents are judged twice.*\(query_id 'p', doc_id 'a'\)"),
        (([0, 0], [0, 0], [1, 2]), ([0, 0], [0, 0], [1.0, 2.0]), "2 documents are judged twice"),
        (([0], [0], [1]), ([0, 0], [0, 0], [1.0, 2.0]), r"2 documents are scored twice.*doc_id 'a'"),
        (([0], [0], [1.5]), ([0], [0], [1.0]), r"1 labels are missing or are no whole numbers.*doc_id 'a'\): 1.5"),
        (([0], [0], [2**40]), ([0], [0], [1.0]), "1 labels do not fit into 32 bits"),
        (([0], [0], [1]), ([0], [0], [math.inf]), r"1 scores are NaN or infinite.*'a'\): inf"),
        (([0], [0], [1]), ([1], [0], [1.0]), "no query is both scored and judged: 1 scored .first: 'q'"),
        (([0], [0], [1]), ([0, 1], [0, 1], [1.0, 2.0]), "1 scored queries have no judgment.*'q'"),
    ],
)
def test_bad_rows_are_refused_by_name(judged, scored, message):
    with pytest.raises(ValueError, match=message):
        join(judged, scored)


# --- rules ------------------------------------------------------------------------------------------------------------


def measured(names=("nDCG@2", "PNR", "Judged@2"), **rules):
    return measure_run(LABELS, SCORES, names, Rules(**rules))


def test_defaults_are_those_of_trec_eval():
    found = measured()
    assert Rules() == Rules(unjudged="zero", missing="zero", no_relevant="zero", ties="doc_id")
    assert found.per_query["nDCG@2"].keys() == {"q", "none", "absent"}
    assert found.counts == {
        "num_queries": 3,
        "num_queries_skipped": 0,
        "num_queries_missing": 1,
        "num_queries_without_relevant": 1,
        "num_queries_without_pairs": 2,
        "num_documents": 5,
        "num_unjudged": 1,
        "num_unscored": 3,
        "num_tied_documents": 0,
    }


def test_queries_without_positives_are_skipped_in_every_measure():
    found = measured(no_relevant="skip")
    assert (
        found.per_query["nDCG@2"].keys() == found.per_query["Judged@2"].keys() == found.pairs.keys() == {"q", "absent"}
    )
    assert (found.counts["num_queries"], found.counts["num_queries_skipped"]) == (2, 1)
    assert found.aggregate["nDCG@2"] == measured().aggregate["nDCG@2"] * 3 / 2


def test_queries_missing_from_the_run_are_skipped_or_refused():
    found = measured(missing="skip")
    assert found.per_query["PNR"].keys() == {"q", "none"}
    assert found.counts["num_queries_missing"] == 1
    with pytest.raises(ValueError, match=r"1 judged queries have no document in the run.*query_id 'absent'"):
        measured(missing="error")


def test_a_positive_outside_the_run_makes_a_query_one_with_positives():
    labels = {"q": {"a": 0, "b": 1}}
    found = measure_run(labels, {"q": {"a": 1.0}}, ["nDCG@2"], Rules(no_relevant="skip"))
    assert found.aggregate == {"nDCG@2": 0.0}


def test_unjudged_documents_are_taken_out_of_the_list():
    whole, condensed = measured(), measured(unjudged="skip")
    assert whole.pairs["q"] == (0, 2, 0)  # a (2) below b (0) and below new (as 0)
    assert condensed.pairs["q"] == (0, 1, 0)
    ideal = 2 + 1 / math.log2(3)
    assert whole.per_query["nDCG@2"]["q"] == 0.0
    assert condensed.per_query["nDCG@2"]["q"] == pytest.approx(2 / math.log2(3) / ideal)
    assert (whole.per_query["Judged@2"]["q"], condensed.per_query["Judged@2"]["q"]) == (0.5, 1.0)
    assert condensed.counts["num_unjudged"] == 1
    with pytest.raises(ValueError, match=r"1 scored documents have no label.*\(query_id 'q', doc_id 'new'\)"):
        measured(unjudged="error")


def test_a_query_without_judged_documents_in_the_run_is_missing_once_condensed():
    labels = {"p": {"a": 1}, "q": {"a": 1}}
    scores = {"p": {"a": 1.0}, "q": {"new": 1.0}}
    assert measure_run(labels, scores, ["RR"], Rules(unjudged="skip")).counts["num_queries_missing"] == 1
    both = measure_run(labels, scores, ["RR"], Rules(unjudged="skip", missing="skip"))
    assert both.per_query["RR"] == {"p": 1.0}


@pytest.mark.parametrize("measure", ["nDCG@1", "P@1", "RR", "nDCG(gains={1:5})@1", "Accuracy", "Rprec"])
def test_pessimistic_ties_put_the_lower_label_first_in_every_measure(measure):
    labels, scores = {"q": {"a": 0, "b": 1, "c": 0}}, {"q": {"a": 1.0, "b": 1.0, "c": 0.0}}
    kind, worst = (measure_run(labels, scores, [measure], Rules(ties=rule)) for rule in ("doc_id", "pessimistic"))
    assert next(iter(kind.aggregate.values())) == 1.0  # b stands before a
    assert next(iter(worst.aggregate.values())) < 1.0
    assert worst.counts["num_tied_documents"] == 2


def test_pessimistic_ties_do_not_move_pnr():
    labels, scores = {"q": {"a": 0, "b": 1}}, {"q": {"a": 1.0, "b": 1.0}}
    assert measure_run(labels, scores, ["PNR"], Rules(ties="pessimistic")).aggregate == {"PNR": 1.0}


def test_nothing_left_and_unknown_rules_are_refused():
    with pytest.raises(ValueError, match=r"no query is left to measure: 0 of 1 are missing.*1 have no label above 0"):
        measure_run({"q": {"a": 0}}, {"q": {"a": 1.0}}, ["RR"], Rules(no_relevant="skip"))
    with pytest.raises(ValueError, match="ties='random' is no rule; use one of doc_id, pessimistic"):
        Rules(ties="random")
    with pytest.raises(ValueError, match="unjudged='drop' is no rule"):
        Rules(unjudged="drop")


def test_chunks_for_other_libraries_change_no_value(monkeypatch):
    rng = np.random.default_rng(3)
    labels = {f"q{q}": {f"d{d}": int(rng.integers(0, 3)) for d in range(rng.integers(1, 9))} for q in range(40)}
    scores = {query: {doc: float(rng.integers(0, 4)) for doc in docs} for query, docs in labels.items() if query > "q1"}
    asked = ["Rprec", "Bpref", "nDCG(gains={2:7})@5"]
    whole = measure_run(labels, scores, asked)
    for rows in (1, 7, 50):
        monkeypatch.setattr(measures, "_ROWS_AT_ONCE", rows)
        assert measure_columns(columns_from_dicts(labels, scores), asked) == whole
