"""Stage 3 by its command line on the teacher's states: from the store, beside the student, on moved embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from disranker.launch import run_stage
from disranker.models.bundle import load_bundle, read_facts
from tests import tiny_runs
from tests.stages.test_multiprocess import on_two_ranks
from tests.train.training import with_gradient

STORED = ["pooled-mse", "pooled-cosine", "rkd-distance", "rkd-angle"]
BESIDE = [{"name": "hidden-mse", "layers": {1: 2, 2: 3}}, {"name": "attention-relation", "relation_heads": 4}]
TERMS = ["point-mse", *STORED, *BESIDE]
NAMES = ["point-mse", *STORED, "hidden-mse", "attention-relation"]


@pytest.fixture(scope="module")
def taught(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A BERT teacher, wider and deeper than the student and with its tokenizer, its store with states; the settings."""
    out = tmp_path_factory.mktemp("taught")
    wide = tiny_runs.fresh(world / "encoder", {**tiny_runs.ENCODER, "hidden_size": 48, "num_hidden_layers": 3})
    judged, candidates = [str(world / "judged.train.parquet")], [str(world / "candidates.parquet")]
    stage = tiny_runs.arguments(out / "teacher", {**wide, **tiny_runs.short_run(3), "judged": judged})
    assert run_stage("rank", stage) == 0
    score = {"teacher": str(out / "teacher"), "candidates": candidates, "representation": "pooled"}
    assert run_stage("score", tiny_runs.arguments(out / "store", score)) == 0
    student = tiny_runs.fresh(world / "encoder", tiny_runs.ENCODER)
    learn = {"store": str(out / "store"), "candidates": candidates, "teacher": str(out / "teacher"), "distill": TERMS}
    return {**student, **tiny_runs.short_run(4), **learn, "perturbation": {"weight": 0.5}}


def test_every_state_at_once(taught: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage("distill", tiny_runs.arguments(tmp_path, taught)) == 0
    shown = capsys.readouterr().out
    assert "2 passes of the student a step" in shown
    for line in tiny_runs.step_lines(tmp_path):
        clean = sum(line[name] for name in NAMES)
        assert line["loss"] == pytest.approx(clean + 0.5 * line["perturbed"], rel=1e-5)
        assert line["perturbed"] != pytest.approx(clean, rel=1e-4)
    # The bundle is the ranker: as many weights as the architecture says, none of them a projection.
    model, _, _ = load_bundle(tmp_path, dtype="float32")
    assert set(tiny_runs.weights(tmp_path)) == set(model.state_dict())
    assert read_facts(tmp_path)["num_parameters"] == sum(weight.numel() for weight in model.parameters())


def test_faults_are_one_line_before_training(
    taught: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = {
        "reads other tokens than the student: text.max_tokens is 48 there and 40 here": {"text.max_tokens": 40},
        "names layer 7 of the teacher, which has 3": {
            "distill": [{"name": "hidden-mse", "layers": {1: 7}}],
        },
        "this student has none, so that both would be equal": {"consistency": {"weight": 1.0}},
    }
    for number, (fault, changed) in enumerate(faults.items()):
        out = tmp_path / str(number)
        assert run_stage("distill", tiny_runs.arguments(out, {**taught, **changed})) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error: ") and fault in said
        assert not (out / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_ranks_equal_one(taught: dict[str, Any], tmp_path: Path) -> None:
    more = {"training.accumulation": 2, "training.zero_stage": 2}
    assert run_stage("distill", tiny_runs.arguments(tmp_path / "one", taught)) == 0
    on_two_ranks("distill", tiny_runs.arguments(tmp_path / "two", {**taught, **more}))
    one, two = (tiny_runs.step_lines(tmp_path / ranks) for ranks in ("one", "two"))
    for name in ("loss", "perturbed", *NAMES):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], abs=1e-4), name
    ours, theirs = (with_gradient(tiny_runs.weights(tmp_path / ranks)) for ranks in ("one", "two"))
    assert tiny_runs.largest_difference(ours, theirs) < 1e-4
