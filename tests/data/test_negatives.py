"""Negatives that are added to judged pairs, and the guard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disranker.config.sampling import SamplingConfig
from disranker.data.groups import PairSet, collect_judged
from disranker.data.negatives import TrainingPairs, add_negatives, scores_of_run
from disranker.data.readers import write_records, write_trec_run
from disranker.data.sampling import Source
from disranker.schema import Candidate, Judgment, Pair

QUERIES = {"a": "red shoes", "b": "blue boots", "c": "green hats"}
JUDGED = [
    Judgment(query_id, f"{query_id}{at}", QUERIES[query_id], f"title {query_id}{at}", "s", label)
    for query_id in QUERIES
    for at, label in enumerate([2, 1, 0])
]
RUN = {
    "a": {"a0": 9.0, "x1": 8.0, "x2": 7.0, "same": 6.0, "x3": 5.0, "a2": 4.0},
    "b": {"y1": 3.0, "b0": 2.0, "y2": 1.0},
    "c": {"c0": 1.0},
    "unjudged": {"z": 1.0},
}


def candidate(query_id: str, doc_id: str, title: str | None = None) -> Candidate:
    return Candidate(query_id, doc_id, QUERIES[query_id], title or f"title {doc_id}", "s")


CANDIDATES = [
    candidate("a", "x3"),
    candidate("a", "same", "title a0"),
    candidate("b", "y2"),
    candidate("a", "x1"),
    candidate("a", "x2"),
    candidate("b", "y1"),
    candidate("a", "a0"),
    candidate("a", "not-in-the-run"),
]


def written(
    folder: Path, run: dict[str, dict[str, float]] = RUN, candidates: list[Candidate] = CANDIDATES
) -> dict[str, Any]:
    """The settings of hard negatives, and their files."""
    write_trec_run(folder / "run.trec", run, "t")
    write_records(folder / "candidates.parquet", Candidate, candidates)
    return {"runs": [folder / "run.trec"], "candidates": [folder / "candidates.parquet"], "num_per_query": 2}


def added(seed: int = 0, scores: dict[tuple[str, str], float] | None = None, **settings: Any) -> TrainingPairs:
    pair_set, labels = collect_judged(JUDGED)

    def lookup(pairs: PairSet) -> np.ndarray[Any, Any]:
        assert scores is not None
        keys = zip(pairs.query_ids, pairs.doc_ids, strict=True)
        return np.array([scores[key] for key in keys], dtype=np.float32)

    return add_negatives(pair_set, labels, SamplingConfig(**settings), seed=seed, scores=lookup)


def of(pairs: TrainingPairs, source: Source) -> list[tuple[str, str]]:
    rows = np.flatnonzero(pairs.sources == source)
    return [(pairs.pair_set.query_ids[row], pairs.pair_set.doc_ids[row]) for row in rows]


def test_nothing_is_added_unasked() -> None:
    pairs = added()
    assert pairs.pair_set == collect_judged(JUDGED)[0]
    assert pairs.labels.tolist() == [2, 1, 0] * 3
    assert pairs.sources.tolist() == [Source.JUDGED] * 9
    assert pairs.facts == {}


# --- hard -------------------------------------------------------------------------------------------------------------


def test_unjudged_documents_of_a_run_become_label_0(tmp_path: Path) -> None:
    pairs = added(hard_negatives=written(tmp_path))
    assert pairs.pair_set.take(range(9)) == collect_judged(JUDGED)[0]
    # In the order of the run; "same" has the text of a judged document under another id.
    assert of(pairs, Source.HARD) == [("a", "x1"), ("a", "x2"), ("a", "x3"), ("b", "y1"), ("b", "y2")]
    assert pairs.pair_set.pairs[9] == Pair("red shoes", "title x1", "s")
    assert pairs.labels[9:].tolist() == [0.0] * 5
    assert pairs.facts["hard"] == (
        "2 a query and epoch of 5 at positions 1 to 100 as label 0; "
        "besides, 4 are judged and 1 have the text of a judged one"
    )


def test_only_the_positions_asked_for_are_drawn_from(tmp_path: Path) -> None:
    settings = {**written(tmp_path), "first_position": 2, "last_position": 3}
    assert of(added(hard_negatives=settings), Source.HARD) == [("a", "x1"), ("a", "x2"), ("b", "y2")]


def test_equal_scores_of_a_run_are_ordered_by_doc_id_and_two_runs_add_up(tmp_path: Path) -> None:
    settings = written(tmp_path, {"a": {"x2": 1.0, "x1": 1.0}, "b": {"y1": 1.0}})
    write_trec_run(tmp_path / "other.trec", {"a": {"x3": 1.0, "x1": 0.0}, "c": {"c0": 1.0}}, "t")
    settings |= {"runs": [tmp_path / "run.trec", tmp_path / "other.trec"], "last_position": 1, "num_per_query": 1}
    assert of(added(hard_negatives=settings), Source.HARD) == [("a", "x1"), ("a", "x3"), ("b", "y1")]


def test_a_judged_query_that_is_in_no_run_is_named(tmp_path: Path) -> None:
    settings = written(tmp_path, {"b": RUN["b"]})
    with pytest.raises(ValueError, match=r"2 of 3 judged queries are in none of .*run.trec.*first query_id: a, c; add"):
        added(hard_negatives=settings)


def test_documents_without_a_text_are_named(tmp_path: Path) -> None:
    settings = written(tmp_path, candidates=CANDIDATES[:4])
    with pytest.raises(
        ValueError, match=r"2 of 6 documents .* have no text in .*candidates.parquet.*: \(a, x2\), \(b, y1\);"
    ):
        added(hard_negatives=settings)


def test_candidates_of_other_queries_under_the_same_id_are_refused(tmp_path: Path) -> None:
    settings = written(tmp_path, candidates=[Candidate("a", "x1", "red socks", "t", "s")])
    with pytest.raises(ValueError, match="query_id a is 'red shoes' in the judged pairs and 'red socks' in"):
        added(hard_negatives=settings)


# --- random -----------------------------------------------------------------------------------------------------------


def test_random_negatives_are_documents_of_other_queries() -> None:
    pairs = added(random_negatives=4)
    found = of(pairs, Source.RANDOM)
    assert [query_id for query_id, _ in found] == ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    assert all(not doc_id.startswith(query_id) for query_id, doc_id in found)
    assert len(set(found)) == 12
    for row in range(9, 21):
        assert pairs.pair_set.pairs[row].query == QUERIES[pairs.pair_set.query_ids[row]]
        assert pairs.pair_set.pairs[row].title == f"title {pairs.pair_set.doc_ids[row]}"
    assert pairs.labels[9:].tolist() == [0.0] * 12
    assert pairs.facts == {"random": "4 a query, 12 pairs of label 0"}


def test_random_negatives_depend_on_the_seed() -> None:
    draws = [of(added(seed, random_negatives=2), Source.RANDOM) for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2] or draws[0] != draws[3]
    seen = {doc_id for seed in range(30) for _, doc_id in of(added(seed, random_negatives=2), Source.RANDOM)}
    assert seen == {judgment.doc_id for judgment in JUDGED}


def test_a_document_of_the_query_is_none_of_another_under_whatever_id(tmp_path: Path) -> None:
    """The documents of b are hard negatives of a, one by its id and two by their texts: nothing of b is left for a."""
    run = {**RUN, "a": {"b0": 3.0, "u": 2.0, "v": 1.0}}
    texts = [candidate("a", "b0", "other text"), candidate("a", "u", "title b1"), candidate("a", "v", "title b2")]
    settings = written(tmp_path, run, [*texts, *(one for one in CANDIDATES if one.query_id == "b")])
    pairs = added(hard_negatives=settings, random_negatives=3)
    assert {doc_id for query_id, doc_id in of(pairs, Source.RANDOM) if query_id == "a"} == {"c0", "c1", "c2"}
    with pytest.raises(ValueError, match="is 4, but other queries have only 3 documents that query_id a does not have"):
        added(hard_negatives=settings, random_negatives=4)


# --- the guard --------------------------------------------------------------------------------------------------------

SCORES = {("a", "a0"): 5.0, ("a", "a1"): 3.0, ("b", "b0"): 1.0, ("b", "b1"): 2.0, ("c", "c0"): 0.0, ("c", "c1"): 0.0}
HARD_SCORES = {("a", "x1"): 2.5, ("a", "x2"): 2.0, ("a", "x3"): 9.0, ("b", "y1"): 0.0, ("b", "y2"): 0.1}


def test_negatives_near_a_positive_are_left_out_and_counted(tmp_path: Path) -> None:
    guard = {"scores": tmp_path, "margin": 1.0}
    pairs = added(scores={**SCORES, **HARD_SCORES}, hard_negatives=written(tmp_path), guard=guard)
    # The lowest positives: 3 of a (label 1), 1 of b; exactly the margin below is far enough.
    assert of(pairs, Source.HARD) == [("a", "x2"), ("b", "y1")]
    assert pairs.facts["guard"] == (
        "3 of 5 hard negatives left out, less than 1 below a label of 1 or more; 0 queries have no such label"
    )
    assert len(pairs.labels) == len(pairs.sources) == len(pairs.pair_set) == 11


def test_the_label_from_which_on_a_document_is_a_positive(tmp_path: Path) -> None:
    guard = {"scores": tmp_path, "margin": 1.0, "positive_label": 2}
    pairs = added(scores={**SCORES, **HARD_SCORES}, hard_negatives=written(tmp_path), guard=guard)
    assert of(pairs, Source.HARD) == [("a", "x1"), ("a", "x2"), ("b", "y1")]


def test_queries_without_a_positive_need_no_score_and_keep_their_negatives(tmp_path: Path) -> None:
    guard = {"scores": tmp_path, "margin": 1.0, "positive_label": 3}
    pairs = added(scores={}, hard_negatives=written(tmp_path), guard=guard)
    assert len(of(pairs, Source.HARD)) == 5
    assert pairs.facts["guard"].endswith("; 3 queries have no such label")


def test_random_negatives_are_guarded_too(tmp_path: Path) -> None:
    every = {(query_id, one.doc_id): -9.0 for query_id in QUERIES for one in JUDGED}
    guard = {"scores": tmp_path, "margin": 1.0}
    pairs = added(scores={**every, **SCORES}, random_negatives=2, guard=guard)
    assert len(of(pairs, Source.RANDOM)) == 6
    near = {key: 4.5 for key in of(pairs, Source.RANDOM)[:3]}
    pairs = added(scores={**every, **SCORES, **near}, random_negatives=2, guard=guard)
    assert len(of(pairs, Source.RANDOM)) == 3
    assert pairs.facts["guard"].startswith("3 of 6 random negatives left out")


def test_scores_of_a_run(tmp_path: Path) -> None:
    write_trec_run(tmp_path / "t.trec", {"a": {"a0": 0.5, "a1": -1.25}, "b": {"b0": 3.0}}, "t")
    lookup = scores_of_run(tmp_path / "t.trec")
    pair_set, _ = collect_judged(JUDGED)
    assert lookup(pair_set.take([3, 1, 0])).tolist() == [3.0, -1.25, 0.5]
    with pytest.raises(
        ValueError, match=r"6 of 9 pairs have no score in .*t.trec, first .*: \(a, a2\), \(b, b1\), \(b, b2\)"
    ):
        lookup(pair_set)
