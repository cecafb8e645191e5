"""The student in training: a ranker with projections that are not its own."""

from __future__ import annotations

import pytest
import torch

from disranker.models.adapters import merged_weights
from disranker.models.packed import pack
from disranker.models.ranker import Ranker
from disranker.models.student import HIDDEN, POOLED, Student, projection
from tests.tiny import classifier, sequences

LENGTHS = [9, 4, 13, 4]


def test_without_projections_it_is_the_ranker_bit_for_bit() -> None:
    ranker, packed = Ranker(classifier("bert")), pack(sequences(LENGTHS))
    student = Student(ranker)
    outputs = student(packed)
    assert torch.equal(outputs.scores_B, ranker(packed))
    assert outputs.projected_BH is None and outputs.layers is None
    ours = torch.autograd.grad(outputs.scores_B.square().sum(), list(ranker.parameters()), allow_unused=True)
    theirs = torch.autograd.grad(ranker(packed).square().sum(), list(ranker.parameters()), allow_unused=True)
    assert all(torch.equal(left, right) for left, right in zip(ours, theirs, strict=True) if left is not None)
    assert [name for name, _ in student.named_parameters()] == [
        f"ranker.{name}" for name, _ in ranker.named_parameters()
    ]


def test_states_come_in_the_width_of_the_teacher() -> None:
    ranker, packed = Ranker(classifier("bert")), pack(sequences(LENGTHS))
    maps = {POOLED: projection(32, 7, seed=0), HIDDEN: projection(32, 5, seed=1)}
    outputs = Student(ranker, maps, hidden_layers=[0, 2])(packed)
    plain = ranker.read(packed, hidden_layers=[0, 2])
    assert outputs.projected_BH is not None and outputs.layers is not None and plain.layers is not None
    weight, bias = maps[POOLED].weight, maps[POOLED].bias
    torch.testing.assert_close(outputs.projected_BH, plain.pooled_BH @ weight.T + bias)
    assert torch.equal(outputs.pooled_BH, plain.pooled_BH)
    for layer in (0, 2):
        torch.testing.assert_close(outputs.layers.hidden_TH[layer], maps[HIDDEN](plain.layers.hidden_TH[layer]))
    assert outputs.layers.hidden_TH[2].shape == (sum(LENGTHS), 5)


def test_hidden_states_of_the_same_width_stay_as_they_are() -> None:
    ranker, packed = Ranker(classifier("bert")), pack(sequences(LENGTHS))
    outputs, plain = Student(ranker, hidden_layers=[1])(packed), ranker.read(packed, hidden_layers=[1])
    assert outputs.layers is not None and plain.layers is not None
    assert torch.equal(outputs.layers.hidden_TH[1], plain.layers.hidden_TH[1])


def test_a_projection_is_drawn_from_its_seed_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second, other = (projection(4, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.weight, second.weight) and not torch.equal(first.weight, other.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_projection_computes_in_float32_whatever_its_weights_are() -> None:
    student = Student(Ranker(classifier("bert")), {POOLED: projection(32, 7, seed=0)}).to(torch.bfloat16)
    outputs = student(pack(sequences(LENGTHS)))
    assert outputs.pooled_BH.dtype == torch.bfloat16
    assert outputs.projected_BH is not None and outputs.projected_BH.dtype == torch.float32
    assert bool((outputs.projected_BH != outputs.projected_BH.bfloat16().float()).any())


def test_projections_are_in_checkpoints_and_not_in_bundles() -> None:
    student = Student(Ranker(classifier("bert")), {POOLED: projection(32, 7, seed=0)})
    assert {"projections.pooled.weight", "projections.pooled.bias"} <= set(student.state_dict())
    assert set(merged_weights(student.ranker.model)) == set(classifier("bert").state_dict())


@pytest.mark.parametrize("training", [False, True])
def test_the_ranker_trains_and_rests_with_it(training: bool) -> None:
    student = Student(Ranker(classifier("bert"))).train(training)
    assert student.ranker.model.training is training
