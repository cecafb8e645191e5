"""Tiny students beside tiny teachers for the tests of what looks into them: groups, a store, batches, runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from disranker import dist
from disranker.config.distill import DistillConfig
from disranker.config.parts import ModelConfig, OptimConfig, TrainingConfig
from disranker.data.batches import DistillBatch, DistillItems, Targets
from disranker.data.sampling import GroupSampler, Sampling
from disranker.data.tokens import TokenTable, write_tokens
from disranker.models.adapters import merged_weights
from disranker.models.bundle import save_bundle
from disranker.models.ranker import Ranker
from disranker.models.student import Student
from disranker.train.distilling import build_objective
from disranker.train.engine import train
from disranker.train.run import plan_steps
from tests import tiny, tiny_runs
from tests.train.training import PARTS, VOCAB, Outcome, pairs_in_groups

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
WIDTH = 5
"""Of the teacher's pooled states in the store."""


class TinyStore:
    """What is read of a store besides its scores."""

    def __init__(self, width: int | None = WIDTH) -> None:
        self.folder = Path("scores")
        self.manifest = {"representation": None if width is None else "pooled", "representation_width": width}


def make_ranker(family: str = "bert", **changed: Any) -> Ranker:
    """A ranker in training without dropout, always with the same weights."""
    dropout = NO_DROPOUT if family == "bert" else {}
    model = tiny.classifier(family, **{"vocab_size": VOCAB, **dropout, **changed})
    return Ranker(tiny.spread(model, 0.1).train())


def save_teacher(folder: Path, model: PreTrainedModel | None = None, **encoder: Any) -> Path:
    """The bundle of a teacher, by default wider and deeper than the student."""
    model = model or tiny.classifier("bert", vocab_size=VOCAB, hidden_size=48, num_hidden_layers=4)
    save_bundle(folder, model, tiny.encoder(**encoder), {})
    return folder


def make_config(*terms: str | dict[str, Any], **changed: Any) -> DistillConfig:
    """The settings of a run on these terms."""
    parts = {**PARTS, "training": {"epochs": 1}, "store": "scores", "candidates": [], "distill": list(terms)}
    return DistillConfig(**{**parts, **changed})


def make_items(folder: Path) -> DistillItems:
    """14 groups of 2 to 5 documents; the teacher has scored all but one of each group of more than 3."""
    pairs, groups = pairs_in_groups()
    folder.mkdir(parents=True, exist_ok=True)
    write_tokens(folder / "tokens.arrow", tiny.encoder(), pairs)
    random = np.random.default_rng(1)
    scores, states = random.normal(size=len(pairs)).astype(np.float32), random.normal(size=(len(pairs), WIDTH))
    for _, rows in groups:
        scores[rows[3:4]] = np.nan
    targets = Targets(scores, np.full(len(pairs), np.nan, np.float32), lambda rows: states[rows].astype(np.float16))
    sampler = GroupSampler(groups, scores, docs_per_query=5, seed=0, sampling=Sampling())
    return DistillItems(TokenTable(folder / "tokens.arrow"), targets, sampler)


def make_batch(folder: Path, items: list[int] | None = None) -> DistillBatch:
    """A batch of those groups, by default of the first six."""
    return make_items(folder).batch(items or list(range(6)), 0, 1.0)


def run(
    config: DistillConfig,
    out: Path,
    *,
    ranker: Ranker | None = None,
    wrap_plan: Callable[[Any], Any] = lambda plan: plan,
    learning_rate: float = 1e-3,
    **changed: Any,
) -> tuple[Outcome, Student]:
    """Train a student; `changed` are fields of the training settings."""
    dist.initialize()
    training = TrainingConfig(**{"tokens_per_step": 300, "steps": 6, **changed})
    ranker = ranker or make_ranker()
    student, objective = build_objective(config, ranker, tiny.encoder(), TinyStore())
    plan, num_steps = plan_steps(make_items(out), training)
    trained = train(
        student,
        objective,
        wrap_plan(plan),
        num_steps=num_steps,
        settings=(ModelConfig(name="x"), OptimConfig(learning_rate=learning_rate), training),
        config_text="settings",
        out=out,
        save=lambda: None,
    )
    lines = [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in tiny_runs.lines(out)]
    weights = {name: weight.detach().clone() for name, weight in student.projections.state_dict().items()}
    return Outcome(trained, lines, merged_weights(ranker.model) | weights, []), student


def parts_of(config: DistillConfig, batch: DistillBatch, ranker: Ranker | None = None) -> dict[str, torch.Tensor]:
    """The parts of one forward, without an engine."""
    student, objective = build_objective(config, ranker or make_ranker(), tiny.encoder(), TinyStore())
    return objective.loss(student, batch, 0)
