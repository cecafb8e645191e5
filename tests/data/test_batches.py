"""Steps filled by tokens, cut evenly, and the same whatever the number of ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from disranker.data.batches import GroupItems, StepPlan, fill_steps, split_evenly
from disranker.data.sampling import Sampling
from disranker.data.tokens import TokenTable, write_tokens
from disranker.schema import Pair
from tests.tiny import PAIRS, encoder

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=60).map(lambda values: np.array(values, dtype=np.int64))

# ---------------------------------------------------------------------------------------------------- cutting


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, budget=st.integers(1, 400), seed=st.integers(0, 5))
def test_steps_hold_every_item_once_and_keep_to_the_budget_on_average(
    lengths: NDArray[np.int64], budget: int, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(lengths))
    steps = fill_steps(order, lengths, budget)
    assert np.concatenate(steps).tolist() == order.tolist()
    assert all(len(step) > 0 for step in steps)
    total, longest = int(lengths.sum()), int(lengths.max())
    # So many steps as the budget asks for, unless items longer than a step leave fewer.
    asked = max(1, round(total / budget))
    assert len(steps) <= asked
    if longest <= total / asked:
        assert len(steps) == asked
    share = total / asked
    for step in steps:
        assert int(lengths[step].sum()) < share + longest
    # The running total is never further from the plan than one item.
    done = np.cumsum([int(lengths[step].sum()) for step in steps])
    if len(steps) == asked:
        assert np.abs(done - share * np.arange(1, asked + 1)).max() <= longest


def test_equal_items_make_equal_steps() -> None:
    steps = fill_steps(np.arange(12), np.full(12, 10), 40)
    assert [step.tolist() for step in steps] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    # 13 items of 10 tokens are 3.25 steps of 40: three, none of them a crumb.
    assert sorted(len(step) for step in fill_steps(np.arange(13), np.full(13, 10), 40)) == [4, 4, 5]


def test_an_item_larger_than_the_budget_is_a_step_of_its_own() -> None:
    steps = fill_steps(np.arange(5), np.array([10, 10, 500, 10, 10]), 20)
    assert [item for step in steps for item in step.tolist()] == list(range(5))
    assert max(len(step) for step in steps) <= 3
    assert [step.tolist() for step in fill_steps(np.arange(1), np.array([500]), 20)] == [[0]]


def test_less_than_a_step_is_a_step() -> None:
    assert [step.tolist() for step in fill_steps(np.array([1, 0]), np.array([3, 4]), 1000)] == [[1, 0]]


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="there is nothing to train on: no item was read"):
        fill_steps(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 100)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, num_parts=st.integers(1, 9))
def test_parts_hold_every_item_once_and_differ_by_one_item_at_most(lengths: NDArray[np.int64], num_parts: int) -> None:
    items = np.arange(len(lengths)) + 100
    parts = split_evenly(items, lengths, num_parts)
    assert len(parts) == num_parts
    assert sorted(item for part in parts for item in part) == items.tolist()
    tokens = [int(lengths[np.array(part, dtype=np.int64) - 100].sum()) for part in parts]
    assert max(tokens) - min(tokens) <= lengths.max()


def test_parts_by_hand() -> None:
    parts = split_evenly(np.array([10, 11, 12, 13, 14]), np.array([2, 9, 3, 4, 6]), 2)
    assert [sorted(part) for part in parts] == [[10, 11], [12, 13, 14]] or [sorted(p) for p in parts] == [
        [11, 12],
        [10, 13, 14],
    ]
    assert split_evenly(np.array([7]), np.array([5]), 3) == [[7], [], []]


# ------------------------------------------------------------------------------------------------------- plan


@dataclass
class Made:
    """A batch that says what it was made of."""

    items: list[int]
    epoch: int
    weight: float


class Numbers:
    """Items without content; their lengths change with the epoch, as those of sampled groups do."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.asked: list[int] = []

    def lengths(self, epoch: int) -> NDArray[np.int64]:
        self.asked.append(epoch)
        return np.random.default_rng(epoch).integers(5, 40, self._count)

    def batch(self, items: Sequence[int], epoch: int, weight: float) -> Made:
        return Made(list(items), epoch, weight)


def plan(count: int = 50, *, ranks: int = 1, rank: int = 0, accumulation: int = 1, seed: int = 0) -> StepPlan[Made]:
    return StepPlan(
        Numbers(count),
        tokens_per_step=200,
        accumulation=accumulation,
        process_rank=rank,
        world_size=ranks,
        seed=seed,
    )


def made(steps: StepPlan[Made], count: int, first_step: int = 0) -> list[list[Made]]:
    return [make() for make in islice(steps.steps(first_step), count)]


def test_a_step_is_the_same_on_one_rank_or_many() -> None:
    num_steps = plan().num_steps(2)
    whole = [sorted(batch[0].items) for batch in made(plan(), num_steps)]
    for ranks, accumulation in [(1, 8), (2, 4), (8, 1), (3, 2)]:
        by_rank = [made(plan(ranks=ranks, rank=rank, accumulation=accumulation), num_steps) for rank in range(ranks)]
        for step in range(num_steps):
            batches = [batch for rank in by_rank for batch in rank[step]]
            assert len(batches) == ranks * accumulation
            assert {len(rank[step]) for rank in by_rank} == {accumulation}
            real = [item for batch in batches if batch.weight == 1.0 for item in batch.items]
            assert sorted(real) == whole[step]


def test_an_epoch_is_every_item_once_in_an_order_of_its_own() -> None:
    per_epoch = [plan().num_steps(1), plan().num_steps(2) - plan().num_steps(1)]
    steps = made(plan(), sum(per_epoch))
    orders = []
    for epoch, part in enumerate([steps[: per_epoch[0]], steps[per_epoch[0] :]]):
        batches = [batch for step in part for batch in step]
        assert {batch.epoch for batch in batches} == {epoch}
        orders.append([sorted(batch.items) for batch in batches])
        assert sorted(item for items in orders[-1] for item in items) == list(range(50))
    assert orders[0] != orders[1]
    assert made(plan(seed=1), 3) != steps[:3]
    assert made(plan(), 3) == steps[:3]


def test_going_on_from_a_step_is_the_tail_of_the_whole() -> None:
    num_steps = plan().num_steps(3)
    whole = made(plan(accumulation=2), num_steps)
    for first_step in range(num_steps):
        assert made(plan(accumulation=2), num_steps - first_step, first_step) == whole[first_step:]


def test_the_first_epoch_is_laid_out_once() -> None:
    """Lengths of sampled groups cost a draw each: counting the steps must not draw twice what training begins with."""
    items = Numbers(50)
    counted = StepPlan(items, tokens_per_step=200, accumulation=1, process_rank=0, world_size=1, seed=0)
    num_steps = counted.num_steps(3)
    assert sorted(items.asked) == [0, 1, 2]
    assert made(counted, num_steps) == made(plan(), num_steps)
    assert sorted(items.asked) == [0, 1, 1, 2, 2]


def test_a_rank_without_an_item_gets_a_stand_in_of_weight_zero() -> None:
    batches = [batch for rank in range(4) for batch in made(plan(3, ranks=4, rank=rank, accumulation=2), 1)[0]]
    assert len(batches) == 8
    real = [batch for batch in batches if batch.weight == 1.0]
    stand_ins = [batch for batch in batches if batch.weight == 0.0]
    assert (len(real), len(stand_ins)) == (3, 5)
    assert sorted(item for batch in real for item in batch.items) == [0, 1, 2]
    # All ranks stand in with the same item, one that is there.
    assert len({tuple(batch.items) for batch in stand_ins}) == 1
    assert len(stand_ins[0].items) == 1


def test_micro_batches_have_nearly_equal_tokens() -> None:
    for step in made(plan(200, accumulation=4), 5):
        lengths = Numbers(200).lengths(step[0].epoch)
        tokens = [int(lengths[batch.items].sum()) for batch in step]
        assert max(tokens) - min(tokens) <= 40


# ------------------------------------------------------------------------------------------------------ items


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> TokenTable:
    """24 encoded pairs of different lengths."""
    pairs = [Pair(one.query, other.title, other.summary) for one in PAIRS[:4] for other in PAIRS]
    path = tmp_path_factory.mktemp("tokens") / "a.arrow"
    write_tokens(path, encoder("plain"), pairs)
    return TokenTable(path)


GROUPS = [("a", np.array([0, 5, 2])), ("b", np.arange(6, 18)), ("c", np.array([20]))]
TARGETS = np.arange(24, dtype=np.float32) / 2


def group_items(table: TokenTable, *, docs_per_query: int = 4, seed: int = 0) -> GroupItems:
    return GroupItems(table, GROUPS, TARGETS, docs_per_query=docs_per_query, seed=seed)


def test_a_group_batch_has_its_targets_in_their_places(table: TokenTable) -> None:
    batch = group_items(table, docs_per_query=12).batch([2, 0], 0, 1.0)
    assert batch.docs_per_query == (1, 3)
    assert batch.mask_QD.tolist() == [[True, False, False], [True, True, True]]
    assert batch.targets_QD.tolist() == [[10.0, 0.0, 0.0], [0.0, 2.5, 1.0]]
    assert (batch.targets_QD.dtype, batch.mask_QD.dtype, batch.weight) == (torch.float32, torch.bool, 1.0)
    # Sequence i of the batch is document i, query after query.
    rows = [20, 0, 5, 2]
    unpacked = unpack(batch.packed)
    assert unpacked == [table[row].ids.tolist() for row in rows]


def unpack(packed: object) -> list[list[int]]:
    """The sequences of a packed batch in the order in which they were given."""
    lengths = packed.cu_seqlens.diff().tolist()
    parts = packed.input_ids[0].split(lengths)
    order = packed.order.tolist()
    return [parts[order.index(at)].tolist() for at in range(len(parts))]


def test_lengths_are_those_of_the_batches(table: TokenTable) -> None:
    items = group_items(table)
    for epoch in range(4):
        batches = [items.batch([item], epoch, 1.0) for item in range(3)]
        assert items.lengths(epoch).tolist() == [batch.packed.num_tokens for batch in batches]
    assert items.lengths(0).dtype == np.int64


def sampled(items: GroupItems, epoch: int, item: int = 1) -> list[float]:
    batch = items.batch([item], epoch, 1.0)
    return sorted(batch.targets_QD[batch.mask_QD].tolist())


def test_a_large_group_is_sampled_anew_in_every_epoch(table: TokenTable) -> None:
    samples = [sampled(group_items(table), epoch) for epoch in range(60)]
    assert {len(sample) for sample in samples} == {4}
    assert all(len(set(sample)) == 4 for sample in samples)
    assert samples[0] != samples[1]
    seen = Counter(target for sample in samples for target in sample)
    assert set(seen) == {target / 2 for target in range(6, 18)}  # every document has its turn
    assert max(seen.values()) < 4 * min(seen.values())


def test_the_sample_depends_on_seed_epoch_and_query_alone(table: TokenTable) -> None:
    items = group_items(table)
    assert sampled(items, 3) == sampled(group_items(table), 3)
    assert sampled(items, 3) != sampled(group_items(table, seed=1), 3)
    # Another place among the groups, and other groups beside it, change nothing; another name does.
    alone = GroupItems(table, [GROUPS[1]], TARGETS, docs_per_query=4, seed=0)
    assert sampled(alone, 3, item=0) == sampled(items, 3)
    renamed = GroupItems(table, [("z", GROUPS[1][1])], TARGETS, docs_per_query=4, seed=0)
    assert [sampled(renamed, epoch, item=0) for epoch in range(3)] != [sampled(items, epoch) for epoch in range(3)]


def test_a_group_that_fits_is_taken_whole_in_its_order(table: TokenTable) -> None:
    batch = group_items(table, docs_per_query=3).batch([0], 5, 1.0)
    assert batch.targets_QD.tolist() == [[0.0, 2.5, 1.0]]


SAMPLED = Sampling(quotas={6: 1}, sources=(np.arange(24) % 3 == 1).astype(np.int8), num_hard=2)


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["plain", "sampled"])
def test_steps_of_groups_are_the_same_on_one_rank_or_two(table: TokenTable, sampling: Sampling) -> None:
    items = GroupItems(table, GROUPS, TARGETS, docs_per_query=4, seed=0, sampling=sampling)

    def targets(ranks: int, accumulation: int) -> list[list[float]]:
        steps: list[list[float]] = [[] for _ in range(4)]
        for rank in range(ranks):
            of_rank = StepPlan(
                items,
                tokens_per_step=60,
                accumulation=accumulation,
                process_rank=rank,
                world_size=ranks,
                seed=0,
            )
            for step, make in enumerate(islice(of_rank.steps(), 4)):
                for batch in make():
                    steps[step] += batch.targets_QD[batch.mask_QD].tolist() if batch.weight else []
        return [sorted(step) for step in steps]

    assert targets(1, 4) == targets(2, 2) == targets(4, 1) == targets(1, 1)


def test_a_batch_holds_what_the_sampling_leaves(table: TokenTable) -> None:
    """Of rows 6..17 every third is a hard negative, of which a batch has 2; room is left for 2 others."""
    items = GroupItems(table, GROUPS, TARGETS, docs_per_query=4, seed=0, sampling=SAMPLED)
    hard = {target / 2 for target in (7, 10, 13, 16)}
    for epoch in range(5):
        batch = items.batch([1], epoch, 1.0)
        assert batch.docs_per_query == (4,)
        assert len(set(batch.targets_QD[0].tolist()) & hard) == 2
        assert items.lengths(epoch)[1] == batch.packed.num_tokens


def test_batches_move_as_a_whole(table: TokenTable, tmp_path: Path) -> None:
    meta = torch.device("meta")
    group = group_items(table).batch([0], 0, 0.0).to(meta)
    assert {tensor.device for tensor in (group.targets_QD, group.mask_QD, group.packed.input_ids)} == {meta}
    assert (group.docs_per_query, group.weight) == ((3,), 0.0)
