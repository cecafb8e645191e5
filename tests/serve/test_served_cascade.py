from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disranker.config.serve import ServedCascadeConfig
from disranker.data.readers import read_candidates
from disranker.evaluation.cascade import cascade_run
from disranker.schema import Pair
from disranker.serve.cascade import UncertainFile, find_uncertain, merge
from tests.serve.serving import WordScorer, client

STUDENT = {"one": 4.0, "two": 3.0, "three": 2.9, "four": 2.8, "five": 0.0}
TEACHER = {"one": 0.0, "two": 1.0, "three": 2.0, "four": 3.0, "five": 9.0}
WORDS = list(STUDENT)


def cascade(**changed: Any) -> ServedCascadeConfig:
    """Around the cut after position 2: two, three and four are uncertain."""
    return ServedCascadeConfig.model_validate({"teacher": "t", "threshold": 0.2, "cut": 2, **changed})


def find(scores: list[float], **changed: Any) -> list[int]:
    settings: dict[str, Any] = {"rule": "band", "threshold": 0.2, "cut": 2, "max_documents": 20, **changed}
    return find_uncertain(np.array(scores, dtype=np.float32), **settings)


@given(
    values=st.lists(st.integers(-50, 50), min_size=1, max_size=14, unique=True),
    seed=st.integers(0, 1000),
    rule=st.sampled_from(["band", "margin", "depth"]),
    threshold=st.integers(0, 30),
    cut=st.integers(1, 15),
)
@settings(deadline=None, max_examples=150)
def test_without_a_cap_it_is_the_cascade_of_the_evaluation(
    values: list[int], seed: int, rule: Literal["band", "margin", "depth"], threshold: int, cut: int
) -> None:
    student = np.array(values, dtype=np.float32)
    teacher = np.random.default_rng(seed).permutation(len(values)).astype(np.float32)
    uncertain = find_uncertain(student, rule=rule, threshold=threshold, cut=cut, max_documents=100)
    order, shared = merge(student, uncertain, teacher[uncertain])
    as_runs = [{"q": {f"d{i:02}": float(value) for i, value in enumerate(scores)}} for scores in (student, teacher)]
    expected = cascade_run(*as_runs, threshold=threshold, rule=rule, cut=cut)["q"]
    assert [f"d{index:02}" for index in order] == sorted(expected, key=lambda doc: -expected[doc])
    # The scores are the student's own, and fall along the order.
    assert sorted(shared.tolist()) == sorted(student.tolist())
    assert shared[order].tolist() == sorted(student.tolist(), reverse=True)


def test_the_band_lies_around_the_middle_of_the_two_scores_at_the_cut() -> None:
    scores = [4.0, 3.0, 2.5, 2.75, 0.0]  # cut after 3.0: the middle is 2.875
    assert find(scores, threshold=0.125) == [1, 3]
    assert find(scores, threshold=0.124) == []
    assert find(scores, threshold=0.375) == [1, 3, 2]
    assert find(scores, threshold=100.0, max_documents=3) == [1, 3, 2]
    assert find(scores, threshold=100.0, max_documents=4) == [1, 3, 2, 0]


def test_margin_takes_the_query_and_the_cap_keeps_the_places_about_the_cut() -> None:
    scores = [4.0, 3.0, 2.5, 2.75, 0.0]
    assert find(scores, rule="margin", threshold=0.24) == []
    assert find(scores, rule="margin", threshold=0.25) == [1, 3, 0, 2, 4]
    assert find(scores, rule="margin", threshold=0.25, max_documents=2) == [1, 3]


def test_depth_takes_the_first() -> None:
    scores = [1.0, 3.0, 2.5, 2.75]
    assert find(scores, rule="depth", threshold=3) == [1, 3, 2]
    assert find(scores, rule="depth", threshold=1) == []
    assert find(scores, rule="depth", threshold=9, max_documents=2) == [1, 3]


@pytest.mark.parametrize("scores", [[], [1.0]])
def test_less_than_two_documents_are_never_uncertain(scores: list[float]) -> None:
    assert find(scores, threshold=100.0) == []


# --- served ---


def serve(bodies: list[dict[str, Any]], teacher: WordScorer | None, config: ServedCascadeConfig) -> tuple[Any, str]:
    async def run() -> tuple[Any, str]:
        async with client(WordScorer(STUDENT), cascade=config, teacher=teacher) as one:
            answers = [(await one.post("/rerank", json=body)).json() for body in bodies]
            return answers, (await one.get("/metrics")).text

    return asyncio.run(run())


def test_the_teacher_orders_what_is_uncertain_and_nothing_else() -> None:
    teacher = WordScorer(TEACHER)
    body = {"query": "q", "texts": WORDS, "raw_scores": True}
    (answer,), metrics = serve([body], teacher, cascade())
    assert [(one["index"], one["score"]) for one in answer] == [
        (0, 4.0),
        (3, pytest.approx(3.0)),
        (2, pytest.approx(2.9)),
        (1, pytest.approx(2.8)),
        (4, 0.0),
    ]
    assert sum(map(len, teacher.batches)) == 3
    assert "disranker_uncertain_documents_total 3.0" in metrics
    assert "disranker_uncertain_share 0.6" in metrics
    assert 'disranker_scored_pairs_total{ranker="teacher"} 3.0' in metrics


def test_a_query_without_doubt_is_left_to_the_student() -> None:
    teacher = WordScorer(TEACHER)
    (answer,), metrics = serve([{"query": "q", "texts": ["two", "one", "five"]}], teacher, cascade())
    assert [one["index"] for one in answer] == [1, 0, 2]
    assert teacher.batches == []
    assert "disranker_uncertain_share 0.0" in metrics


def test_uncertain_pairs_are_kept_once_and_are_candidates(tmp_path: Path) -> None:
    file = tmp_path / "new" / "uncertain.jsonl"
    config = cascade(uncertain_file=str(file))
    body = {"query": "which", "texts": [*WORDS[:3], {"title": "four", "summary": "x"}, "five"]}
    for _ in range(2):  # the second server knows what the first one wrote
        _, metrics = serve([body, body], WordScorer(TEACHER), config)
    assert "disranker_uncertain_pairs_written_total 0.0" in metrics
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    found = {row.title or row.summary: row for row in read_candidates(file)}
    assert set(found) == {"two", "three", "four"}
    assert {row["title"] or row["summary"]: (row["score"], row["teacher_score"]) for row in rows} == {
        "two": (pytest.approx(3.0), 1.0),
        "three": (pytest.approx(2.9), 2.0),
        "four": (pytest.approx(2.8), 3.0),
    }
    assert len({row.query_id for row in found.values()}) == 1


def test_without_a_teacher_the_order_stands_and_pairs_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "uncertain.jsonl"
    config = cascade(teacher=None, uncertain_file=str(file))
    (answer,), _ = serve([{"query": "which", "texts": WORDS}], None, config)
    assert [one["index"] for one in answer] == [0, 1, 2, 3, 4]
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert {row["summary"] for row in rows} == {"two", "three", "four"}
    assert all("teacher_score" not in row for row in rows)


def test_the_file_stops_at_its_size_and_leaves_out_what_no_reader_takes(tmp_path: Path) -> None:
    file = UncertainFile(tmp_path / "uncertain.jsonl", max_bytes=300)
    assert file.append([Pair("查询", "标题", ""), Pair("q", " ", "")], [0.5, 1.0], None) == 1
    size = file.path.stat().st_size
    assert file.append([Pair("q", "", "x" * 300)], [0.5], [1.5]) == 0
    assert file.path.stat().st_size == size
    (row,) = read_candidates(file.path)
    assert row.pair == Pair("查询", "标题", "")


def test_another_file_is_not_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match=r"other\.jsonl:1 is no row of uncertain pairs"):
        UncertainFile(file, max_bytes=1000)


def test_a_last_line_that_was_cut_short_is_taken_away(tmp_path: Path) -> None:
    file = UncertainFile(tmp_path / "uncertain.jsonl", max_bytes=10_000)
    pairs = [Pair("q", "", "one"), Pair("q", "", "two")]
    assert file.append(pairs, [0.5, 1.0], None) == 2
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-9])
    again = UncertainFile(file.path, max_bytes=10_000)
    assert file.path.read_bytes() == whole[: whole.index(b"\n") + 1]
    assert again.append(pairs, [0.5, 1.0], None) == 1
    assert file.path.read_bytes() == whole


def test_what_could_not_be_written_is_neither_remembered_nor_half_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = UncertainFile(tmp_path / "uncertain.jsonl", max_bytes=10_000)
    assert file.append([Pair("q", "", "one")], [0.5], None) == 1
    whole = file.path.read_bytes()

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(bytes(data)[:7])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda self, mode: Full(self, mode))
        with pytest.raises(OSError, match="No space left"):
            file.append([Pair("q", "", "two")], [1.0], None)
    assert file.path.read_bytes() == whole
    assert file.append([Pair("q", "", "two")], [1.0], None) == 1
    # Nor does a full file fill the memory with what it does not take.
    full = UncertainFile(file.path, max_bytes=1)
    assert full.append([Pair("q", "", "three")], [1.0], None) == 0
    assert len(full._seen) == 2


class BrokenTeacher(WordScorer):
    def score_tokens(self, tokens: Any) -> Any:
        raise RuntimeError("the teacher broke")


@pytest.mark.parametrize(
    ("teacher", "changed", "why"),
    [
        (BrokenTeacher(TEACHER), {}, "failed"),
        (WordScorer(TEACHER, seconds=0.5), {"seconds": 0.05}, "late"),
        (WordScorer(TEACHER | {"two": float("nan")}), {}, "failed"),
    ],
)
def test_a_teacher_that_does_not_answer_leaves_the_student_s_order(
    teacher: WordScorer, changed: dict[str, Any], why: str, tmp_path: Path
) -> None:
    file = tmp_path / "uncertain.jsonl"
    config = cascade(uncertain_file=str(file), **changed)
    (answer,), metrics = serve([{"query": "q", "texts": WORDS}], teacher, config)
    assert [one["index"] for one in answer] == [0, 1, 2, 3, 4]
    assert f'disranker_teacher_skipped_total{{why="{why}"}} 1.0' in metrics
    assert "disranker_uncertain_documents_total 0.0" in metrics
    assert not file.exists()
