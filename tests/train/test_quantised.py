"""Training under rounding: when it is on, what is measured with it, and that cuts and kills change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from disranker.config.quantisation import QuantisationConfig
from disranker.models.ranker import Ranker
from disranker.models.rounding import RoundedLinear
from disranker.train.quantised import Learned, quantise
from tests.tiny_runs import largest_difference
from tests.train.state_runs import make_batch, make_config, make_ranker
from tests.train.training import Killed, Outcome, killed_at, make_model, make_objective, run

HALF = QuantisationConfig(begin=0.5)
WAY = "bert-distill"


def trained(out: Path, settings: QuantisationConfig | None = HALF, **changed: Any) -> tuple[Outcome, list[bool]]:
    """Six steps of a tiny student; and whether each evaluation was measured with rounding."""
    ranker = make_model(WAY, **changed.pop("model", {}))
    assert isinstance(ranker, Ranker)
    rounded: list[bool] = []

    def evaluate() -> dict[str, float]:
        layers = [module.rounding for module in ranker.modules() if isinstance(module, RoundedLinear)]
        rounded.append(bool(layers) and layers[0].measuring)
        return {"nDCG@10": float(len(rounded))}

    made: list[Learned] = []

    def wrap(objective: Any) -> Any:
        made.append(quantise(settings, ranker, objective, evaluate, 6))
        return made[0].objective

    def measure() -> dict[str, float]:
        assert made[0].evaluate is not None
        return made[0].evaluate()

    return run(WAY, out, model=ranker, wrap_objective=wrap, evaluate=measure, **changed), rounded


# --- what is on when ---


def test_nothing_wanted_is_everything_as_it_was() -> None:
    objective, ranker = make_objective(WAY), make_ranker()

    def evaluate() -> dict[str, float]:
        return {}

    learned = quantise(None, ranker, objective, evaluate, 10)
    assert learned.objective is objective and learned.evaluate is evaluate and learned.facts == {}
    assert not any(isinstance(module, RoundedLinear) for module in ranker.modules())


@pytest.mark.parametrize(
    ("begin", "num_steps", "first"), [(0.0, 5, 0), (0.8, 10, 8), (0.8, 60, 48), (0.5, 3, 1), (0.99, 10, 9)]
)
def test_rounding_begins_after_its_share_of_the_steps(begin: float, num_steps: int, first: int, tmp_path: Path) -> None:
    """By the step alone, in whatever order steps are asked for: a run that is gone on with begins in the middle."""
    ranker, batch = make_ranker(), make_batch(tmp_path)
    plain = make_objective(WAY).loss(lambda packed: ranker.read(packed), batch, 0)["loss"].item()
    learned = quantise(QuantisationConfig(begin=begin), ranker, make_objective(WAY), None, num_steps)
    assert f"from step {first} of {num_steps}" in learned.facts["rounded"]
    for step in (num_steps - 1, first, *([first - 1, 0] if first else [])):
        loss = learned.objective.loss(lambda packed: ranker.read(packed), batch, step)["loss"].item()
        assert (loss == plain) == (step < first), step


def test_the_plan_says_what_is_rounded() -> None:
    facts = quantise(QuantisationConfig(), make_ranker(), make_objective(WAY), dict, 20).facts
    assert facts == {"rounded": "14 linear layers to int8 from step 16 of 20; dev measured so throughout"}


def test_every_evaluation_is_measured_with_rounding(tmp_path: Path) -> None:
    outcome, rounded = trained(tmp_path, evaluate_every=2)
    assert rounded == [True, True, True]
    assert outcome.trained.best_step == 6 and len(outcome.saved) == 3


# --- in training ---


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return trained(tmp_path_factory.mktemp("straight"))[0]


def test_until_it_begins_nothing_differs_and_then_the_loss_does(straight: Outcome, tmp_path: Path) -> None:
    plain, _ = trained(tmp_path, None)
    assert straight.losses[:3] == plain.losses[:3]
    assert all(ours != theirs for ours, theirs in zip(straight.losses[3:], plain.losses[3:], strict=True))
    assert straight.losses == pytest.approx(plain.losses, rel=0.1)
    assert largest_difference(straight.weights, plain.weights) > 1e-4
    # What is trained are weights in float: rounding has left no grid in them.
    weight = straight.weights["bert.encoder.layer.0.output.dense.weight"]
    assert weight[0].unique().numel() == weight.shape[1]


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_zero_changes_nothing(straight: Outcome, zero_stage: int, tmp_path: Path) -> None:
    cut, _ = trained(tmp_path, zero_stage=zero_stage)
    assert cut.losses == pytest.approx(straight.losses, abs=1e-3)


@pytest.mark.parametrize("died_at", [3, 5])
def test_a_run_that_is_killed_goes_on_exactly(straight: Outcome, died_at: int, tmp_path: Path) -> None:
    """At the step with which rounding begins, and within it."""
    with pytest.raises(Killed):
        trained(tmp_path, checkpoint_every=died_at, wrap_plan=killed_at(died_at))
    outcome, _ = trained(tmp_path, checkpoint_every=died_at)
    assert outcome.losses == straight.losses
    assert all(torch.equal(outcome.weights[name], weight) for name, weight in straight.weights.items())


# --- what is refused ---


@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        ("begin", {"quantisation": {"begin": 1.0}}),
        ("begin", {"quantisation": {"begin": -0.1}}),
        ("model.dtype is bfloat16: set it to float32", {"model": {"name": "x", "dtype": "bfloat16"}}),
        ("those of model.lora are merged only then", {"model": {"name": "x", "lora": {}}}),
        ("may end the run before quantisation begins", {"training": {"steps": 9, "evaluate_every": 3, "patience": 1}}),
    ],
)
def test_impossible_settings(fault: str, changed: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"quantisation": {}, "judged_dev": ["dev.parquet"], **changed}
    with pytest.raises(ValueError, match=fault):
        make_config("margin-mse", **settings)
    make_config("margin-mse", **{**settings, "quantisation": None})


def test_rounding_from_the_start_goes_with_patience() -> None:
    training = {"steps": 9, "evaluate_every": 3, "patience": 1}
    make_config("margin-mse", training=training, judged_dev=["dev.parquet"], quantisation={"begin": 0.0})
