"""The engine: cutting a step differently, ZeRO, killing and resuming change nothing; the best weights are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from disranker.config.parts import LoraConfig
from disranker.data.batches import DistillBatch, DistillItems, GroupBatch, GroupItems, fill_steps
from disranker.models.adapters import merged_weights, wrap_lora
from disranker.models.ranker import Ranker
from disranker.schema import stable_seed
from tests.tiny_runs import largest_difference
from tests.train.training import (
    WAYS,
    Killed,
    in_training,
    killed_at,
    make_items,
    make_model,
    make_objective,
    run,
    with_gradient,
)

# ZeRO-3 gathers with functions that torch has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.distributed:FutureWarning")


@pytest.fixture(scope="module", params=WAYS)
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A way of training, and what 6 steps without accumulation give."""
    return request.param, run(request.param, tmp_path_factory.mktemp(request.param))


# --- the shape of a step changes nothing ---


@pytest.mark.parametrize(
    ("accumulation", "zero_stage"),
    [(8, 1), (3, 0), (2, 2), pytest.param(1, 3, marks=pytest.mark.slow), pytest.param(4, 3, marks=pytest.mark.slow)],
)
def test_accumulation_and_zero_change_nothing(
    straight: tuple[str, Any], tmp_path: Path, accumulation: int, zero_stage: int
) -> None:
    way, whole = straight
    cut = run(way, tmp_path, accumulation=accumulation, zero_stage=zero_stage)
    assert cut.losses == pytest.approx(whole.losses, abs=1e-5)
    assert len(cut.losses) == 6 and np.ptp(whole.losses) > 0.01
    assert largest_difference(with_gradient(cut.weights), with_gradient(whole.weights)) < 1e-5
    assert [line["count"] for line in cut.lines] == [line["count"] for line in whole.lines]
    assert cut.trained.tokens == whole.trained.tokens == sum(line["tokens"] for line in whole.lines)


def test_the_loss_is_the_mean_over_all_units_of_the_step(straight: tuple[str, Any], tmp_path: Path) -> None:
    """The first step by hand: one forward over the whole step with the weights of the start."""
    way, whole = straight
    items, model = make_items(way, tmp_path), make_model(way)
    first = whole.lines[0]
    lengths = items.lengths(0)
    order = np.random.default_rng(stable_seed(0, "order", 0)).permutation(len(lengths))
    step = fill_steps(order, lengths, 300)[0]
    batch = items.batch(step.tolist(), 0, 1.0)
    objective = make_objective(way)
    count = objective.count(batch)
    assert first["count"] == count and first["tokens"] == batch.packed.num_tokens
    assert first["loss"] == pytest.approx(
        objective.loss(in_training(model, way), batch, step=0)["loss"].item() / count, rel=1e-5
    )


class Uneven:
    """A plan whose every step is given with its micro-batches cut in a way of one's own."""

    def __init__(self, items: GroupItems | DistillItems, cuts: Sequence[Sequence[int]]) -> None:
        self._items, self._cuts = items, cuts

    def steps(self, first_step: int = 0) -> Iterator[Callable[[], list[GroupBatch | DistillBatch]]]:
        while True:
            yield lambda: [self._items.batch(cut or [0], 0, float(bool(cut))) for cut in self._cuts]


@pytest.mark.parametrize(
    "cuts",
    [
        [[0, 1, 2, 3, 4], [5]],
        [[5], [4, 3, 2, 1, 0]],
        [[0, 2, 4], [1, 3, 5]],
        [[], [0, 1, 2, 3, 4, 5]],
        [[3, 2, 1, 0, 4, 5], []],
    ],
)
@pytest.mark.parametrize("way", ["bert-distill", "llama-rank"])
def test_uneven_cuts_and_stand_ins_change_nothing(way: str, cuts: list[list[int]], tmp_path: Path) -> None:
    items = make_items(way, tmp_path)
    assert isinstance(items, GroupItems | DistillItems)
    whole = run(way, tmp_path / "whole", steps=3, wrap_plan=lambda plan: Uneven(items, [[0, 1, 2, 3, 4, 5]]))
    cut = run(way, tmp_path / "cut", steps=3, accumulation=2, wrap_plan=lambda plan: Uneven(items, cuts))
    assert cut.losses == pytest.approx(whole.losses, abs=1e-6)
    assert [line["count"] for line in cut.lines] == [6.0] * 3
    assert largest_difference(with_gradient(cut.weights), with_gradient(whole.weights)) < 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_a_step_with_fewer_items_than_micro_batches(way: str, tmp_path: Path) -> None:
    # 20 tokens hold one group, or one or two texts
    whole = run(way, tmp_path / "whole", tokens_per_step=20, steps=3)
    cut = run(way, tmp_path / "cut", tokens_per_step=20, steps=3, accumulation=5)
    assert cut.losses == pytest.approx(whole.losses, abs=1e-5)
    assert largest_difference(with_gradient(cut.weights), with_gradient(whole.weights)) < 1e-5
    if not way.endswith("language"):
        assert [line["count"] for line in cut.lines] == [1.0] * 3


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    model = make_model("llama-rank")
    assert isinstance(model, Ranker)
    model.stock.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    calls = []
    layer = model.stock.base_model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    checkpointed = run("llama-rank", tmp_path / "on", model=model, steps=3)
    assert len(calls) == 6  # twice a step: the second time for the backward pass
    plain = run("llama-rank", tmp_path / "off", steps=3)
    assert checkpointed.losses == pytest.approx(plain.losses, abs=1e-6)
    assert largest_difference(checkpointed.weights, plain.weights) < 1e-6


# --- what a step does ---


@pytest.mark.parametrize("way", WAYS)
def test_it_learns(way: str, tmp_path: Path) -> None:
    outcome = run(way, tmp_path, steps=24)
    third = len(outcome.losses) // 3
    assert np.mean(outcome.losses[-third:]) < 0.9 * np.mean(outcome.losses[:third])


def test_every_weight_moves(tmp_path: Path) -> None:
    before = merged_weights(make_model("bert-distill").model)
    after = run("bert-distill", tmp_path).weights
    still = [name for name in before if torch.equal(before[name], after[name])]
    # tokens that no text holds and positions that no text reaches keep rows still, never a whole matrix
    assert still == []


def test_with_lora_the_base_stands_still_and_the_head_moves(tmp_path: Path) -> None:
    ranker = make_model("llama-rank")
    assert isinstance(ranker, Ranker)
    ranker.model = wrap_lora(ranker.stock, LoraConfig(r=4, alpha=8))
    ranker.train()
    before = {name: weight.detach().clone() for name, weight in ranker.named_parameters()}
    merged_before = merged_weights(ranker.model)
    outcome = run("llama-rank", tmp_path, model=ranker)
    moved = {name for name, weight in ranker.named_parameters() if not torch.equal(before[name], weight.detach())}
    trainable = {name for name, weight in ranker.named_parameters() if weight.requires_grad}
    assert moved == trainable
    assert any(".lora_B." in name for name in moved) and any("score.modules_to_save" in name for name in moved)
    assert not any("base_layer" in name or "original_module" in name for name in moved)
    # merged: the stock names, the linear layers moved by what the adapters say
    assert outcome.weights.keys() == merged_weights(make_model("llama-rank").model).keys()
    assert not torch.equal(
        merged_before["model.layers.0.mlp.up_proj.weight"], outcome.weights["model.layers.0.mlp.up_proj.weight"]
    )
    assert torch.equal(merged_before["model.embed_tokens.weight"], outcome.weights["model.embed_tokens.weight"])


def test_the_rate_is_that_of_the_schedule_and_vectors_do_not_decay(tmp_path: Path) -> None:
    outcome = run("llama-rank", tmp_path, steps=4)
    # cosine over 4 steps, 1 of them warm-up: 1, then (1 + cos(pi k / 3)) / 2 for k = 0, 1, 2
    assert [line["learning_rate"] for line in outcome.lines] == pytest.approx([1e-3, 1e-3, 0.75e-3, 0.25e-3])


# --- dev set ---


def scripted(values: Sequence[float]) -> Callable[[], dict[str, float]]:
    """An evaluation whose values are known beforehand."""
    left = iter(values)
    return lambda: {"measure": next(left), "other": 100.0}


def test_the_best_weights_are_saved_not_the_last(tmp_path: Path) -> None:
    outcome = run("llama-rank", tmp_path, steps=6, evaluate_every=2, evaluate=scripted([0.1, 0.7, 0.6]))
    assert (outcome.trained.best_step, outcome.trained.best_value, outcome.trained.steps) == (4, 0.7, 6)
    assert len(outcome.saved) == 2  # after steps 2 and 4
    after_four = run("llama-rank", tmp_path / "four", steps=6, wrap_plan=killed_after_saving(4))
    assert largest_difference(outcome.saved[-1], after_four.weights) == 0.0
    assert largest_difference(outcome.saved[-1], outcome.weights) > 1e-4
    assert [line for line in outcome.lines if "dev" in line] == [
        {"step": step, "dev": {"measure": value, "other": 100.0}} for step, value in ((2, 0.1), (4, 0.7), (6, 0.6))
    ]


def killed_after_saving(step: int) -> Callable[[Any], Any]:
    """A plan that ends after `step` steps, so that the run ends there with the learning rates of the longer one."""

    class Short:
        def __init__(self, plan: Any) -> None:
            self._plan = plan

        def steps(self, first_step: int = 0) -> Iterator[Any]:
            return (make for _, make in zip(range(step), self._plan.steps(first_step), strict=False))

    return Short


def test_what_was_before_is_told_and_never_the_best(tmp_path: Path) -> None:
    values = [0.9, 0.1, 0.2]
    outcome = run("llama-rank", tmp_path, steps=2, evaluate_every=1, evaluate=scripted(values), evaluate_first=True)
    assert outcome.lines[0] == {"step": 0, "dev": {"measure": 0.9, "other": 100.0}}
    assert (outcome.trained.best_step, outcome.trained.best_value, len(outcome.saved)) == (2, 0.2, 2)


def test_a_resumed_run_does_not_measure_its_start_again(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"checkpoint_every": 2, "evaluate_first": True}
    with pytest.raises(Killed):
        run("llama-rank", tmp_path, evaluate=scripted([0.9]), wrap_plan=killed_at(3), **settings)
    resumed = run("llama-rank", tmp_path, evaluate=scripted([0.5]), **settings)
    assert [line["dev"]["measure"] for line in resumed.lines if "dev" in line] == [0.9, 0.5]


def test_further_metrics_are_made_of_those_of_a_step(tmp_path: Path) -> None:
    outcome = run("llama-rank", tmp_path, steps=2, derive=lambda metrics: {"twice": 2.0 * metrics["loss"]})
    assert [line["twice"] for line in outcome.lines] == [2.0 * loss for loss in outcome.losses]


def test_an_equal_value_is_no_better_one(tmp_path: Path) -> None:
    outcome = run("llama-rank", tmp_path, steps=3, evaluate_every=1, evaluate=scripted([0.5, 0.5, 0.5]))
    assert (outcome.trained.best_step, len(outcome.saved)) == (1, 1)


def test_without_evaluation_the_last_weights_are_saved_once(tmp_path: Path) -> None:
    outcome = run("llama-rank", tmp_path, steps=3)
    assert len(outcome.saved) == 1 and largest_difference(outcome.saved[0], outcome.weights) == 0.0
    assert (outcome.trained.best_step, outcome.trained.best_value) == (3, None)


def test_without_evaluate_every_the_end_is_evaluated(tmp_path: Path) -> None:
    outcome = run("llama-rank", tmp_path, steps=3, evaluate=scripted([0.25]))
    assert (outcome.trained.best_step, outcome.trained.best_value, len(outcome.saved)) == (3, 0.25, 1)


def test_the_end_is_evaluated_though_it_is_no_multiple(tmp_path: Path) -> None:
    outcome = run("llama-rank", tmp_path, steps=5, evaluate_every=2, evaluate=scripted([0.1, 0.2, 0.3]))
    assert (outcome.trained.best_step, outcome.trained.best_value) == (5, 0.3)


def test_patience_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = [0.5, 0.4, 0.6, 0.5, 0.55]
    outcome = run("llama-rank", tmp_path, steps=20, evaluate_every=2, patience=2, evaluate=scripted(values))
    assert (outcome.trained.steps, outcome.trained.best_step, len(outcome.losses)) == (10, 6, 10)
    assert "no better evaluation since step 6: stopping early" in capsys.readouterr().out


def test_a_measure_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the dev measure measure is not defined on this dev set"):
        run("llama-rank", tmp_path, steps=2, evaluate=scripted([float("nan")]))


def test_an_infinite_measure_is_the_best_and_stands_in_the_journal(tmp_path: Path) -> None:
    values = [2.0, float("inf"), 3.0]
    outcome = run("llama-rank", tmp_path, steps=3, evaluate_every=1, evaluate=scripted(values))
    assert (outcome.trained.best_step, outcome.trained.best_value) == (2, float("inf"))
    assert outcome.lines[3] == {"step": 2, "dev": {"measure": "inf", "other": 100.0}}


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = make_model("llama-rank")
    with torch.no_grad():
        model.model.score.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the loss of step 1 is nan: lower optim.learning_rate"):
        run("llama-rank", tmp_path, model=model, steps=2)


def test_evaluation_runs_without_dropout_and_training_goes_on_with_it(tmp_path: Path) -> None:
    model = make_model("bert-distill", hidden_dropout_prob=0.5)
    modes = []

    def evaluate() -> dict[str, float]:
        modes.append(model.training)
        return {"measure": 1.0}

    model.stock.base_model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    run("bert-distill", tmp_path, model=model, steps=2, evaluate_every=1, evaluate=evaluate)
    assert modes == [True, False, True, False]


# --- killed and gone on ---


@pytest.mark.parametrize("zero_stage", [1, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (0, 2, 3))])
@pytest.mark.parametrize("way", ["bert-distill", "llama-language"])
def test_killed_and_resumed_equals_straight_through(way: str, zero_stage: int, tmp_path: Path) -> None:
    """With dropout, over the end of an epoch, from a checkpoint two steps before the kill."""
    dropout = {"hidden_dropout_prob": 0.2} if way.startswith("bert") else {"attention_dropout": 0.2}
    settings = {"epochs": 3, "accumulation": 2, "checkpoint_every": 3, "zero_stage": zero_stage}
    whole = run(way, tmp_path / "whole", model=make_model(way, **dropout), **settings)
    num_steps = len(whole.losses)
    per_epoch = num_steps // 3
    killed = 5 if per_epoch < 3 else 2 * per_epoch + 1
    assert per_epoch < killed < num_steps
    out = tmp_path / "killed"
    with pytest.raises(Killed):
        run(way, out, model=make_model(way, **dropout), wrap_plan=killed_at(killed), **settings)
    resumed = run(way, out, model=make_model(way, **dropout), **settings)
    assert resumed.lines == whole.lines
    assert largest_difference(resumed.weights, whole.weights) == 0.0
    assert (resumed.trained.steps, resumed.trained.tokens) == (whole.trained.steps, whole.trained.tokens)
    assert not (out / "checkpoint").exists()


def test_the_best_value_and_patience_survive(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 20, "evaluate_every": 2, "patience": 2, "checkpoint_every": 2}
    values = [0.5, 0.4, 0.6, 0.5, 0.55]
    whole = run("llama-rank", tmp_path / "whole", evaluate=scripted(values), **settings)
    out = tmp_path / "killed"
    with pytest.raises(Killed):
        run("llama-rank", out, evaluate=scripted(values), wrap_plan=killed_at(9), **settings)
    resumed = run("llama-rank", out, evaluate=scripted(values[4:]), **settings)
    assert resumed.lines == whole.lines
    assert (resumed.trained.best_step, resumed.trained.best_value, resumed.trained.steps) == (6, 0.6, 10)
    assert resumed.saved == []  # the bundle of step 6 was on disk already


def test_dropout_is_seeded_by_the_step(tmp_path: Path) -> None:
    first, second = (
        run("bert-distill", tmp_path / str(seed), model=make_model("bert-distill", hidden_dropout_prob=0.3), steps=2)
        for seed in range(2)
    )
    plain = run("bert-distill", tmp_path / "plain", steps=2)
    assert first.losses == second.losses
    assert first.losses[0] != pytest.approx(plain.losses[0], abs=1e-4)


def test_no_two_steps_drop_the_same(tmp_path: Path) -> None:
    seeds: dict[int, list[int]] = {}
    for seed in (0, 1):
        seen = seeds[seed] = []
        model = make_model("bert-distill")
        backbone = model.stock.base_model
        backbone.register_forward_pre_hook(lambda *_, seen=seen: seen.append(torch.initial_seed()))
        run("bert-distill", tmp_path / str(seed), model=model, steps=4, seed=seed)
    assert [len(seen) for seen in seeds.values()] == [4, 4]
    assert len({*seeds[0], *seeds[1]}) == 8


def test_zero_3_leaves_linear_layers_as_they_were(tmp_path: Path) -> None:
    """DeepSpeed does not, and an export in the same process could not be traced."""
    before = torch.nn.functional.linear
    run("llama-rank", tmp_path, zero_stage=3, steps=1)
    assert torch.nn.functional.linear is before
