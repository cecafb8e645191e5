"""A tiny training run in memory for the tests of the engine: groups, a model, an objective, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from disranker import dist
from disranker.config.distill_terms import DistillTerm, SupervisedTerm
from disranker.config.parts import ModelConfig, OptimConfig, TrainingConfig
from disranker.config.rank import RankConfig
from disranker.data.batches import DistillItems, GroupItems, Targets
from disranker.data.sampling import GroupSampler, Sampling
from disranker.data.text_items import TextItems
from disranker.data.tokens import TokenTable, write_tokens
from disranker.models.adapters import merged_weights
from disranker.models.language import LanguageModel
from disranker.models.ranker import Ranker
from disranker.models.student import Student
from disranker.schema import Pair
from disranker.train.distilling import DistillObjective, Weighed
from disranker.train.engine import Trained, train
from disranker.train.language import LanguageModelObjective
from disranker.train.objectives import RankObjective
from disranker.train.run import plan_steps
from disranker.train.signals import LabelSignal, score_signals
from tests import tiny, tiny_runs

WORDS = ["red", "blue", "shoes", "boots", "running", "winter", "road", "bike", "light", "warm", "tyres"]
VOCAB = 400
PARTS: dict[str, Any] = {
    "out": "x",
    "model": {"name": "x"},
    "optim": {"learning_rate": 1e-3},
    "training": {"steps": 1},
}
# (family, objective): BERT learns from a teacher, for pairwise losses give its last bias no gradient but noise.
WAYS = ("bert-distill", "llama-rank", "llama-language")
# Beside them `bert-mixed`: of the documents some are scored, some are judged, some are both.
HYBRID = [DistillTerm(name="point-mse"), DistillTerm(name="margin-mse")]
MIXED = [
    DistillTerm(name="point-mse", weight=0.2),
    DistillTerm(name="kl", temperature=2.0),
    DistillTerm(name="ranknet", weight=0.5, start=1, end=5),
]
LABELS = [SupervisedTerm(name="softmax", weight=0.7), SupervisedTerm(name="mse", weight=0.3, start=2)]


@dataclass(frozen=True)
class Outcome:
    """What a run left."""

    trained: Trained
    lines: list[dict[str, Any]]
    """Every line of metrics.jsonl, without tokens_per_second."""
    weights: dict[str, torch.Tensor]
    saved: list[dict[str, torch.Tensor]]
    """The weights at every call of `save`."""

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.lines if "loss" in line]


def pairs_in_groups(num_groups: int = 14) -> tuple[list[Pair], list[tuple[str, np.ndarray]]]:
    """Random pairs of unequal length in groups of 2 to 5."""
    random = np.random.default_rng(0)

    def text(low: int, high: int) -> str:
        return " ".join(random.choice(WORDS, int(random.integers(low, high))))

    pairs: list[Pair] = []
    groups = []
    for group in range(num_groups):
        size = int(random.integers(2, 6))
        groups.append((f"q{group}", np.arange(len(pairs), len(pairs) + size)))
        pairs += [Pair(text(1, 3), text(1, 5), text(1, 9)) for _ in range(size)]
    return pairs, groups


def make_model(way: str, **changed: Any) -> nn.Module:
    """The model of a way, always with the same weights."""
    family, objective = way.split("-")
    if objective == "language":
        return LanguageModel(tiny.spread(tiny.causal_model(family, vocab_size=VOCAB, **changed), 0.1).train())
    if family == "bert":
        changed = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **changed}
    return Ranker(tiny.spread(tiny.classifier(family, vocab_size=VOCAB, **changed), 0.1).train())


def in_training(model: nn.Module, way: str) -> nn.Module:
    """What the engine is handed: a ranker that is distilled is inside a student."""
    return Student(model) if isinstance(model, Ranker) and way.endswith(("distill", "mixed")) else model


def make_items(way: str, folder: Path, *, docs_per_query: int = 4) -> GroupItems | DistillItems | TextItems:
    """The groups (or texts) of a way; some groups are larger than `docs_per_query`."""
    pairs, groups = pairs_in_groups()
    encoder = tiny.encoder("pair" if way.startswith("bert") else "plain")
    write_tokens(folder / "tokens.arrow", encoder, pairs)
    table = TokenTable(folder / "tokens.arrow")
    if way.endswith("language"):
        return TextItems([table])
    targets = np.random.default_rng(1).integers(0, 4, len(pairs)).astype(np.float32)
    if way.endswith("rank"):
        return GroupItems(table, groups, targets, docs_per_query=docs_per_query, seed=0)
    labels = np.full(len(pairs), np.nan, dtype=np.float32)
    if way.endswith("mixed"):
        labels[::3], known = targets[::3], targets.copy()
        targets[1::3] = np.nan
        for group, (_, rows) in enumerate(groups):
            if group % 4 == 1:
                labels[rows] = np.nan
            elif group % 4 == 2:
                labels[rows], targets[rows] = known[rows], np.nan
    sampler = GroupSampler(groups, targets, docs_per_query=docs_per_query, seed=0, sampling=Sampling())
    return DistillItems(table, Targets(targets, labels), sampler)


def make_objective(way: str) -> Any:
    """The objective of a way."""
    if way.endswith(("distill", "mixed")):
        mixed = way.endswith("mixed")
        terms = MIXED if mixed else HYBRID
        weighed = [Weighed(term, signal) for term, signal in zip(terms, score_signals(terms), strict=True)]
        weighed += [Weighed(term, LabelSignal(term)) for term in LABELS] if mixed else []
        return DistillObjective(weighed, log_shares=mixed)
    if way.endswith("rank"):
        return RankObjective(RankConfig(**PARTS, judged=[], loss="ranknet"))
    return LanguageModelObjective()


def run(
    way: str,
    out: Path,
    *,
    model: nn.Module | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    wrap_objective: Callable[[Any], Any] = lambda objective: objective,
    wrap_plan: Callable[[Any], Any] = lambda plan: plan,
    config_text: str = "settings",
    evaluate_first: bool = False,
    derive: Callable[[dict[str, float]], dict[str, float]] | None = None,
    **changed: Any,
) -> Outcome:
    """Train in `out` (which may hold a checkpoint); `changed` are fields of the training settings."""
    dist.initialize()
    out.mkdir(parents=True, exist_ok=True)
    if "epochs" not in changed:
        changed = {"steps": 6, **changed}
    training = TrainingConfig(**{"tokens_per_step": 300, **changed})
    model = model or make_model(way)
    plan, num_steps = plan_steps(make_items(way, out), training)
    saved: list[dict[str, torch.Tensor]] = []
    stock: Any = model
    trained = train(
        in_training(model, way),
        wrap_objective(make_objective(way)),
        wrap_plan(plan),
        num_steps=num_steps,
        settings=(ModelConfig(name="x"), OptimConfig(learning_rate=1e-3), training),
        config_text=config_text,
        out=out,
        save=lambda: saved.append(merged_weights(stock.model)),
        evaluate=evaluate,
        evaluate_first=evaluate_first,
        derive=derive,
    )
    lines = [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in tiny_runs.lines(out)]
    return Outcome(trained, lines, merged_weights(stock.model), saved)


def with_gradient(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights but the biases of attention keys: softmax cancels those, so their gradient is rounding alone."""
    return {name: weight for name, weight in weights.items() if not name.endswith("key.bias")}


class Killed(Exception):
    """The death of a run."""


class KilledPlan:
    """A plan whose process dies while it makes the batches of a step."""

    def __init__(self, plan: Any, step: int) -> None:
        self._plan, self._step = plan, step

    def steps(self, first_step: int = 0) -> Iterator[Callable[[], Any]]:
        for step, make in enumerate(self._plan.steps(first_step), start=first_step):
            if step == self._step:
                raise Killed
            yield make


def killed_at(step: int) -> Callable[[Any], KilledPlan]:
    """A wrapper of plans: the run dies after `step` optimizer steps."""
    return lambda plan: KilledPlan(plan, step)
