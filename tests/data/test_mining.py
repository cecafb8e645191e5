"""Which queries and documents an epoch sees: exact choices on small cases, shares, determinism."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from disranker.config.mining import MiningConfig
from disranker.data.batches import StepPlan
from disranker.data.mining import MinedSampler
from disranker.data.sampling import GroupSampler, Sampling

# Margins of the queries: a 3, b 1, c 2, d none (one document), e none (judged only).
NAN = float("nan")
SCORES = np.array([3, 0, 0, 2, 1, 1, 0, 4, 2, 2, 5, NAN, NAN], dtype=np.float32)
GROUPS = [
    ("a", np.array([0, 1, 2])),
    ("b", np.array([3, 4, 5])),
    ("c", np.array([7, 8, 9])),
    ("d", np.array([10])),
    ("e", np.array([11, 12])),
]
# One query of 30 documents, of which the last 6 have no score; the scores fall with the row.
_FALLING = np.arange(23.0, -1.0, -1.0)
LONG = np.concatenate([(_FALLING - _FALLING.mean()) / _FALLING.std(), np.full(6, NAN)]).astype(np.float32)


def sampler(mining: dict[str, Any], *, docs_per_query: int = 99, seed: int = 0, **more: Any) -> MinedSampler:
    config = MiningConfig.model_validate(mining)
    return MinedSampler(GROUPS, SCORES, mining=config, docs_per_query=docs_per_query, seed=seed, **more)


def long_sampler(mining: dict[str, Any], docs_per_query: int, *, seed: int = 0, **more: Any) -> MinedSampler:
    config = MiningConfig.model_validate(mining)
    groups = [("long", np.arange(30))]
    return MinedSampler(groups, LONG, mining=config, docs_per_query=docs_per_query, seed=seed, **more)


def names(one: MinedSampler, order: NDArray[np.int64]) -> str:
    """The queries of an order, by their first row."""
    by_row = {int(rows[0]): query_id for query_id, rows in GROUPS}
    return "".join(by_row[int(one.rows(int(item), 0)[0])] for item in order)


class Student:
    """Scores of a student that are the teacher's, but for some rows; counts how often it is asked."""

    def __init__(self, scores: NDArray[np.float32], **wrong: float) -> None:
        self._scores = np.nan_to_num(scores)
        for row, score in wrong.items():
            self._scores[int(row[1:])] = score
        self.epochs: list[int] = []

    def __call__(self, epoch: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        self.epochs.append(epoch)
        return self._scores[rows]


# --- by the teacher's certainty, once ---


@pytest.mark.parametrize(
    ("keep", "share", "expected"),
    [("certain", 0.5, "acde"), ("certain", 0.3, "ade"), ("uncertain", 0.3, "bde"), ("uncertain", 1.0, "abcde")],
)
def test_a_share_of_the_queries_by_margin(keep: str, share: float, expected: str) -> None:
    """Rounded up over the three queries that have a margin; the others stay."""
    one = sampler({"queries": {"keep": keep, "share": share}})
    assert names(one, np.arange(len(one))) == expected
    assert one.facts == {"queries": f"{len(expected)} of 5, the most {keep} by margin"}


def test_a_share_of_the_queries_by_entropy() -> None:
    """Two documents far apart are decided whatever the margin says; equal ones are not."""
    scores = np.array([9, 0, 0, 0, 0, 1, 0, 0], dtype=np.float32)
    groups = [("picked", np.array([0, 1])), ("equal", np.array([2, 3, 4])), ("near", np.array([5, 6, 7]))]
    for keep, expected in (("certain", 0), ("uncertain", 2)):
        config = MiningConfig.model_validate({"queries": {"keep": keep, "share": 0.1, "by": "entropy"}})
        one = MinedSampler(groups, scores, mining=config, docs_per_query=9, seed=0)
        assert len(one) == 1 and one.rows(0, 0)[0] == expected


@pytest.mark.parametrize(
    ("keep", "share", "expected"),
    [("certain", 0.4, [0, 1]), ("certain", 0.6, [0, 1, 2]), ("uncertain", 0.4, [3, 4]), ("uncertain", 0.01, [3, 4])],
)
def test_a_share_of_the_documents_two_at_least(keep: str, share: float, expected: list[int]) -> None:
    """The margins are 4, 3, 2, 1, 1; one document more has no score."""
    scores = np.array([10, 6, 3, 1, 0, NAN], dtype=np.float32)
    config = MiningConfig.model_validate({"documents": {"keep": keep, "share": share}})
    one = MinedSampler([("q", np.arange(6)), ("r", np.array([5]))], scores, mining=config, docs_per_query=9, seed=0)
    assert one.rows(0, 0).tolist() == [*expected, 5]
    assert one.rows(1, 0).tolist() == [5]
    assert one.facts == {"documents": f"{len(expected) + 2} of 7, the most {keep} of each query by margin"}


# --- top, middle, anywhere ---


@settings(max_examples=60, deadline=None)
@given(top=st.integers(0, 12), middle=st.integers(0, 12), random=st.integers(0, 12), epoch=st.integers(0, 3))
def test_the_mix_of_a_long_list(top: int, middle: int, random: int, epoch: int) -> None:
    """Rows 0..23 are the teacher's list, 8..15 its middle third, 24..29 have no score."""
    total = top + middle + random
    one = long_sampler({"mix": {"top": top, "middle": middle, "random": random}}, total)
    rows = one.rows(0, epoch)
    assert len(set(rows.tolist())) == len(rows) == min(total, 30)
    if total >= 30:
        return
    third = {row for row in range(8, 16) if row >= top}
    num_middle = min(middle, len(third))
    assert rows[:top].tolist() == list(range(top))
    assert set(rows[top : top + num_middle].tolist()) <= third


def test_every_document_has_its_turn_in_the_mix() -> None:
    one = long_sampler({"mix": {"top": 2, "middle": 3, "random": 4}}, 9)
    seen = Counter(int(row) for epoch in range(300) for row in one.rows(0, epoch))
    assert (seen[0], seen[1]) == (300, 300)
    middle, rest = [seen[row] for row in range(8, 16)], [seen[row] for row in (*range(2, 8), *range(16, 30))]
    # Of the middle third 3 of 8 are drawn, and of the 25 that are left 4.
    assert all(
        0.7 * expected < count < 1.4 * expected for count in middle for expected in [300 * (3 / 8 + 5 / 8 * 4 / 25)]
    )
    assert all(0.5 * expected < count < 1.6 * expected for count in rest for expected in [300 * 4 / 25])


def test_equal_scores_are_placed_by_chance() -> None:
    config = MiningConfig.model_validate({"mix": {"top": 2, "middle": 0, "random": 0}})
    one = MinedSampler([("q", np.arange(6))], np.ones(6, dtype=np.float32), mining=config, docs_per_query=2, seed=0)
    assert len({tuple(sorted(one.rows(0, epoch).tolist())) for epoch in range(60)}) == 15


def test_a_group_that_is_no_larger_is_taken_whole_and_said() -> None:
    one = sampler({"mix": {"top": 1, "middle": 1, "random": 1}}, docs_per_query=3)
    assert [one.rows(item, 0).tolist() for item in range(5)] == [rows.tolist() for _, rows in GROUPS]
    said = "1 of the top, 1 of the middle third, 1 of the rest; 5 of 5 queries have no more than 3 and are taken whole"
    assert one.facts == {"mix": said}


# --- by disagreement ---


def test_documents_are_drawn_by_disagreement() -> None:
    """The student is wrong about row 5 alone, which is drawn far more often than any other."""
    student = Student(LONG, r5=-4.0)
    one = long_sampler({"disagreement": {"of": "documents", "even_share": 0.5}}, 3, student=student)
    assert one.facts == {"drawn": "documents by disagreement of student and teacher from epoch 1 on, 50% evenly"}
    plain = GroupSampler([("long", np.arange(30))], LONG, docs_per_query=3, seed=0, sampling=Sampling())
    assert one.rows(0, 0).tolist() == plain.rows(0, 0).tolist() and student.epochs == []
    counts = Counter(int(row) for epoch in range(1, 301) for row in one.rows(0, epoch))
    assert counts[5] > 2.5 * max(count for row, count in counts.items() if row != 5)
    assert set(counts) == set(range(30))  # the even share reaches all, those without a score too
    assert student.epochs == list(range(1, 301))


def test_probabilities_are_in_proportion_to_the_centred_difference() -> None:
    """One document is drawn, so its frequency is its probability; a constant that the student adds means nothing."""
    rng = np.random.default_rng(3)
    teacher, student = rng.normal(size=8).astype(np.float32), rng.normal(size=8).astype(np.float32)
    groups = [("q", np.arange(5)), ("r", np.arange(5, 8))]
    config = MiningConfig.model_validate({"disagreement": {"of": "documents", "even_share": 0.1, "from_epoch": 0}})

    scores = lambda _, rows: (10 * student + 7)[rows]  # noqa: E731
    one = MinedSampler(groups, teacher, mining=config, docs_per_query=1, seed=0, student=scores)
    ours, theirs = ((one - one.mean()) / one.std() for one in (student, teacher))
    distance = np.abs((ours[:5] - ours[:5].mean()) - (theirs[:5] - theirs[:5].mean()))
    expected = 0.9 * distance / distance.sum() + 0.1 / 5
    found = np.bincount([int(one.rows(0, epoch)[0]) for epoch in range(1000)], minlength=5) / 1000
    assert found == pytest.approx(expected, abs=0.05)


def test_the_part_that_the_mix_draws_anywhere_goes_by_disagreement() -> None:
    mining = {"mix": {"top": 2, "middle": 0, "random": 1}, "disagreement": {"of": "documents", "even_share": 0.1}}
    one = long_sampler(mining, 3, student=Student(LONG, r20=4.0))
    drawn = [one.rows(0, epoch).tolist() for epoch in range(1, 120)]
    assert all(rows[:2] == [0, 1] for rows in drawn)
    (most, times), (_, second) = Counter(rows[2] for rows in drawn).most_common(2)
    assert most == 20 and times > 3 * second


def test_queries_stand_in_an_epoch_as_often_as_they_disagree() -> None:
    """Every query stands there a number of times that is its expectation rounded up or down, on average exactly it."""
    mining = {"disagreement": {"of": "queries", "even_share": 0.2, "from_epoch": 0}}
    one = sampler(mining, student=Student(SCORES, r0=9.0, r4=5.0))
    student = np.nan_to_num(SCORES).copy()
    student[0], student[4] = 9.0, 5.0
    scored = np.concatenate([rows for _, rows in GROUPS[:4]])
    ours, theirs = ((one - one[scored].mean()) / one[scored].std() for one in (student, SCORES))
    by_query = [
        np.abs((ours[own] - ours[own].mean()) - (theirs[own] - theirs[own].mean())).mean() for _, own in GROUPS[:3]
    ]
    values = np.array([*by_query, np.median(by_query), np.median(by_query)])
    expected = 5 * (0.8 * values / values.sum() + 0.2 / 5)
    counts = np.array([np.bincount(one.order(epoch), minlength=5) for epoch in range(400)])
    assert (np.abs(counts - expected) < 1).all()
    assert counts.mean(axis=0) == pytest.approx(expected, abs=0.1)
    assert np.ptp(expected) > 0.5  # or nothing was shown
    assert not np.array_equal(one.order(0), one.order(1))


def test_a_student_of_one_score_leaves_the_teachers_spread() -> None:
    flat = Student(np.zeros(13, dtype=np.float32))
    one = sampler({"disagreement": {"of": "queries", "from_epoch": 0}}, student=flat)
    assert set(one.order(0).tolist()) <= set(range(5))


# --- from easy to hard ---


def test_a_curriculum_over_epochs_lets_the_hard_queries_in_later() -> None:
    """By margin a, c, b; d and e have none and count as the middle."""
    one = sampler({"curriculum": {"epochs": 3, "start_share": 0.2}})
    sizes = [len(one.order(epoch)) for epoch in range(5)]
    assert sizes == [1, 3, 4, 5, 5]  # ceil of 1, 2.33, 3.67
    assert names(one, one.order(0)) == "a"
    assert sorted(names(one, one.order(2))) == ["a", "c", "d", "e"]
    assert one.facts == {"curriculum": "easy first by margin over the epochs of 3 epochs, 1 of 5 first"}
    curriculum = MiningConfig.model_validate({"curriculum": {}}).curriculum
    assert curriculum is not None and curriculum.start_share == 0.3


def test_a_curriculum_over_steps_sees_all_from_easy_to_hard() -> None:
    one = sampler({"curriculum": {"over": "steps", "epochs": 2}})
    for epoch in range(2):
        found = names(one, one.order(epoch))
        assert (found[0], sorted(found[1:4]), found[4]) == ("a", ["c", "d", "e"], "b")
    assert len({names(one, one.order(epoch)) for epoch in range(2, 12)}) > 3
    assert one.facts == {"curriculum": "easy first by margin over the steps of 2 epochs"}


def test_a_curriculum_by_disagreement_asks_the_student_while_it_lasts() -> None:
    student = Student(SCORES, r0=0.5, r4=5.0)
    one = sampler({"curriculum": {"by": "disagreement", "over": "steps", "epochs": 2}}, student=student)
    orders = [names(one, one.order(epoch)) for epoch in range(4)]
    assert orders[0][0] == "c" and orders[1][0] == "c"  # the student is right about c alone
    assert student.epochs == [0, 1]


def test_what_is_off_leaves_order_and_rows_as_they_are() -> None:
    """A choice of queries that keeps all, and draws of an epoch before disagreement: the run without mining."""
    one = sampler({"queries": {"keep": "certain", "share": 1.0}}, docs_per_query=2)
    plain = GroupSampler(GROUPS, SCORES, docs_per_query=2, seed=0, sampling=Sampling())
    for epoch in range(3):
        assert [one.rows(item, epoch).tolist() for item in range(5)] == [
            plain.rows(item, epoch).tolist() for item in range(5)
        ]


# --- what all of them share ---

EVERYTHING = {
    "queries": {"keep": "certain", "share": 0.9},
    "documents": {"keep": "uncertain", "share": 0.9},
    "disagreement": {"of": "documents", "from_epoch": 0},
    "mix": {"top": 1, "middle": 1, "random": 2},
    "curriculum": {"by": "disagreement", "epochs": 2},
}


def made(groups: list[tuple[str, NDArray[np.int64]]], seed: int = 0) -> MinedSampler:
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 60)).astype(np.float32)
    mining = MiningConfig.model_validate(EVERYTHING)
    scores = lambda epoch, rows: np.roll(student, epoch)[rows]  # noqa: E731
    return MinedSampler(groups, teacher, mining=mining, docs_per_query=4, seed=seed, student=scores)


def test_draws_are_a_function_of_seed_epoch_and_query() -> None:
    """Another place in the data changes nothing of a query; another seed or epoch does."""
    groups = [(f"q{at}", np.arange(6 * at, 6 * at + 6)) for at in range(10)]
    first, moved = made(groups), made(groups[::-1])

    def by_query(one: MinedSampler, epoch: int) -> dict[int, list[int]]:
        drawn = [one.rows(int(item), epoch).tolist() for item in one.order(epoch)]
        return {rows[0] // 6: rows for rows in drawn}

    for epoch in range(4):
        assert by_query(first, epoch) == by_query(moved, epoch) == by_query(made(groups), epoch)
    assert len(by_query(first, 3)) == 9
    assert by_query(first, 2) != by_query(first, 3) != by_query(made(groups, seed=1), 3)
    # Going back to an epoch gives it again.
    assert by_query(first, 1) == by_query(moved, 1)


class Names:
    """Items whose batches say which they are."""

    def lengths(self, epoch: int) -> NDArray[np.int64]:
        return np.full(10, 25)

    def batch(self, items: Any, epoch: int, weight: float) -> list[tuple[int, int]]:
        return [(epoch, item) for item in items if weight]


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (1, 3), (2, 2)])
def test_steps_are_filled_in_the_order_of_the_epoch(ranks: int, accumulation: int) -> None:
    """With groups left out and groups that stand there twice, whoever makes which micro-batch."""
    orders = [np.array([3, 1, 3, 9, 0, 3]), np.array([7, 8])]

    def steps(rank: int) -> list[list[tuple[int, int]]]:
        plan = StepPlan(
            Names(),
            tokens_per_step=50,
            accumulation=accumulation,
            process_rank=rank,
            world_size=ranks,
            seed=0,
            order=lambda epoch: orders[epoch],
        )
        assert plan.num_steps(2) == 4
        made = [make() for _, make in zip(range(4), plan.steps(), strict=False)]
        resumed = [make() for _, make in zip(range(2), plan.steps(2), strict=False)]
        assert resumed == made[2:]
        return [[name for batch in step for name in batch] for step in made]

    together = [sorted(chain(*parts)) for parts in zip(*(steps(rank) for rank in range(ranks)), strict=True)]
    assert together == [[(0, 1), (0, 3)], [(0, 3), (0, 9)], [(0, 0), (0, 3)], [(1, 7), (1, 8)]]


def test_choices_without_anything_to_go_by() -> None:
    singles = [("d", np.array([10])), ("f", np.array([0]))]

    def refused(mining: dict[str, Any], message: str, groups: Any = singles, docs_per_query: int = 2) -> None:
        config = MiningConfig.model_validate(mining)
        with pytest.raises(ValueError, match=message):
            MinedSampler(groups, SCORES, mining=config, docs_per_query=docs_per_query, seed=0)

    refused({"queries": {"keep": "certain", "share": 0.5}}, "mining.queries compares .* no query has two")
    refused({"curriculum": {}}, "mining.curriculum compares .* no query has two")
    refused({"disagreement": {"of": "queries"}}, "mining by disagreement compares .* no query has two")
    refused(
        {"disagreement": {"of": "documents"}},
        "no query has more than 3 documents: lower docs_per_query, or take disagreement of queries",
        GROUPS,
        3,
    )
