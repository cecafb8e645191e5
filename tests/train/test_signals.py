"""Signals of scores and labels: each reads the documents that it is about, and no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from disranker.config.distill_terms import LEAST_DOCUMENTS, DistillTerm, SupervisedTerm, TermName
from disranker.config.losses import LossName
from disranker.data.batches import DistillBatch
from disranker.losses import distill, ranking
from disranker.models.packed import pack
from disranker.models.states import Outputs
from disranker.train.signals import LabelSignal, score_signals
from tests import tiny

Known = float | None
SCORE_TERMS: list[TermName] = [
    *("point-mse", "margin-mse", "score-differences", "kl", "cross-entropy", "weighted-kl", "ranknet", "adr-mse")
]


def batch_of(scored: Sequence[Sequence[Known]], judged: Sequence[Sequence[Known]] | None = None) -> DistillBatch:
    """A batch with these teacher scores and labels; None where there is none."""
    sizes = tuple(len(group) for group in scored)
    judged = judged or [[None] * size for size in sizes]
    mask_QD = torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]

    def known(groups: Sequence[Sequence[Known]]) -> tuple[Tensor, Tensor]:
        flat = np.array([np.nan if one is None else one for group in groups for one in group], dtype=np.float32)
        values_QD = torch.full(mask_QD.shape, np.nan).masked_scatter(mask_QD, torch.from_numpy(flat))
        return values_QD.nan_to_num(0.0), ~values_QD.isnan()

    packed = pack(tiny.sequences([5] * sum(sizes)))
    return DistillBatch(packed, sizes, mask_QD, *known(scored), *known(judged), represented_BH=None)


def outputs_of(scores: Sequence[float]) -> Outputs:
    """A student's outputs with these scores."""
    return Outputs(torch.tensor(scores, requires_grad=True), torch.zeros(len(scores), 2))


def value_and_gradient(signal: Any, outputs: Outputs, batch: DistillBatch) -> tuple[float, list[float]]:
    loss = signal.loss(outputs, batch)
    (gradient,) = torch.autograd.grad(loss, outputs.scores_B)
    return loss.item(), gradient.tolist()


def term_of(name: TermName) -> DistillTerm:
    return DistillTerm(name=name)


def test_the_terms_that_read_scores_alone_have_a_signal_each() -> None:
    signals = score_signals([term_of(name) for name in SCORE_TERMS])
    assert [signal.name for signal in signals] == SCORE_TERMS
    others = set(get_args(TermName)) - set(SCORE_TERMS)
    layers: dict[str, Any] = {"hidden-mse": {"layers": {1: 1}}}
    assert score_signals([DistillTerm.model_validate({"name": one, **layers.get(one, {})}) for one in others]) == []
    assert set(LEAST_DOCUMENTS) == set(get_args(TermName))


@pytest.mark.parametrize("name", SCORE_TERMS)
def test_documents_without_a_score_are_as_if_they_were_not_there(name: TermName) -> None:
    (signal,) = score_signals([term_of(name)])
    sparse = batch_of([[1.0, None, -0.5, 0.2], [None, None], [0.3, 0.1]])
    dense = batch_of([[1.0, -0.5, 0.2], [0.3, 0.1]])
    loss, gradient = value_and_gradient(signal, outputs_of([0.1, 9.0, 0.4, -0.7, 5.0, 6.0, 0.0, 0.8]), sparse)
    expected, its_gradient = value_and_gradient(signal, outputs_of([0.1, 0.4, -0.7, 0.0, 0.8]), dense)
    assert loss == pytest.approx(expected, rel=1e-6) and loss > 0.0
    assert [gradient[at] for at in (0, 2, 3, 6, 7)] == pytest.approx(its_gradient, rel=1e-5)
    assert [gradient[at] for at in (1, 4, 5)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", SCORE_TERMS)
def test_a_batch_without_a_teacher_teaches_nothing(name: TermName) -> None:
    (signal,) = score_signals([term_of(name)])
    loss, gradient = value_and_gradient(signal, outputs_of([0.1, 9.0]), batch_of([[None, None]], [[1.0, 0.0]]))
    assert (loss, gradient) == (0.0, [0.0, 0.0])


@pytest.mark.parametrize("name", get_args(LossName))
def test_labels_are_learned_where_there_are_labels(name: LossName) -> None:
    signal = LabelSignal(SupervisedTerm(name=name, max_label=4 if name in ("bce", "ordinal") else None))
    assert signal.name == f"supervised.{name}"
    scored: list[list[Known]] = [[1.0, None, -0.5, 0.2], [0.5, 0.6], [0.3, 0.1]]
    sparse = batch_of(scored, [[1.0, None, 3.0, 0.0], [None, None], [2.0, 1.0]])
    dense = batch_of([[None] * 3, [None] * 2], [[1.0, 3.0, 0.0], [2.0, 1.0]])
    loss, gradient = value_and_gradient(signal, outputs_of([0.1, 9.0, 0.4, -0.7, 5.0, 6.0, 0.0, 0.8]), sparse)
    expected, its_gradient = value_and_gradient(signal, outputs_of([0.1, 0.4, -0.7, 0.0, 0.8]), dense)
    assert loss == pytest.approx(expected, rel=1e-6) and loss > 0.0
    assert [gradient[at] for at in (0, 2, 3, 6, 7)] == pytest.approx(its_gradient, rel=1e-5)
    assert [gradient[at] for at in (1, 4, 5)] == [0.0, 0.0, 0.0]


def test_parameters_reach_the_loss() -> None:
    batch, outputs = batch_of([[1.0, -0.5, 0.2]]), outputs_of([0.1, 0.4, -0.7])
    scores_QD = outputs.scores_B[None]
    terms = [
        DistillTerm(name="margin-mse", against="first"),
        DistillTerm(name="kl", temperature=3.0),
        DistillTerm(name="adr-mse", temperature=0.5),
    ]
    given = (scores_QD, batch.teacher_QD, batch.taught_QD)
    expected = [
        distill.margin_mse(*given, against="first"),
        distill.kl_divergence(*given, temperature=3.0),
        distill.adr_mse(*given, temperature=0.5),
    ]
    for signal, value in zip(score_signals(terms), expected, strict=True):
        assert signal.loss(outputs, batch).item() == pytest.approx(value.item())
    label = LabelSignal(SupervisedTerm(name="hinge", margin=2.0))
    batch = batch_of([[None, None]], [[1.0, 0.0]])
    expected_hinge = ranking.pairwise_hinge(torch.tensor([[0.1, 0.4]]), batch.labels_QD, batch.mask_QD, margin=2.0)
    assert label.loss(outputs_of([0.1, 0.4]), batch).item() == pytest.approx(expected_hinge.item())


def test_ranknet_reads_the_teachers_order_alone() -> None:
    (signal,) = score_signals([term_of("ranknet")])
    by_score = signal.loss(outputs_of([0.1, 0.4, -0.7]), batch_of([[9.0, -0.5, 0.2]])).item()
    by_position = signal.loss(outputs_of([0.1, 0.4, -0.7]), batch_of([[-1.0, -3.0, -2.0]])).item()
    # pairs (0, 1), (0, 2), (2, 1): differences -0.3, 0.8, -1.1
    expected = np.log1p(np.exp([0.3, -0.8, 1.1])).mean()
    assert by_score == by_position == pytest.approx(expected)
