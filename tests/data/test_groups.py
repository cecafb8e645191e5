"""Pairs grouped by query."""

from __future__ import annotations

import numpy as np

from disranker.data.groups import PairSet, collect, collect_judged, describe_groups, describe_order
from disranker.schema import Candidate, Judgment, Pair

JUDGED = [
    Judgment("b", "1", "boots", "t1", "s1", 2),
    Judgment("a", "2", "shoes", "t2", "s2", 0),
    Judgment("b", "3", "boots", "t3", "s3", 1),
    Judgment("b", "1", "boots", "t1", "s1", 4),
]


def test_judged_rows_stay_in_their_order_with_their_labels() -> None:
    pair_set, labels = collect_judged(iter(JUDGED))
    assert pair_set.query_ids == ["b", "a", "b", "b"]
    assert pair_set.doc_ids == ["1", "2", "3", "1"]
    assert pair_set.pairs[1] == Pair("shoes", "t2", "s2")
    assert labels.tolist() == [2.0, 0.0, 1.0, 4.0]
    assert labels.dtype == np.float32
    assert len(pair_set) == 4


def test_rows_of_a_query_need_not_stand_together_and_queries_keep_their_first_place() -> None:
    groups = collect(JUDGED).groups()
    assert [(query_id, rows.tolist()) for query_id, rows in groups] == [("b", [0, 2, 3]), ("a", [1])]
    assert {rows.dtype for _, rows in groups} == {np.dtype(np.int64)}


def test_candidates_are_collected_alike() -> None:
    pair_set = collect([Candidate("a", "2", "shoes", "t2", "s2")])
    assert (pair_set.query_ids, pair_set.doc_ids, pair_set.pairs) == (["a"], ["2"], [Pair("shoes", "t2", "s2")])


def test_the_first_pairs() -> None:
    first = collect(JUDGED).first(2)
    assert (first.query_ids, first.doc_ids, len(first)) == (["b", "a"], ["1", "2"], 2)
    assert first.pairs == [Pair("boots", "t1", "s1"), Pair("shoes", "t2", "s2")]
    assert len(collect(JUDGED).first(100)) == 4


def test_nothing_has_no_group() -> None:
    assert PairSet([], [], []).groups() == []
    assert collect_judged([])[1].shape == (0,)


def test_the_line_for_the_plan() -> None:
    assert describe_groups(collect(JUDGED)) == "2 queries, 4 pairs, 1 to 3, median 2 documents per query"


def test_rows_are_taken_and_sets_joined() -> None:
    every = collect(JUDGED)
    taken = every.take([2, 0])
    assert (taken.query_ids, taken.doc_ids) == (["b", "b"], ["3", "1"])
    assert taken.pairs == [JUDGED[2].pair, JUDGED[0].pair]
    joined = every.take([0, 1]) + every.take([2, 3])
    assert joined == every


def test_groups_without_an_order_are_counted() -> None:
    groups = [("a", np.array([0, 1])), ("b", np.array([2])), ("c", np.array([0, 2]))]
    labels = np.array([1, 1, 0], dtype=np.float32)
    assert describe_order(groups, labels).startswith("2 of 3 groups have documents of one label only")
