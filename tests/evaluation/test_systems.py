"""Evaluating one system: which rows are ranked, whose labels judge them, and what is recorded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from disranker.config.evaluation import LatencyConfig
from disranker.data.readers import write_records
from disranker.data.trec import write_trec_run
from disranker.evaluation.judged_set import read_test_set
from disranker.evaluation.rules import Rules
from disranker.evaluation.runs import read_systems
from disranker.evaluation.systems import (
    describe_model,
    record_system,
    score_bm25,
    score_random,
    score_run,
    score_with,
)
from disranker.schema import Candidate, Judgment, Pair
from disranker.shards import file_hash

if TYPE_CHECKING:  # pytest would take it for a class of tests
    from disranker.evaluation.judged_set import TestSet

JUDGED = [
    Judgment("q1", "a", "red shoes", "red shoes", "", 2),
    Judgment("q1", "b", "red shoes", "blue boots", "", 0),
    Judgment("q2", "a", "bike", "road bike", "", 1),
    Judgment("q2", "c", "bike", "winter", "", 0),
]
# d of q1 is not judged, q3 not at all
CANDIDATES = [
    Candidate("q1", "b", "red shoes", "blue boots", ""),
    Candidate("q1", "d", "red shoes", "tyres", ""),
    Candidate("q1", "a", "red shoes", "red shoes", ""),
    Candidate("q3", "a", "tyres", "tyres", ""),
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_records(tmp_path / "judged.parquet", Judgment, JUDGED)
    write_records(tmp_path / "candidates.parquet", Candidate, CANDIDATES)
    (tmp_path / "x.qrels").write_text("q1 0 d 3\nq1 0 a 1\nq9 0 a 1\n")
    return tmp_path


def keys(test_set: TestSet) -> list[tuple[str, str]]:
    return [(row.query_id, row.doc_id) for row in test_set.rows]


def test_by_default_the_judged_rows_are_ranked(files: Path) -> None:
    test_set = read_test_set([files / "judged.parquet"], [], None)
    assert list(test_set.rows) == JUDGED
    assert test_set.labels == {"q1": {"a": 2, "b": 0}, "q2": {"a": 1, "c": 0}}
    assert test_set.hash == file_hash(files / "judged.parquet")
    assert test_set.path == str(files / "judged.parquet")


def test_candidates_of_judged_queries_are_ranked_instead(files: Path) -> None:
    test_set = read_test_set([files / "judged.parquet"], [files / "candidates.parquet"], None)
    assert keys(test_set) == [("q1", "b"), ("q1", "d"), ("q1", "a")]
    assert test_set.labels == {"q1": {"a": 2, "b": 0}, "q2": {"a": 1, "c": 0}}
    # who is ranked is no part of the hash: it is that of the judgments
    assert test_set.hash == file_hash(files / "judged.parquet")


def test_qrels_replace_the_labels(files: Path) -> None:
    expected = {"q1": {"d": 3, "a": 1}, "q9": {"a": 1}}
    for judged in ([], [files / "judged.parquet"]):
        test_set = read_test_set(judged, [files / "candidates.parquet"], files / "x.qrels")
        assert keys(test_set) == [("q1", "b"), ("q1", "d"), ("q1", "a")]
        assert test_set.labels == expected
        assert (test_set.hash, test_set.path) == (file_hash(files / "x.qrels"), str(files / "x.qrels"))


def test_several_files_are_one_set(files: Path) -> None:
    extra = [replace(row, query_id=f"{row.query_id}x") for row in JUDGED]
    write_records(files / "more.parquet", Judgment, extra)
    paths = [files / "judged.parquet", files / "more.parquet"]
    test_set = read_test_set(paths, [], None)
    assert list(test_set.rows) == [*JUDGED, *extra]
    assert test_set.hash == " ".join(map(file_hash, paths))
    assert read_test_set(paths[::-1], [], None).hash != test_set.hash


def test_unjudged_candidates_count_as_not_relevant(files: Path) -> None:
    test_set = read_test_set([files / "judged.parquet"], [files / "candidates.parquet"], None)
    # d, which nobody judged, first; then a; then b
    run = {"q1": {"d": 3.0, "a": 2.0, "b": 1.0}}
    system = record_system(
        files / "out", "s", "run", test_set, score_run(test_set.rows, run, Path("r")), ["nDCG@10", "PNR"], {}
    )
    assert system.measured.per_query["nDCG@10"] == pytest.approx({"q1": 1 / math.log2(3), "q2": 0.0})
    # pairs (a, d) discordant and (a, b) concordant
    assert system.measured.aggregate["PNR"] == 1.0
    counts = system.measured.counts
    assert (counts["num_unjudged"], counts["num_queries_missing"], counts["num_unscored"]) == (1, 1, 2)


def test_candidates_of_other_queries_alone_are_an_error(files: Path) -> None:
    write_records(files / "others.parquet", Candidate, CANDIDATES[3:])
    with pytest.raises(ValueError, match="quer"):
        test_set = read_test_set([files / "judged.parquet"], [files / "others.parquet"], None)
        record_system(files / "out", "s", "run", test_set, score_run(test_set.rows, {}, Path("r")), ["PNR"], {})


def test_a_run_gives_its_scores_in_the_order_of_the_rows() -> None:
    run = {"q2": {"c": 4.0, "a": 3.0}, "q1": {"a": 1.0, "b": 2.0, "z": 9.0}}
    scored = score_run(JUDGED, run, Path("r"))
    assert scored.scores.tolist() == [1.0, 2.0, 3.0, 4.0] and scored.scores.dtype == np.float32
    assert scored.efficiency.seconds is None


def test_a_run_that_lacks_rows_is_refused_and_they_are_named() -> None:
    with pytest.raises(ValueError) as caught:
        score_run(JUDGED, {"q1": {"a": 1.0}}, Path("theirs.trec"))
    assert str(caught.value) == ("theirs.trec has no score for 3 rows, first: ('q1', 'b'), ('q2', 'a'), ('q2', 'c')")


class ByLength:
    """A model that scores the length of the title, and remembers what it was given."""

    num_parameters = 7

    def __init__(self) -> None:
        self.calls: list[list[Pair]] = []

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        self.calls.append(list(pairs))
        return np.array([len(pair.title) for pair in pairs], dtype=np.float32)


def test_a_model_is_timed_after_a_warm_up() -> None:
    model = ByLength()
    rows = [replace(JUDGED[0], doc_id=f"d{i}", title="x" * i) for i in range(50)]
    scored = score_with(model, rows, bytes=5, device="cpu", threads=1, dtype="float32")
    assert scored.scores.tolist() == [float(i) for i in range(50)]
    assert [len(call) for call in model.calls] == [32, 50]
    cost = scored.efficiency
    assert (cost.parameters, cost.bytes, cost.device, cost.threads, cost.dtype) == (7, 5, "cpu", 1, "float32")
    assert cost.seconds is not None and cost.seconds > 0
    assert cost.pairs_per_second == pytest.approx(50 / cost.seconds)


def test_requests_are_timed_when_latency_is_asked_for() -> None:
    model = ByLength()
    rows = [replace(JUDGED[0], doc_id=f"d{i}", title="x" * (i + 1)) for i in range(9)]
    config = LatencyConfig(documents=[2], seconds=1e-9)
    latency = score_with(model, rows, config, seed=4).efficiency.latency
    assert latency is not None and (latency.length_unit, latency.seed) == ("characters", 4)
    assert [(cell.documents, cell.length, cell.repeats) for cell in latency.cells] == [
        (2, length, 1) for length in ("short", "middle", "long")
    ]
    # the warm-up and the whole set, then an untimed and a timed request for each cell
    assert [len(call) for call in model.calls] == [9, 9, *[2] * 6]


def test_the_rules_are_those_of_the_measurement_and_are_kept(files: Path) -> None:
    test_set = read_test_set([files / "judged.parquet"], [files / "candidates.parquet"], None)
    scored = score_run(test_set.rows, {"q1": {"d": 3.0, "a": 2.0, "b": 1.0}}, Path("r"))
    rules = Rules(unjudged="skip", missing="skip")
    record_system(files / "out", "s", "run", test_set, scored, ["nDCG@10"], {}, rules)
    found = read_systems(files / "out")["s"]
    assert found.rules == rules
    # d, which nobody judged, is taken out of the list, and q2 is in no figure
    assert found.measured.per_query["nDCG@10"] == {"q1": 1.0}


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no bundle"):
        describe_model(tmp_path)


def test_baselines_need_no_model() -> None:
    bm25, random = score_bm25(JUDGED), score_random(JUDGED, seed=3)
    assert bm25.scores[0] > bm25.scores[1] and bm25.scores[2] > bm25.scores[3]
    assert bm25.efficiency.parameters is None and bm25.efficiency.seconds is not None
    assert random.scores.tolist() == score_random(JUDGED, seed=3).scores.tolist()
    assert random.scores.tolist() != score_random(JUDGED, seed=4).scores.tolist()


def test_what_is_recorded_comes_back_from_disk(files: Path) -> None:
    test_set = read_test_set([files / "judged.parquet"], [], None)
    scored = score_run(JUDGED, {"q1": {"a": 1.0, "b": 2.0}, "q2": {"a": 3.0, "c": 0.5}}, Path("r"))
    record_system(files / "out", "mine", "run", test_set, scored, ["nDCG@10", "PNR"], {"seed": 5})
    found = read_systems(files / "out")["mine"]
    assert found.kind == "run"
    # q1: the relevant one is second; q2: first
    assert found.measured.aggregate == pytest.approx({"nDCG@10": (1 / math.log2(3) + 1) / 2, "PNR": 1.0})
    assert found.provenance == {"judged": {"path": test_set.path, "hash": test_set.hash}, "seed": 5}
    assert found.read_scores() == {"q1": {"b": 2.0, "a": 1.0}, "q2": {"a": 3.0, "c": 0.5}}
    # the run on disk is the one that TREC's tools write
    write_trec_run(files / "again.trec", found.read_scores(), tag="mine")
    assert (files / "again.trec").read_bytes() == (files / "out" / "mine.trec").read_bytes()
