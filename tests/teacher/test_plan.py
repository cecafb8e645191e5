"""The plan: first occurrences as a set would find them, shards and their cost, dealing, resume, memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disranker.schema import Candidate
from disranker.teacher import plan as plan_module
from disranker.teacher.keys import keys_of
from disranker.teacher.plan import PLAN_FOLDER, Plan, deal, make_plan
from tests import tiny_runs
from tests.memory import run_measured
from tests.teacher.fakes import CANDIDATES, count_tokens


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "SEGMENT_ROWS", 4)
    monkeypatch.setattr(plan_module, "ROWS_PER_PASS", 7)


def every(plan: Plan) -> np.ndarray:
    return np.ones(plan.num_shards, dtype=bool)


def test_blocks_are_the_distinct_candidates_in_order(tmp_path: Path, small_segments: None) -> None:
    plan = make_plan(tmp_path, lambda: iter(CANDIDATES), count_tokens, pairs_per_shard=6)
    assert (plan.num_candidates, plan.num_pairs, plan.num_shards) == (25, 20, 4)
    blocks = list(plan.blocks(CANDIDATES, every(plan)))
    assert [[int(c.doc_id[1:]) for c in block.candidates] for block in blocks] == [
        [0, 1, 2, 3, 4, 10],
        [11, 12, 13, 14, 15, 16],
        [17, 18, 19, 20, 21, 22],
        [23, 24],
    ]
    assert [[c.doc_id for c in block.aliases] for block in blocks] == [["d5", "d6", "d7", "d8", "d9"], [], [], []]
    for block in blocks:
        assert block.keys.tolist() == keys_of([c.pair for c in block.candidates]).tolist()
        assert block.alias_keys.tolist() == keys_of([c.pair for c in block.aliases]).tolist()
    # "title 0" has 7 characters, "title 10" has 8; a repeated text costs nothing
    assert plan.tokens.tolist() == [5 * 7 + 8, 6 * 8, 6 * 8, 2 * 8]
    assert plan.pairs.tolist() == [6, 6, 6, 2]
    picked = list(plan.blocks(CANDIDATES, np.array([False, True, False, True])))
    assert [block.index for block in picked] == [1, 3]
    assert [block.candidates for block in picked] == [blocks[1].candidates, blocks[3].candidates]


@settings(max_examples=30, deadline=None)  # each one writes a dozen files that are synced
@given(
    titles=st.lists(st.integers(0, 12), min_size=1, max_size=40), per_shard=st.integers(1, 9), segment=st.integers(3, 9)
)
def test_any_repetition_is_cut_as_a_set_would(
    titles: list[int], per_shard: int, segment: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    candidates = [Candidate("q", f"d{at}", "query", f"title {title}", "") for at, title in enumerate(titles)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plan_module, "SEGMENT_ROWS", segment)
        patched.setattr(plan_module, "ROWS_PER_PASS", 5)
        folder = tmp_path_factory.mktemp("plan")
        plan = make_plan(folder, lambda: iter(candidates), None, pairs_per_shard=per_shard)
        blocks = list(plan.blocks(candidates, every(plan)))
    expected = [candidate for at, candidate in enumerate(candidates) if titles.index(titles[at]) == at]
    assert [candidate for block in blocks for candidate in block.candidates] == expected
    assert {len(block.candidates) for block in blocks[:-1]} <= {per_shard}
    assert plan.tokens.tolist() == plan.pairs.tolist() == [len(block.candidates) for block in blocks]
    aliases = [candidate for block in blocks for candidate in block.aliases]
    assert aliases == [candidate for candidate in candidates if candidate not in expected]


def test_a_plan_that_was_killed_goes_on_with_its_segments(tmp_path: Path, small_segments: None) -> None:
    make_plan(tmp_path / "straight", lambda: iter(CANDIDATES), count_tokens, pairs_per_shard=6)
    counted: list[int] = []

    def dying(pairs: list) -> list[int]:
        if len(counted) == 3:
            raise KeyboardInterrupt
        counted.append(len(pairs))
        return count_tokens(pairs)

    with pytest.raises(KeyboardInterrupt):
        make_plan(tmp_path / "killed", lambda: iter(CANDIDATES), dying, pairs_per_shard=6)
    assert sorted(path.name for path in (tmp_path / "killed" / PLAN_FOLDER).iterdir()) == [
        f"rows-00000{segment}.npy" for segment in range(3)
    ]
    counted.clear()

    def counting(pairs: list) -> list[int]:
        counted.append(len(pairs))
        return count_tokens(pairs)

    make_plan(tmp_path / "killed", lambda: iter(CANDIDATES), counting, pairs_per_shard=6)
    assert counted == [4, 4, 4, 1]
    assert tiny_runs.file_bytes(tmp_path / "killed") == tiny_runs.file_bytes(tmp_path / "straight")


def test_a_plan_that_stands_is_not_made_again(tmp_path: Path) -> None:
    make_plan(tmp_path, lambda: iter(CANDIDATES), None, pairs_per_shard=6)

    def read() -> Iterator[Candidate]:
        pytest.fail("read again")

    assert make_plan(tmp_path, read, None, pairs_per_shard=6).num_pairs == 20


def test_candidates_that_changed_since_are_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, lambda: iter(CANDIDATES), None, pairs_per_shard=6)
    with pytest.raises(ValueError, match=r"have changed since they were planned \(row 1, shard 0\)"):
        list(plan.blocks(CANDIDATES[1:], every(plan)))
    with pytest.raises(ValueError, match=r"have changed .*\(row 24, shard 3\)"):
        list(plan.blocks(CANDIDATES[:-1], every(plan)))


def test_no_candidate_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no candidate was read"):
        make_plan(tmp_path, lambda: iter([]), None, pairs_per_shard=6)


def test_shards_are_dealt_longest_first_and_only_those_that_lack() -> None:
    tokens = np.array([5, 9, 1, 7, 3, 3])
    owners = deal(tokens, np.ones(6, dtype=bool), 2)
    # 9 -> rank 0; 7 -> 1; 5 -> 1 (7 < 9); 3 -> 0 (9 < 12); 3 -> 0 (12 = 12, the lower rank); 1 -> 1
    assert owners.tolist() == [1, 0, 1, 1, 0, 0]
    assert deal(tokens, np.array([True, False, True, False, True, False]), 2).tolist() == [0, -1, 1, -1, 1, -1]
    assert deal(tokens, np.ones(6, dtype=bool), 1).tolist() == [0] * 6


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.integers(1, 9))
def test_no_rank_has_more_than_its_share_and_one_shard(tokens: list[int], num_ranks: int) -> None:
    owners = deal(np.array(tokens), np.ones(len(tokens), dtype=bool), num_ranks)
    loads = np.bincount(owners, weights=tokens, minlength=num_ranks)
    assert loads.sum() == sum(tokens)
    assert loads.max() <= sum(tokens) / num_ranks + max(tokens)


SCORE = """
import sys
from pathlib import Path
import numpy as np
from disranker.schema import Candidate
from disranker.teacher.scoring import Teacher, score_candidates

def candidates():
    for i in range(int(sys.argv[2])):
        yield Candidate(f"q{i // 20}", f"d{i}", f"query {i // 20}", f"title {i}", "the words of a summary " * 20)

def score(block):
    return np.arange(len(block), dtype=np.float32), None

def count(pairs):
    return [len(pair.title) for pair in pairs]

score_candidates(
    Teacher({"kind": "fake"}, score, count), candidates, out=Path(sys.argv[1]), input_hash="i", pairs_per_shard=4096
)
"""


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_candidates(tmp_path: Path) -> None:
    """Their texts alone are 50 MB at 100 000 and 150 MB at 300 000; as Python objects twice that."""
    (_, few), (_, many) = (run_measured(SCORE, tmp_path / str(number), str(number)) for number in (100_000, 300_000))
    assert many - few < 40e6, (few, many)
