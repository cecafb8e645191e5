"""Batches of stage 3: documents with a score, with a label, with both, and the teacher's states beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from disranker.data.batches import DistillItems, GroupItems, Targets
from disranker.data.sampling import GroupSampler, Sampling
from disranker.data.tokens import TokenTable, write_tokens
from tests.tiny import PAIRS, encoder

NAN = float("nan")
GROUPS = [("q0", np.array([0, 2, 5])), ("q1", np.array([1])), ("q2", np.array([3, 4]))]
SCORES = np.array([0.5, NAN, -1.0, NAN, 2.0, NAN], dtype=np.float32)
LABELS = np.array([NAN, 3.0, 0.0, 1.0, NAN, 2.0], dtype=np.float32)
STATES = np.arange(12, dtype=np.float16).reshape(6, 2)


class Fixed:
    """A sampler that draws the same rows in every epoch."""

    def __init__(self, *rows: list[int]) -> None:
        self._rows = [np.array(one, dtype=np.int64) for one in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, item: int, epoch: int) -> NDArray[np.int64]:
        return self._rows[item]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> TokenTable:
    path = tmp_path_factory.mktemp("tokens") / "tokens.arrow"
    write_tokens(path, encoder(), PAIRS)
    return TokenTable(path)


def test_each_document_has_what_is_known_of_it(table: TokenTable) -> None:
    items = DistillItems(table, Targets(SCORES, LABELS), Fixed([0, 2, 5], [1], [4, 3]))
    assert items.lengths(0).tolist() == [int(table.lengths[rows].sum()) for rows in ([0, 2, 5], [1], [3, 4])]
    batch = items.batch([2, 0, 1], 0, 0.5)
    assert batch.docs_per_query == (2, 3, 1) and batch.weight == 0.5
    assert batch.mask_QD.tolist() == [[True, True, False], [True, True, True], [True, False, False]]
    assert batch.teacher_QD.tolist() == [[2.0, 0.0, 0.0], [0.5, -1.0, 0.0], [0.0, 0.0, 0.0]]
    assert batch.taught_QD.tolist() == [[True, False, False], [True, True, False], [False, False, False]]
    assert batch.labels_QD.tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [3.0, 0.0, 0.0]]
    assert batch.judged_QD.tolist() == [[False, True, False], [False, True, True], [True, False, False]]
    assert batch.represented_BH is None
    assert {batch.teacher_QD.dtype, batch.labels_QD.dtype} == {torch.float32}
    assert {batch.mask_QD.dtype, batch.taught_QD.dtype, batch.judged_QD.dtype} == {torch.bool}
    rows = [4, 3, 0, 2, 5, 1]
    ends = batch.packed.cu_seqlens.tolist()
    for at, sequence in enumerate(batch.packed.order.tolist()):
        ids = batch.packed.input_ids[0, ends[at] : ends[at + 1]].tolist()
        assert ids == table[rows[sequence]].ids.tolist()


def test_states_are_asked_for_where_the_teacher_has_scored_alone(table: TokenTable) -> None:
    asked: list[list[int]] = []

    def represent(rows: NDArray[np.int64]) -> NDArray[np.float16]:
        asked.append(rows.tolist())
        return STATES[rows]

    items = DistillItems(table, Targets(SCORES, LABELS, represent), Fixed([0, 2, 5], [1], [4, 3]))
    batch = items.batch([2, 0], 0, 1.0)
    assert asked == [[4, 0, 2]]
    assert batch.represented_BH is not None and batch.represented_BH.dtype == torch.float32
    assert batch.represented_BH.tolist() == [[8.0, 9.0], [0.0, 0.0], [0.0, 1.0], [4.0, 5.0], [0.0, 0.0]]
    # a group of which the teacher has scored nothing
    none = items.batch([1], 0, 1.0).represented_BH
    assert none is not None and none.tolist() == [[0.0, 0.0]]


def test_scores_alone_make_the_batches_of_stage_2(table: TokenTable) -> None:
    """The same documents in the same order from the same seed, in every epoch."""
    targets = np.arange(6, dtype=np.float32)
    sampler = GroupSampler(GROUPS, targets, docs_per_query=2, seed=3, sampling=Sampling())
    ours = DistillItems(table, Targets(targets, np.full(6, np.nan, dtype=np.float32)), sampler)
    theirs = GroupItems(table, GROUPS, targets, docs_per_query=2, seed=3)
    for epoch in range(4):
        assert ours.lengths(epoch).tolist() == theirs.lengths(epoch).tolist()
        mine, other = ours.batch([0, 2, 1], epoch, 1.0), theirs.batch([0, 2, 1], epoch, 1.0)
        assert torch.equal(mine.packed.input_ids, other.packed.input_ids)
        assert torch.equal(mine.teacher_QD, other.targets_QD)
        assert torch.equal(mine.taught_QD, other.mask_QD) and torch.equal(mine.mask_QD, other.mask_QD)
        assert not mine.judged_QD.any()


def test_batches_move_as_a_whole(table: TokenTable, tmp_path: Path) -> None:
    targets = Targets(SCORES, LABELS, lambda rows: STATES[rows])
    batch = DistillItems(table, targets, Fixed([0, 2, 5])).batch([0], 0, 0.0).to(torch.device("meta"))
    tensors = [batch.mask_QD, batch.teacher_QD, batch.taught_QD, batch.labels_QD, batch.judged_QD, batch.represented_BH]
    assert {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"} and None not in tensors
    assert batch.packed.order.device.type == "meta"
    assert (batch.docs_per_query, batch.weight) == ((3,), 0.0)
