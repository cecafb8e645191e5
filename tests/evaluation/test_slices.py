"""Slices: what falls where, and that each slice is measured as if its queries were the whole set."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disranker.evaluation.measures import measure_run
from disranker.evaluation.significance import compare, holm, measure_interval
from disranker.evaluation.slices import (
    Slicing,
    by_best_label,
    by_clicks,
    by_column,
    by_query_length,
    by_relevant,
    by_script,
    measure_slices,
)
from disranker.schema import Click

QUERIES = {
    "short": "running shoes",
    "long": "best running shoes for flat feet",
    "zh": "跑步鞋",
    "mixed": "iPhone 15 手机壳",
    "ja": "ランニング 靴",
    "ru": "беговые кроссовки",
    "number": "2024",
    "nothing": "?!",
}


def world(num_queries=30, seed=0):
    rng = np.random.default_rng(seed)
    labels = {f"q{q:02}": {f"d{d}": int(rng.integers(0, 4)) for d in range(8)} for q in range(num_queries)}
    systems = []
    for noise in (0.8, 2.0):
        scores = {q: {d: label + rng.normal(0, noise) for d, label in docs.items()} for q, docs in labels.items()}
        systems.append(measure_run(labels, scores, ("nDCG@5", "PNR")))
    return labels, *systems


def restricted(labels, scores_of, queries):
    """A system on some queries alone."""
    return type(scores_of)(
        {},
        {measure: {q: values[q] for q in queries} for measure, values in scores_of.per_query.items()},
        {q: scores_of.pairs[q] for q in queries},
        {},
    )


@pytest.mark.parametrize("measure", ["nDCG@5", "PNR"])
def test_a_slice_is_the_comparison_on_its_queries(measure):
    labels, better, worse = world()
    members = {"even": sorted(labels)[::2], "odd": sorted(labels)[1::2]}
    slicing = Slicing("parity", ("even", "odd"), {query: name for name, ids in members.items() for query in ids})
    table = measure_slices(slicing, better, measure, worse, ("new", "old"), samples=500)
    assert (table.slicing, table.measure, table.system, table.baseline) == ("parity", measure, "new", "old")
    for found in table.slices:
        ids = members[found.name]
        parts = [restricted(labels, system, ids) for system in (better, worse)]
        expected = compare(*parts, measure, samples=500)
        assert (found.num_queries, found.note) == (15, "")
        assert (found.delta, found.p_value, found.delta_interval) == (
            expected.delta,
            expected.p_value,
            expected.interval,
        )
        assert found.interval == measure_interval(parts[0], measure, samples=500)
        assert found.value - found.baseline == pytest.approx(found.delta)
    assert [found.p_holm for found in table.slices] == holm([found.p_value for found in table.slices])


def test_one_slice_of_all_is_the_whole():
    labels, better, _ = world()
    table = measure_slices(Slicing("all", ("all",), dict.fromkeys(labels, "all")), better, "PNR", samples=100)
    (whole,) = table.slices
    assert whole.value == better.aggregate["PNR"]
    assert (whole.baseline, whole.delta, whole.delta_interval, whole.p_value, whole.p_holm) == (None,) * 5
    json.dumps(asdict(table), allow_nan=False)


def test_small_slices_are_reported_and_not_tested():
    labels, better, worse = world(5)
    slicing = Slicing("size", ("none", "one", "rest"), {q: "one" if q == "q00" else "rest" for q in labels})
    none, one, rest = measure_slices(slicing, better, "nDCG@5", worse, samples=100).slices
    assert (none.num_queries, none.value, none.delta, none.interval, none.p_value) == (0, None, None, None, None)
    assert none.note == "no query"
    assert one.note == "one query: no interval, no test"
    assert (one.num_queries, one.interval, one.delta_interval, one.p_value, one.p_holm) == (1, None, None, None, None)
    assert one.value == better.per_query["nDCG@5"]["q00"]
    assert one.delta == pytest.approx(one.value - worse.per_query["nDCG@5"]["q00"])
    assert rest.p_holm == rest.p_value  # the only test of the slicing


def test_a_slicing_may_know_more_queries_but_not_fewer():
    labels, better, worse = world(4)
    of_query = dict.fromkeys([*labels, "unmeasured"], "all")
    assert measure_slices(Slicing("all", ("all",), of_query), better, "nDCG@5", samples=50).slices[0].num_queries == 4
    with pytest.raises(ValueError, match="the slicing by part has no value for 2 queries, first 'q02', 'q03'"):
        measure_slices(Slicing("part", ("all",), {"q00": "all", "q01": "all"}), better, "nDCG@5", worse)
    with pytest.raises(ValueError, match="was not measured by AP"):
        measure_slices(Slicing("all", ("all",), of_query), better, "AP")
    with pytest.raises(ValueError, match="'b' is none of its slices a"):
        Slicing("letters", ("a",), {"q": "b"})


def test_query_length_counts_words_and_characters():
    slicing = by_query_length(QUERIES)
    assert slicing.slices == ("0 to 2 words", "3 to 4 words", "5 to 8 words", "9 or more words")
    assert slicing.of_query == {
        "short": "0 to 2 words",
        "long": "5 to 8 words",
        "zh": "3 to 4 words",
        "mixed": "5 to 8 words",
        "ja": "5 to 8 words",
        "ru": "0 to 2 words",
        "number": "0 to 2 words",
        "nothing": "0 to 2 words",
    }
    assert by_query_length({"q": "一二三四五六七八九"}).of_query == {"q": "9 or more words"}


def test_script():
    slicing = by_script(QUERIES)
    assert slicing.slices == ("zh", "en", "other")
    assert slicing.of_query == {
        "short": "en",
        "long": "en",
        "zh": "zh",
        "mixed": "zh",
        "ja": "other",
        "ru": "other",
        "number": "other",
        "nothing": "other",
    }
    assert by_script({"q": "café 2"}).of_query == {"q": "en"}


def test_clicks_are_summed_by_the_text_of_the_query():
    log = [Click("running shoes", "a", "", clicks=9), Click("running shoes", "b", ""), Click("else", "c", "", clicks=5)]
    slicing = by_clicks({"one": "running shoes", "same": "running shoes", "two": "跑步鞋"}, iter(log))
    assert slicing.of_query == {"one": "10 to 99 clicks", "same": "10 to 99 clicks", "two": "0 clicks"}
    assert slicing.slices[1] == "1 to 9 clicks" and slicing.slices[-1] == "1000 or more clicks"


def test_labels():
    labels = {"a": {"x": 3, "y": 1}, "b": {"x": 0}, "c": dict.fromkeys("stuvwxyz", 1)}
    assert by_best_label(labels).slices == ("best label 0", "best label 1", "best label 3")
    assert by_best_label(labels).of_query["a"] == "best label 3"
    assert by_relevant(labels).of_query == {"a": "2 to 4 documents", "b": "0 documents", "c": "5 to 9 documents"}
    assert by_relevant(labels, relevant=2).of_query == {"a": "1 document", "b": "0 documents", "c": "0 documents"}
    with pytest.raises(ValueError, match="no value for 1 queries, first 'empty'"):
        by_best_label({"empty": {}})


def test_columns_of_strings_and_few_numbers_stand_as_they_are():
    assert by_column("city", {"a": "Oslo", "b": "Bern", "c": "Oslo", "x": "Rome"}, "abc") == Slicing(
        "city", ("Bern", "Oslo"), {"a": "Oslo", "b": "Bern", "c": "Oslo"}
    )
    assert by_column("new", {"a": True, "b": False}, "ab").slices == ("False", "True")
    assert by_column("tier", {"a": 10, "b": 9.5, "c": 10.0}, "abc").slices == ("9.5", "10")


def test_many_numbers_are_cut_at_values_that_occur():
    slicing = by_column("age", {str(n): n * n for n in range(10)}, map(str, range(10)))
    assert slicing.slices == ("[0, 4)", "[4, 16)", "[16, 49)", "[49, 81]")
    assert [slicing.of_query[str(n)] for n in (1, 2, 6, 7, 9)] == [
        "[0, 4)",
        "[4, 16)",
        "[16, 49)",
        "[49, 81]",
        "[49, 81]",
    ]
    close = by_column("close", {str(n): 1 + n * 1e-9 for n in range(8)}, map(str, range(8)))
    assert len(set(close.slices)) == 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-5, 5) | st.floats(-100, 100), min_size=1, max_size=40), st.integers(2, 6))
def test_quantile_bins_hold_every_query_and_none_is_empty(values, num_bins):
    column = {f"q{at}": value for at, value in enumerate(values)}
    slicing = by_column("x", column, column, num_bins)
    assert slicing.of_query.keys() == column.keys()
    assert set(slicing.of_query.values()) == set(slicing.slices)
    assert len(slicing.slices) <= num_bins
    # a larger value never falls in an earlier slice
    places = [slicing.slices.index(slicing.of_query[query]) for query in sorted(column, key=column.__getitem__)]
    assert places == sorted(places)


def test_columns_with_faults_are_refused():
    for missing in ({"a": 1}, {"a": 1, "b": None}, {"a": 1, "b": math.nan}):
        with pytest.raises(ValueError, match="column 'x' has no value for 1 queries, first 'b'"):
            by_column("x", missing, "ab")
    with pytest.raises(ValueError, match="numbers among its strings, first 2 of query_id 'b'"):
        by_column("x", {"a": "1", "b": 2}, "ab")
    with pytest.raises(ValueError, match="num_bins=1"):
        by_column("x", {"a": 1}, "a", num_bins=1)
