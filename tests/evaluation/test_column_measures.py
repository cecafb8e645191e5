"""The measures of columns against pytrec_eval on random data with ties, and against their formulas by hand."""

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from disranker.evaluation import column_measures
from disranker.evaluation.columns import columns_from_dicts
from disranker.evaluation.measures import measure_run

DOCS = ["d1", "d10", "d2", "D3", "文", "e"]

# trec_eval's name -> ours; `rel` is trec_eval's relevance level.
PLAIN = {
    "ndcg": "nDCG",
    "ndcg_cut_2": "nDCG@2",
    "ndcg_cut_10": "nDCG@10",
    "P_3": "P@3",
    "recip_rank": "RR",
    "map": "AP",
    "map_cut_2": "AP@2",
    "recall_3": "R@3",
    "success_2": "Success@2",
}
GRADED = {"P_3": "P(rel=2)@3", "recip_rank": "RR(rel=2)", "map": "AP(rel=2)", "recall_3": "R(rel=2)@3"}

documents = st.fixed_dictionaries(
    {},
    optional={
        doc: st.tuples(
            st.none() | st.integers(-1, 4),  # not judged
            st.none() | st.sampled_from([-1.5, -0.0, 0.0, 0.25, 3.0, 3e38, -3e38, 1e-45]),  # not scored
        )
        for doc in DOCS
    },
)


def split_documents(queries):
    labels, scores = {}, {}
    for index, of_query in enumerate(queries):
        judged = {doc: label for doc, (label, _) in of_query.items() if label is not None}
        if not judged:
            continue
        labels[f"q{index}"] = judged
        scored = {doc: score for doc, (_, score) in of_query.items() if score is not None}
        if scored:
            scores[f"q{index}"] = scored
    return labels, scores


@settings(max_examples=60, deadline=None)
@given(st.lists(documents, min_size=1, max_size=4), st.booleans())
def test_values_are_those_of_trec_eval(queries, condensed):
    labels, scores = split_documents(queries)
    if not scores:
        return
    if condensed:  # its -J takes -1 for "not judged"
        labels = {query: {doc: max(label, 0) for doc, label in judged.items()} for query, judged in labels.items()}
    for rel, names in ((1, PLAIN), (2, GRADED)):
        reference = pytrec_eval.RelevanceEvaluator(
            # It may hang on a query that has negative labels alone, where every measure is 0.
            {query: judged for query, judged in labels.items() if max(judged.values()) >= 0},
            {"ndcg", "ndcg_cut_2,10", "P_3", "recip_rank", "map", "map_cut_2", "recall_3", "success_2"},
            relevance_level=rel,
            judged_docs_only_flag=condensed,
        ).evaluate(scores)
        asked = {
            theirs: with_parameter(ours, "judged_only=True") if condensed else ours for theirs, ours in names.items()
        }
        measured = measure_run(labels, scores, [*asked.values()])
        for theirs, ours in asked.items():
            for query, found in measured.per_query[ours].items():
                expected = reference.get(query, {}).get(theirs, 0.0)
                assert found == pytest.approx(expected, abs=1e-9), (ours, query)


def with_parameter(measure, parameter):
    """`P(rel=2)@3` -> `P(rel=2,judged_only=True)@3`."""
    name, at, cutoff = measure.partition("@")
    name = name[:-1] + "," + parameter + ")" if name.endswith(")") else f"{name}({parameter})"
    return name + at + cutoff


@settings(max_examples=60, deadline=None)
@given(st.lists(documents, min_size=1, max_size=3), st.sampled_from([None, 1, 3]))
def test_exponential_gain_equals_the_formula(queries, cutoff):
    labels, scores = split_documents(queries)
    if not scores:
        return
    found = column_measures.ndcg(columns_from_dicts(labels, scores), cutoff, column_measures.exponential_gain)
    for query, value in zip(sorted(labels), found, strict=True):
        run = scores.get(query, {})
        placed = sorted(sorted(run, reverse=True), key=lambda doc: np.float32(run[doc]), reverse=True)
        gains = [2.0 ** max(labels[query].get(doc, 0), 0) - 1 for doc in placed]
        ideal = sorted((2.0 ** max(label, 0) - 1 for label in labels[query].values()), reverse=True)
        dcg, best = (sum(g / math.log2(p + 2) for p, g in enumerate(of[:cutoff])) for of in (gains, ideal))
        assert value == pytest.approx(dcg / best if best else 0.0, abs=1e-12)


def test_a_perfect_ranking_has_exactly_one():
    rng = np.random.default_rng(4)
    labels = {str(q): {f"d{d}": int(label) for d, label in enumerate(rng.integers(0, 5, 40))} for q in range(50)}
    measured = measure_run(labels, labels, ["nDCG", "nDCG@7", "nDCG(dcg='exp-log2')@7"])
    for values in measured.per_query.values():
        assert set(values.values()) == {1.0}


def test_reciprocal_place_stops_at_the_cutoff():
    labels, scores = {"q": {"a": 0, "b": 0, "c": 1}}, {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    measured = measure_run(labels, scores, ["RR@3", "RR@2", "RR(rel=2)@3"])
    assert measured.aggregate == {"RR@3": 1 / 3, "RR@2": 0.0, "RR(rel=2)@3": 0.0}


def test_precision_of_a_short_run_is_divided_by_the_cutoff():
    assert measure_run({"q": {"a": 1}}, {"q": {"a": 1.0}}, ["P@5"]).aggregate == {"P@5": 0.2}


def test_labels_too_large_for_the_exponential_gain_are_refused():
    with pytest.raises(ValueError, match=r"label 2000 is too large for the gain 2\^label - 1"):
        measure_run({"q": {"a": 2000}}, {"q": {"a": 1.0}}, ["nDCG(dcg='exp-log2')@5"])
