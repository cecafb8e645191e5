"""The objective of stage 3: one forward, a weighted sum in windows of steps, and one count for all terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from disranker.config.distill_terms import DistillTerm, SupervisedTerm, TermName
from disranker.data.batches import DistillBatch, DistillItems
from disranker.models.build import describe
from disranker.models.packed import Packed, pack
from disranker.models.ranker import Ranker
from disranker.models.states import Outputs
from disranker.models.student import Student
from disranker.train.distilling import DistillObjective, Weighed, describe_student
from disranker.train.signals import LabelSignal, score_signals
from tests import tiny
from tests.tiny_runs import largest_difference
from tests.train.training import HYBRID, LABELS, MIXED, Killed, killed_at, make_items, run, with_gradient


def objective_of(
    distill: Sequence[DistillTerm], supervised: Sequence[SupervisedTerm] = (), *, log_shares: bool = False
) -> DistillObjective:
    terms = [Weighed(term, signal) for term, signal in zip(distill, score_signals(distill), strict=True)]
    return DistillObjective([*terms, *(Weighed(one, LabelSignal(one)) for one in supervised)], log_shares=log_shares)


class Given:
    """A model that gives these scores, and counts how often it is asked."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = torch.tensor(scores, requires_grad=True)
        self.num_forwards = 0

    def __call__(self, packed: Packed) -> Outputs:
        self.num_forwards += 1
        return Outputs(self.scores, torch.zeros(len(self.scores), 2))


def two_groups(weight: float = 1.0) -> tuple[DistillBatch, Given]:
    """Two queries: two scored documents, of which one is judged, too; then one judged and one scored."""
    mask_QD = torch.ones(2, 2, dtype=torch.bool)
    teacher_QD, taught_QD = torch.tensor([[0.0, 1.0], [0.0, 0.5]]), torch.tensor([[True, True], [False, True]])
    labels_QD, judged_QD = torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([[True, False], [True, False]])
    known = (mask_QD, teacher_QD, taught_QD, labels_QD, judged_QD)
    batch = DistillBatch(pack(tiny.sequences([5] * 4)), (2, 2), *known, represented_BH=None, weight=weight)
    return batch, Given([1.0, 0.0, 3.0, 2.0])


def values(parts: dict[str, Tensor]) -> dict[str, float]:
    return {name: part.item() for name, part in parts.items()}


@pytest.mark.parametrize(("point", "margin"), [(1.0, 1.0), (0.5, 2.0), (0.0, 1.0), (3.0, 0.0)])
def test_the_hybrid_weighs_its_two_parts(point: float, margin: float) -> None:
    # first query: errors 1 and -1 -> point 1, margin (1 - (-1))² = 4; second: error 1.5 -> point 2.25, no pair
    batch, model = two_groups()
    terms = [DistillTerm(name="point-mse", weight=point), DistillTerm(name="margin-mse", weight=margin)]
    objective = objective_of(terms)
    assert objective.count(batch) == 2
    parts = objective.loss(model, batch, step=0)
    assert list(parts) == ["loss", "point-mse", "margin-mse"]
    expected = {"loss": point * 3.25 + margin * 4.0, "point-mse": 3.25, "margin-mse": 4.0}
    assert values(parts) == pytest.approx(expected)


def test_labels_stand_beside_the_teacher() -> None:
    # labels: errors 1 - 2 and 3 - 1 -> 1 and 4
    batch, model = two_groups()
    objective = objective_of(HYBRID, [SupervisedTerm(name="mse", weight=0.5)], log_shares=True)
    parts = values(objective.loss(model, batch, step=0))
    expected = {"point-mse": 3.25, "margin-mse": 4.0, "supervised.mse": 5.0, "share_taught": 2.0, "share_judged": 2.0}
    assert parts == pytest.approx({"loss": 7.25 + 2.5, **expected})
    # The teacher's terms do not look at the judged document, nor the labels' at the scored one.
    loss = objective.loss(model, batch, step=0)["loss"]
    (gradient,) = torch.autograd.grad(loss, model.scores)
    expected_gradient = [1.0 + 4.0 + 0.5 * 2.0 * -1.0, -1.0 - 4.0, 0.5 * 2.0 * 2.0, 2.0 * 1.5]
    assert gradient.tolist() == pytest.approx(expected_gradient)


def test_a_term_counts_in_its_window_and_is_logged_outside_it() -> None:
    batch, model = two_groups()
    terms = [DistillTerm(name="point-mse", end=3), DistillTerm(name="margin-mse", weight=2.0, start=2)]
    objective = objective_of(terms, [SupervisedTerm(name="mse", start=1, end=2)])
    found = [values(objective.loss(model, batch, step)) for step in range(5)]
    assert [parts["loss"] for parts in found] == pytest.approx([3.25, 3.25 + 5.0, 3.25 + 8.0, 8.0, 8.0])
    for parts in found:
        assert {name: parts[name] for name in parts if name != "loss"} == {
            "point-mse": 3.25,
            "margin-mse": 4.0,
            "supervised.mse": 5.0,
        }
    (gradient,) = torch.autograd.grad(objective.loss(model, batch, step=4)["loss"], model.scores)
    assert gradient.tolist() == pytest.approx([8.0, -8.0, 0.0, 0.0])


class Costly:
    """A signal that runs a teacher."""

    name = "hidden-mse"

    def __init__(self) -> None:
        self.num_calls = 0

    def loss(self, outputs: Outputs, batch: DistillBatch) -> Tensor:
        self.num_calls += 1
        return outputs.scores_B.sum()


def test_a_teacher_does_not_run_outside_the_window() -> None:
    batch, model = two_groups()
    point, costly = DistillTerm(name="point-mse"), DistillTerm(name="hidden-mse", layers={1: 1}, start=1, end=2)
    signal = Costly()
    objective = DistillObjective([Weighed(point, score_signals([point])[0]), Weighed(costly, signal)])
    found = [values(objective.loss(model, batch, step)) for step in range(3)]
    assert [sorted(parts) for parts in found] == [
        ["loss", "point-mse"],
        ["hidden-mse", "loss", "point-mse"],
        ["loss", "point-mse"],
    ]
    assert signal.num_calls == 1 and found[1]["loss"] == pytest.approx(3.25 + 6.0)


def test_any_number_of_terms_costs_one_forward() -> None:
    batch, model = two_groups()
    names: list[TermName] = ["point-mse", "margin-mse", "kl", "cross-entropy", "weighted-kl", "ranknet", "adr-mse"]
    distill = [DistillTerm(name=name) for name in names]
    supervised = [SupervisedTerm(name=name) for name in ("hinge", "softmax", "lambda")]
    parts = objective_of(distill, supervised).loss(model, batch, step=0)
    assert model.num_forwards == 1
    assert len(parts) == 1 + len(distill) + len(supervised)
    assert parts["loss"].item() == pytest.approx(sum(values(parts).values()) - parts["loss"].item(), rel=1e-6)


def test_a_stand_in_counts_nothing_and_pulls_nothing() -> None:
    batch, model = two_groups(weight=0.0)
    objective = objective_of(HYBRID, LABELS, log_shares=True)
    parts = objective.loss(model, batch, step=0)
    assert objective.count(batch) == 0
    assert set(values(parts).values()) == {0.0}
    (gradient,) = torch.autograd.grad(parts["loss"], model.scores)
    assert gradient.tolist() == [0.0] * 4


def test_projections_are_told_beside_the_ranker() -> None:
    ranker = Ranker(tiny.classifier("bert"))
    assert describe_student(Student(ranker)) == describe(ranker.model)
    beside = "; 99 parameters of projections, no part of the bundle"
    assert describe_student(Student(ranker, {"pooled": torch.nn.Linear(32, 3)})) == describe(ranker.model) + beside


# --- in the engine: rows with a score only, a label only, both ---


class Uneven:
    """A plan whose every step is given with its micro-batches cut in a way of one's own."""

    def __init__(self, items: DistillItems, cuts: Sequence[Sequence[int]]) -> None:
        self._items, self._cuts = items, cuts

    def steps(self, first_step: int = 0) -> Iterator[Callable[[], list[DistillBatch]]]:
        while True:
            yield lambda: [self._items.batch(cut or [0], 0, float(bool(cut))) for cut in self._cuts]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run("bert-mixed", tmp_path_factory.mktemp("mixed"))


def test_the_batches_are_mixed(tmp_path: Path) -> None:
    """What the tests below lean on."""
    items = make_items("bert-mixed", tmp_path)
    assert isinstance(items, DistillItems)
    batch = items.batch(range(14), 0, 1.0)
    taught, judged, there = batch.taught_QD, batch.judged_QD, batch.mask_QD
    for kind in (taught & judged, taught & ~judged, judged & ~taught, there & ~taught & ~judged):
        assert kind.any()
    assert not taught.any(dim=1).all() and not judged.any(dim=1).all()


@pytest.mark.parametrize("accumulation", [8, 3])
def test_accumulation_changes_nothing(whole: Any, tmp_path: Path, accumulation: int) -> None:
    cut = run("bert-mixed", tmp_path, accumulation=accumulation)
    assert cut.losses == pytest.approx(whole.losses, abs=1e-5) and np.ptp(whole.losses) > 0.01
    for mine, its in zip(cut.lines, whole.lines, strict=True):
        assert mine == pytest.approx(its, abs=1e-5, rel=1e-3)
    assert largest_difference(with_gradient(cut.weights), with_gradient(whole.weights)) < 1e-5


@pytest.mark.parametrize("cuts", [[[0, 1, 2, 3, 4], [5]], [[], [5, 3, 1, 0, 2, 4]], [[2], [0, 1, 3, 4, 5]]])
def test_uneven_cuts_change_nothing(cuts: list[list[int]], tmp_path: Path) -> None:
    """One of them has a micro-batch of which the teacher has scored nothing (group 2)."""
    items = make_items("bert-mixed", tmp_path)
    assert isinstance(items, DistillItems)
    one = run("bert-mixed", tmp_path / "whole", steps=3, wrap_plan=lambda plan: Uneven(items, [[0, 1, 2, 3, 4, 5]]))
    cut = run("bert-mixed", tmp_path / "cut", steps=3, accumulation=2, wrap_plan=lambda plan: Uneven(items, cuts))
    assert cut.losses == pytest.approx(one.losses, abs=1e-6)
    assert largest_difference(with_gradient(cut.weights), with_gradient(one.weights)) < 1e-5


def test_the_journal_has_every_part_and_the_windows_show_in_the_sum(whole: Any) -> None:
    terms: list[tuple[str, Any]] = [(term.name, term) for term in MIXED]
    terms += [(f"supervised.{term.name}", term) for term in LABELS]
    for step, line in enumerate(whole.lines):
        total = sum(term.weight * line[name] for name, term in terms if term.covers(step))
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        assert 0.0 < line["share_judged"] < 1.0 and 0.0 < line["share_taught"] <= 1.0


def test_a_resumed_run_keeps_to_the_windows(whole: Any, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run("bert-mixed", tmp_path, checkpoint_every=2, wrap_plan=killed_at(3))
    resumed = run("bert-mixed", tmp_path, checkpoint_every=2)
    assert resumed.lines == whole.lines
    assert largest_difference(resumed.weights, whole.weights) == 0.0
