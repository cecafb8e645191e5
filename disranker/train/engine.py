"""The engine: one loop for three stages, over DeepSpeed.

It knows steps, accumulation, evaluation, logging, checkpoints and resume; it does not know queries, teachers or
templates.  What to learn is an objective, what to learn from is a plan of steps, both handed in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from disranker import dist
from disranker.config.parts import ModelConfig, OptimConfig, TrainingConfig
from disranker.schema import stable_seed
from disranker.train.checkpoint import (
    CHECKPOINT_FOLDER,
    Progress,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from disranker.train.ds_config import deepspeed_config
from disranker.train.journal import Journal
from disranker.train.schedule import learning_rate

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class Objective(Protocol):
    """What is minimised."""

    def count(self, batch: Any) -> float:
        """Units (queries, tokens) of the batch, by which the loss is normalised."""

    def loss(self, model: Any, batch: Any, step: int) -> dict[str, Tensor]:
        """The loss of that step (from 0) under `loss`, and its parts, each summed over the units of the batch."""


class Plan(Protocol):
    """The steps of a run."""

    def steps(self, first_step: int) -> Iterator[Callable[[], Sequence[Any]]]:
        """From a step on: functions that make the micro-batches of this rank."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run did."""

    steps: int
    tokens: int
    pairs: int
    """Pairs seen, repeats counted."""
    seconds: float
    best_step: int
    best_value: float | None
    """The dev measure of the saved weights; None without evaluation."""


@contextmanager
def _linear_left_alone() -> Iterator[None]:
    # Under ZeRO-3 DeepSpeed puts a function of its own in the place of torch's, and leaves it there: none can trace it.
    linear = functional.linear
    try:
        yield
    finally:
        setattr(functional, "linear", linear)  # noqa: B010


@_linear_left_alone()
def train(
    model: nn.Module,
    objective: Objective,
    plan: Plan,
    *,
    num_steps: int,
    settings: tuple[ModelConfig, OptimConfig, TrainingConfig],
    config_text: str,
    out: Path,
    save: Callable[[], None],
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluate_first: bool = False,
    derive: Callable[[dict[str, float]], dict[str, float]] | None = None,
) -> Trained:
    """Train for `num_steps` optimizer steps and `save` the best weights, or the last ones without `evaluate`.

    `evaluate` measures on the dev set; its first value decides, larger is better.  With `evaluate_first` it also tells
    what the model was before, which is never the best.  `save` writes the bundle from the model as it is.  Both run on
    every rank.  `derive` gives further metrics of a step from its metrics.  A checkpoint in `out` is gone on from,
    exactly.
    """
    model_config, optim, training = settings
    dist.keep_freed_memory()
    engine = _start_engine(model.to(dist.device()), model_config, optim, training)
    checkpoints = out / CHECKPOINT_FOLDER
    progress = load_checkpoint(engine, checkpoints, config_text)
    if progress is None:
        progress = Progress(step=0, tokens=0, pairs=0, best_step=0, best_value=float("-inf"))
    else:
        dist.print_once(f"  going on from the checkpoint at step {progress['step']}")
    first_step, began = progress["step"], time.monotonic()
    journal = Journal(
        out, num_steps=num_steps, first_step=first_step, log_every=training.log_every, tensorboard=training.tensorboard
    )
    with journal:
        if evaluate is not None and evaluate_first and first_step == 0:
            engine.eval()
            journal.evaluation(0, evaluate(), best=False)
            engine.train()
        for step, make_batches in zip(range(first_step, num_steps), plan.steps(first_step), strict=False):
            rate = learning_rate(step, num_steps, optim)
            torch.manual_seed(stable_seed(training.seed, "dropout", step, dist.process_rank()) % 2**63)
            metrics = train_step(engine, objective, make_batches(), step, rate)
            progress["step"] = step + 1
            progress["tokens"] += metrics["tokens"]
            progress["pairs"] += metrics["pairs"]
            journal.step(step + 1, metrics | (derive(metrics) if derive is not None else {}))
            if not math.isfinite(metrics["loss"]):
                raise ValueError(f"the loss of step {step + 1} is {metrics['loss']}: lower optim.learning_rate")
            last = step + 1 == num_steps
            if evaluate is not None and (last or (step + 1) % (training.evaluate_every or num_steps) == 0):
                _evaluate_and_keep(engine, evaluate, save, progress, journal)
                late = (step + 1 - progress["best_step"]) // (training.evaluate_every or num_steps)
                if training.patience is not None and late >= training.patience:
                    dist.print_once(f"  no better evaluation since step {progress['best_step']}: stopping early")
                    break
            if training.checkpoint_every and (step + 1) % training.checkpoint_every == 0 and not last:
                save_checkpoint(engine, checkpoints, progress, config_text)
    if evaluate is None:
        save()
    remove_checkpoints(checkpoints)
    best_value = progress["best_value"] if evaluate is not None else None
    best_step = progress["best_step"] if evaluate is not None else progress["step"]
    seconds = time.monotonic() - began
    engine.destroy()  # lets go of the hooks, so that this process can score with the model or train another
    tokens, pairs = round(progress["tokens"]), round(progress["pairs"])
    return Trained(progress["step"], tokens, pairs, seconds, best_step, best_value)


def train_step(
    engine: DeepSpeedEngine, objective: Objective, batches: Sequence[Any], step: int, rate: float
) -> dict[str, float]:
    """One optimizer step on this rank's micro-batches; the metrics are over all ranks."""
    began = time.monotonic()
    batches = [batch.to(dist.device()) for batch in batches]
    # ------------------------------------------------------------------------------------------------------------
    # The count comes before the first backward: the loss is normalised by all queries (or tokens) of the step.
    sizes = [(batch.weight * batch.packed.num_tokens, batch.weight * batch.packed.num_sequences) for batch in batches]
    num_tokens, num_pairs = (sum(column) for column in zip(*sizes, strict=True))
    counts = [sum(objective.count(batch) for batch in batches), num_tokens, num_pairs]
    count, tokens, pairs = dist.sum_over_ranks(counts)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    sums: dict[str, float] = {}
    for batch in batches:
        parts = objective.loss(engine, batch, step)
        # DeepSpeed divides by ranks and by accumulation; multiplying by both leaves sum / count.
        engine.backward(parts["loss"] * (dist.world_size() * len(batches) / count))
        engine.step()
        for name, part in parts.items():
            sums[name] = sums.get(name, 0.0) + part.item()
    # ------------------------------------------------------------------------------------------------------------
    means = [total / count for total in dist.sum_over_ranks(list(sums.values()))]
    seconds = time.monotonic() - began
    metrics = dict(zip(sums, means, strict=True))
    norm = engine.get_global_grad_norm()
    if norm is not None:  # DeepSpeed keeps none in fp32 without ZeRO
        metrics["grad_norm"] = float(norm)
    return {
        **metrics,
        "learning_rate": rate,
        "count": count,
        "tokens": tokens,
        "pairs": pairs,
        "tokens_per_second": tokens / seconds,
    }


def _start_engine(
    model: nn.Module, model_config: ModelConfig, optim: OptimConfig, training: TrainingConfig
) -> DeepSpeedEngine:
    import deepspeed

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=optim.learning_rate, betas=optim.betas, fused=True
    )
    config = deepspeed_config(model_config, optim, training)
    engine: DeepSpeedEngine = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
    engine.train()
    return engine


def _evaluate_and_keep(
    engine: DeepSpeedEngine,
    evaluate: Callable[[], dict[str, float]],
    save: Callable[[], None],
    progress: Progress,
    journal: Journal,
) -> None:
    engine.eval()
    measures = evaluate()
    name, value = next(iter(measures.items()))
    if math.isnan(value):
        raise ValueError(f"the dev measure {name} is not defined on this dev set, so no best step can be chosen by it")
    best = value > progress["best_value"]
    if best:
        progress["best_step"], progress["best_value"] = progress["step"], value
        save()
    journal.evaluation(progress["step"], measures, best=best)
    engine.train()
