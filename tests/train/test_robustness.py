"""Second passes: moved embeddings and another dropout mask, against what they say they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from disranker.config.parts import LoraConfig
from disranker.config.robustness import (
    ConsistencyConfig,
    PerturbationConfig,
    describe_robustness,
)
from disranker.models.adapters import wrap_lora
from disranker.models.packed import pack
from disranker.models.ranker import Ranker
from disranker.train.distilling import DistillObjective, build_objective
from disranker.train.robustness import embedding_move, has_dropout, make_robust
from tests import tiny
from tests.tiny_runs import largest_difference
from tests.train.state_runs import TinyStore, make_batch, make_config, make_ranker, parts_of, run
from tests.train.training import with_gradient

FGM = {"kind": "fgm", "size": 0.05, "weight": 0.5}
TERMS = ("point-mse", "margin-mse")


# --- the move ---


def texts(row: Tensor, lengths: list[int]) -> list[Tensor]:
    return list(row.split(sorted(lengths)))


@pytest.mark.parametrize("kind", ["fgm", "fgsm"])
def test_each_text_is_moved_by_its_share_along_its_gradient(kind: Any) -> None:
    lengths = [3, 7, 3, 5]
    packed = pack(tiny.sequences(lengths))
    generator = torch.Generator().manual_seed(0)
    embedded, gradient = torch.randn(2, 1, 18, 4, generator=generator, dtype=torch.float64)
    gradient = gradient * torch.logspace(-9, 9, 18, dtype=torch.float64)[None, :, None]
    found = embedding_move(embedded, gradient, packed, PerturbationConfig(kind=kind, size=0.1))
    parts = zip(*(texts(row[0], lengths) for row in (found, embedded, gradient)), strict=True)
    for move, text, slope in parts:
        assert move.norm().item() == pytest.approx(0.1 * text.norm().item(), rel=1e-5)
        direction = slope.sign() if kind == "fgsm" else slope
        torch.testing.assert_close(move / move.norm(), direction / direction.norm(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["fgm", "fgsm"])
def test_a_text_without_gradient_is_not_moved(kind: Any) -> None:
    packed = pack(tiny.sequences([2, 3]))
    gradient = torch.ones(1, 5, 4)
    gradient[0, 2:] = 0.0
    found = embedding_move(torch.ones(1, 5, 4), gradient, packed, PerturbationConfig(kind=kind))
    assert found[0, :2].abs().min() > 0 and torch.equal(found[0, 2:], torch.zeros(3, 4))


# --- the loss ---


@pytest.mark.parametrize("kind", ["fgm", "fgsm"])
def test_the_moved_loss_is_higher_by_what_the_gradient_says(kind: Any, tmp_path: Path) -> None:
    batch = make_batch(tmp_path)
    plain = parts_of(make_config(*TERMS), batch)["loss"].item()
    rises = []
    for size in (1e-3, 2e-3):
        parts = parts_of(make_config(*TERMS, perturbation={"kind": kind, "size": size, "weight": 0.25}), batch)
        moved = parts["perturbed"].item()
        assert parts["loss"].item() == pytest.approx(plain + 0.25 * moved, rel=1e-5)
        assert parts["point-mse"].item() + parts["margin-mse"].item() == pytest.approx(plain, rel=1e-5)
        rises.append(moved - plain)
    assert rises[0] > 0.0
    assert rises[1] == pytest.approx(2 * rises[0], rel=0.05)


def test_no_other_direction_of_that_length_raises_the_loss_as_much(tmp_path: Path) -> None:
    batch, ranker = make_batch(tmp_path), make_ranker()
    config = make_config(*TERMS, perturbation={"size": 1e-3})
    steepest = parts_of(config, batch, ranker)["perturbed"].item()
    student, objective = build_objective(make_config(*TERMS), ranker, tiny.encoder(), TinyStore())
    generator = torch.Generator().manual_seed(0)
    embeddings = ranker.stock.get_input_embeddings()

    def shake(module: Any, inputs: Any, embedded: Tensor) -> Tensor:
        noise = torch.randn(embedded.shape, generator=generator)
        return embedded + embedding_move(embedded, noise, batch.packed, PerturbationConfig(size=1e-3))

    with embeddings.register_forward_hook(shake):
        others = [objective.loss(student, batch, 0)["loss"].item() for _ in range(8)]
    assert len(set(others)) == 8 and max(others) < steepest


def test_the_teachers_targets_are_kept_and_the_weights_are_as_they_were(tmp_path: Path) -> None:
    batch, ranker = make_batch(tmp_path), make_ranker()
    before = {name: weight.clone() for name, weight in ranker.state_dict().items()}
    scores = ranker(batch.packed)
    parts_of(make_config(*TERMS, perturbation=FGM), batch, ranker)["loss"].backward()
    assert all(torch.equal(weight, before[name]) for name, weight in ranker.state_dict().items())
    assert torch.equal(ranker(batch.packed), scores)  # no hook is left behind


def test_the_gradient_is_that_of_both_passes(tmp_path: Path) -> None:
    """The move itself is a constant: clean gradient + weight x gradient at the moved embeddings."""
    batch, ranker = make_batch(tmp_path), make_ranker()
    head = ranker.stock.classifier.weight

    def slope(config: Any, **more: Any) -> tuple[Tensor, Tensor]:
        parts = parts_of(config, batch, ranker)
        return tuple(torch.autograd.grad(parts[name], head, retain_graph=True)[0] for name in ("loss", "perturbed"))

    together, moved = slope(make_config(*TERMS, perturbation=FGM))
    (clean,) = torch.autograd.grad(parts_of(make_config(*TERMS), batch, ranker)["loss"], head)
    torch.testing.assert_close(together, clean + 0.5 * moved, rtol=1e-4, atol=1e-5)
    assert (moved - clean).abs().max() > 1e-3


def test_two_dropouts_are_compared_by_their_scores(tmp_path: Path) -> None:
    batch, ranker = make_batch(tmp_path), make_ranker(hidden_dropout_prob=0.3)
    config = make_config(*TERMS, consistency={"weight": 0.25})
    torch.manual_seed(0)
    parts = parts_of(config, batch, ranker)
    student, objective = build_objective(make_config(*TERMS), ranker, tiny.encoder(), TinyStore())
    torch.manual_seed(0)
    passes = [student(batch.packed) for _ in range(2)]
    losses = [objective.parts(outputs, batch, 0)["loss"].item() for outputs in passes]
    squares, begin = 0.0, 0
    for count in batch.docs_per_query:
        first, second = (outputs.scores_B[begin : begin + count] for outputs in passes)
        squares += (first - second).square().mean().item()
        begin += count
    assert parts["consistency"].item() == pytest.approx(squares, rel=1e-4) and squares > 0.1
    assert parts["loss"].item() == pytest.approx(sum(losses) / 2 + 0.25 * squares, rel=1e-5)
    assert parts["point-mse"].item() + parts["margin-mse"].item() == pytest.approx(losses[0], rel=1e-5)


def test_documents_that_nobody_scored_must_agree_too(tmp_path: Path) -> None:
    batch, ranker = make_batch(tmp_path), make_ranker(hidden_dropout_prob=0.3)
    batch.taught_QD.fill_(False)
    parts = parts_of(make_config(*TERMS, consistency={}), batch, ranker)
    assert parts["loss"].item() == parts["consistency"].item() > 0.1


def test_both_at_once(tmp_path: Path) -> None:
    batch, ranker = make_batch(tmp_path), make_ranker(hidden_dropout_prob=0.1)
    config = make_config(*TERMS, "pooled-mse", perturbation=FGM, consistency={"weight": 2.0})
    parts = parts_of(config, batch, ranker)
    assert list(parts) == ["loss", *TERMS, "pooled-mse", "consistency", "perturbed"]
    assert parts["loss"].isfinite()


@pytest.mark.parametrize(
    ("settings", "passes"),
    [({"perturbation": FGM}, 2), ({"consistency": {}}, 2), ({"perturbation": FGM, "consistency": {}}, 3)],
)
def test_as_many_passes_as_the_plan_says(settings: dict[str, Any], passes: int, tmp_path: Path) -> None:
    ranker, calls = make_ranker(hidden_dropout_prob=0.1), []
    ranker.stock.base_model.register_forward_pre_hook(lambda *_: calls.append(1))
    config = make_config(*TERMS, **settings)
    parts_of(config, make_batch(tmp_path), ranker)
    said = describe_robustness(config.perturbation, config.consistency)
    assert len(calls) == passes and said is not None and said.endswith(f"{passes} passes of the student a step")


# --- in training ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(make_config(*TERMS, "pooled-mse", perturbation=FGM), tmp_path_factory.mktemp("whole"))[0]


@pytest.mark.parametrize(
    ("accumulation", "zero_stage"), [(3, 2), *(pytest.param(8, stage, marks=pytest.mark.slow) for stage in (0, 1))]
)
def test_accumulation_and_zero_change_nothing(whole: Any, tmp_path: Path, accumulation: int, zero_stage: int) -> None:
    config = make_config(*TERMS, "pooled-mse", perturbation=FGM)
    cut, _ = run(config, tmp_path, accumulation=accumulation, zero_stage=zero_stage)
    assert cut.losses == pytest.approx(whole.losses, abs=1e-4) and len(cut.losses) == 6
    assert largest_difference(with_gradient(cut.weights), with_gradient(whole.weights)) < 1e-4
    clean = [line["point-mse"] + line["margin-mse"] + line["pooled-mse"] for line in cut.lines]
    assert all(line["perturbed"] > one for line, one in zip(cut.lines, clean, strict=True))


@pytest.mark.slow
def test_two_dropouts_train_alike_under_any_zero_and_come_to_agree(tmp_path: Path) -> None:
    def losses(zero_stage: int, weight: float) -> tuple[list[float], float]:
        config, ranker = make_config(*TERMS, consistency={"weight": weight}), make_ranker(hidden_dropout_prob=0.1)
        out = tmp_path / f"{zero_stage}-{weight}"
        outcome, _ = run(config, out, ranker=ranker, zero_stage=zero_stage, steps=12, learning_rate=3e-3)
        return outcome.losses, float(np.mean([line["consistency"] for line in outcome.lines[-4:]]))

    strict, agreed = losses(1, 8.0)
    for zero_stage in (0, 2):
        assert losses(zero_stage, 8.0)[0] == pytest.approx(strict, abs=1e-4)
    assert 2 * agreed < losses(1, 1e-6)[1]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_embeddings_are_moved_too(checkpointing: bool, tmp_path: Path) -> None:
    """With adapters the embeddings get no gradient of their own; with checkpointing the layers run once more."""
    stock = make_ranker().stock
    if checkpointing:
        stock.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    ranker = Ranker(wrap_lora(stock, LoraConfig(r=4, alpha=8))).train()
    before = {name: weight.detach().clone() for name, weight in ranker.named_parameters()}
    outcome, _ = run(make_config(*TERMS, perturbation=FGM), tmp_path, ranker=ranker, steps=3)
    moved = {name for name, weight in ranker.named_parameters() if not torch.equal(before[name], weight.detach())}
    assert moved == {name for name, weight in ranker.named_parameters() if weight.requires_grad}
    assert all(line["perturbed"] > line["point-mse"] + line["margin-mse"] for line in outcome.lines)


# --- what is refused and said ---


def test_nothing_wanted_is_the_objective_itself() -> None:
    config = make_config(*TERMS)
    student, objective = build_objective(config, make_ranker(), tiny.encoder(), TinyStore())
    assert isinstance(objective, DistillObjective) and make_robust(objective, student, config) is objective


def test_consistency_without_dropout_is_refused() -> None:
    config = make_config(*TERMS, consistency={})
    with pytest.raises(ValueError, match=r"has none, so that both would be equal: set model\.dropout to 0\.1"):
        build_objective(config, make_ranker(), tiny.encoder(), TinyStore())


def test_dropout_is_found_wherever_a_family_keeps_it() -> None:
    assert not has_dropout(make_ranker())
    assert has_dropout(make_ranker(attention_probs_dropout_prob=0.1))
    assert not has_dropout(make_ranker("llama")) and has_dropout(make_ranker("llama", attention_dropout=0.1))
    assert has_dropout(Ranker(wrap_lora(make_ranker().stock, LoraConfig(r=4, alpha=8, dropout=0.1))))


def test_perturbation_of_a_padded_model_is_refused() -> None:
    config = make_config(*TERMS, perturbation=FGM)
    with pytest.raises(ValueError, match="needs a student that runs packed, and the family deberta-v2 does not"):
        build_objective(config, make_ranker("deberta-v2"), tiny.encoder(), TinyStore())


def test_partitioned_weights_are_refused_for_moved_embeddings_alone() -> None:
    training = {"epochs": 1, "zero_stage": 3}
    for stage in (0, 1, 2):
        make_config(*TERMS, training={"epochs": 1, "zero_stage": stage}, perturbation=FGM)
    make_config(*TERMS, training=training, consistency={})
    with pytest.raises(ValueError, match="perturbation takes two gradients through one forward, for which"):
        make_config(*TERMS, training=training, perturbation=FGM)


def test_what_it_costs_is_said() -> None:
    assert describe_robustness(None, None) is None
    assert describe_robustness(PerturbationConfig(weight=0.5), ConsistencyConfig(weight=2.0)) == (
        "2 x (difference of two dropouts)² + 0.5 x the loss with embeddings moved by 2.0% (fgm); "
        "3 passes of the student a step"
    )
