"""A small decoder as student: adapters learn the teacher's scores, and the bundle opens as a plain model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from disranker.data.readers import read_judged
from disranker.launch import run_stage
from disranker.models.bundle import read_facts
from disranker.models.scorer import Scorer
from tests import tiny_runs
from tests.stages.conftest import Pipeline

LORA = {"model.lora": {"r": 4, "alpha": 8}, "optim.learning_rate": 0.02, "training.tokens_per_step": 20_000}


@pytest.fixture(scope="module")
def student(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lora") / "student"
    settings = {
        **tiny_runs.short_run(6),
        **LORA,
        "model.name": str(pipeline.folder / "pretrained"),
        "store": str(pipeline.folder / "store"),
        "candidates": pipeline.candidates,
    }
    assert run_stage("distill", tiny_runs.arguments(out, settings)) == 0
    return out


def test_it_learns(student: Path) -> None:
    steps = tiny_runs.step_lines(student)
    assert len(steps) == 6 and steps[-1]["loss"] < 0.9 * steps[0]["loss"]


def test_adapters_move_what_they_are_on_and_nothing_else(student: Path, pipeline: Pipeline) -> None:
    before, after = tiny_runs.weights(pipeline.folder / "pretrained"), tiny_runs.weights(student)
    shared = before.keys() & after.keys()
    moved = {name for name in shared if not torch.equal(before[name], after[name])}
    kinds = {f"{part}_proj" for part in ("q", "k", "v", "o", "up", "down", "gate")}
    assert {name.split(".")[-2] for name in moved} == kinds
    assert not any("lora" in name for name in after)


def test_the_bundle_opens_again(student: Path, pipeline: Pipeline) -> None:
    facts = read_facts(student)
    assert (facts["kind"], facts["head"], facts["template"]["name"]) == ("ranker", "last-token", "plain")
    pairs = [row.pair for row in read_judged(pipeline.judged("test"))][:6]
    scorer = Scorer.load(student)
    scores = scorer.score(pairs)
    assert np.ptp(scores) > 1e-3
    model = AutoModelForSequenceClassification.from_pretrained(student).eval()
    with torch.inference_mode():
        tokens = scorer.encoder.encode(pairs)
        theirs = [float(model(torch.from_numpy(one.ids.astype(np.int64))[None]).logits[0, 0]) for one in tokens]
    np.testing.assert_allclose(scores, theirs, rtol=0, atol=1e-5)


def test_it_can_teach_in_its_turn(student: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    """Teacher → small LLM with adapters → BERT."""
    score = {"teacher": str(student), "candidates": pipeline.candidates}
    assert run_stage("score", tiny_runs.arguments(tmp_path / "store", score)) == 0
    settings = {
        **tiny_runs.fresh(pipeline.world / "encoder", tiny_runs.ENCODER),
        **tiny_runs.short_run(2),
        "store": str(tmp_path / "store"),
        "candidates": pipeline.candidates,
    }
    assert run_stage("distill", tiny_runs.arguments(tmp_path / "bert", settings)) == 0
    assert read_facts(tmp_path / "bert")["head"] == "cls"
