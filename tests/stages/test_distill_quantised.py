"""Stage 3 under the rounding of an int8 export, by its command line: what it writes, kills, ZeRO, two ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from disranker.data.readers import read_candidates, write_trec_run
from disranker.launch import run_stage
from disranker.models.bundle import read_facts
from disranker.models.rounding import RoundedLinear
from disranker.schema import stable_seed
from disranker.train.journal import Journal
from tests import tiny_runs
from tests.stages.test_multiprocess import on_two_ranks

STEPS = 8
FIRST = 4


@pytest.fixture(scope="module")
def settings(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of 8 steps, of which the last 4 round, on scores drawn from the texts; with a dev set."""
    folder, candidates = tmp_path_factory.mktemp("scored"), [str(world / "candidates.parquet")]
    run: dict[str, dict[str, float]] = {}
    for row in read_candidates(candidates):
        run.setdefault(row.query_id, {})[row.doc_id] = stable_seed(*row.pair) / 2**62
    write_trec_run(folder / "scores.trec", run, "scores")
    score = {"run": str(folder / "scores.trec"), "candidates": candidates}
    assert run_stage("score", tiny_runs.arguments(folder / "store", score)) == 0
    return {
        **tiny_runs.fresh(world / "encoder", tiny_runs.ENCODER),
        **tiny_runs.short_run(STEPS, evaluate_every=2),
        "model.dropout": 0.1,
        "store": str(folder / "store"),
        "candidates": candidates,
        "judged_dev": [str(world / "judged.dev.parquet")],
        "quantisation": {"begin": FIRST / STEPS},
    }


def train(out: Path, settings: Mapping[str, Any]) -> int:
    return run_stage("distill", tiny_runs.arguments(out, settings))


@pytest.fixture(scope="module")
def straight(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight")
    assert train(out, settings) == 0
    return out


def dev(out: Path) -> list[float]:
    return [line["dev"]["nDCG@10"] for line in tiny_runs.lines(out) if "dev" in line]


def test_the_bundle_is_a_plain_one(straight: Path) -> None:
    """It was rescored when it was saved, reopened without rounding; the stock class opens it, in float32."""
    weights = tiny_runs.weights(straight)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    model, loading = AutoModelForSequenceClassification.from_pretrained(straight, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert not any(isinstance(module, RoundedLinear) for module in model.modules())
    facts = read_facts(straight)
    assert facts["config"]["quantisation"] == {"begin": 0.5}
    assert facts["training"]["best_value"] == max(dev(straight)) and len(dev(straight)) == 4


def test_only_the_last_steps_and_the_dev_set_are_rounded(
    straight: Path, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "plain", {**settings, "quantisation": None}) == 0
    assert "rounded" not in capsys.readouterr().out
    assert train(tmp_path / "again", settings) == 0
    shown = f"rounded    8 linear layers to int8 from step {FIRST} of {STEPS}; dev measured so throughout\n"
    assert shown in capsys.readouterr().out
    plain, rounded, again = (tiny_runs.step_lines(out) for out in (tmp_path / "plain", straight, tmp_path / "again"))
    assert again == rounded
    assert rounded[:FIRST] == plain[:FIRST]
    assert all(one["loss"] != other["loss"] for one, other in zip(rounded[FIRST:], plain[FIRST:], strict=True))


@pytest.mark.parametrize("zero_stage", [0, 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_zero_and_kills_change_nothing(
    straight: Path,
    settings: dict[str, Any],
    zero_stage: int,
    checkpointing: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = {"training.zero_stage": zero_stage, "model.gradient_checkpointing": checkpointing}
    settings = {**settings, **more, "training.checkpoint_every": 3}
    write_step = Journal.step

    def die(journal: Journal, step: int, metrics: Mapping[str, float]) -> None:
        if step == 7:
            raise KeyboardInterrupt
        write_step(journal, step, metrics)

    assert train(tmp_path / "whole", settings) == 0
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "step", die)
        assert train(tmp_path / "killed", settings) == 130
    assert (tmp_path / "killed" / "checkpoint" / "latest").read_text() == "step-00000006"
    assert train(tmp_path / "killed", settings) == 0
    whole, killed = (tiny_runs.step_lines(tmp_path / out) for out in ("whole", "killed"))
    assert killed == whole
    assert read_facts(tmp_path / "killed")["fingerprint"] == read_facts(tmp_path / "whole")["fingerprint"]
    if not checkpointing:  # with it the last layer computes every row, which draws other dropout
        losses = [[line["loss"] for line in lines] for lines in (whole, tiny_runs.step_lines(straight))]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_two_ranks_round_within_a_rounding_of_one(settings: dict[str, Any], zero_stage: int, tmp_path: Path) -> None:
    """Each rank has the range of its own texts, so no more than that can be asked for."""
    settings = {**settings, "model.dropout": 0.0, "training.zero_stage": zero_stage}
    assert train(tmp_path / "one", settings) == 0
    on_two_ranks("distill", tiny_runs.arguments(tmp_path / "two", settings))
    one, two = ([line["loss"] for line in tiny_runs.step_lines(tmp_path / ranks)] for ranks in ("one", "two"))
    assert two[:FIRST] == pytest.approx(one[:FIRST], abs=1e-4)
    assert two[FIRST:] == pytest.approx(one[FIRST:], rel=0.05)


def test_faults(settings: dict[str, Any], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decoder = tiny_runs.fresh(world / "decoder", tiny_runs.DECODER)
    convolutions = {
        "model_type": "squeezebert",
        **{name: size for name, size in tiny_runs.ENCODER.items() if name != "model_type"},
        "embedding_size": 32,
    }
    faults: list[tuple[int, str, dict[str, Any]]] = [
        (2, "quantisation.begin", {"quantisation": {"begin": 1.5}}),
        (2, "quantisation rounds float32 weights, and model.dtype is bfloat16", {"model.dtype": "bfloat16"}),
        (1, "quantisation is for encoders, which are exported in int8, and a llama is a decoder", decoder),
        (1, "the encoder of a squeezebert has none", tiny_runs.fresh(world / "encoder", convolutions)),
    ]
    for number, (code, fault, changed) in enumerate(faults):
        out = tmp_path / str(number)
        try:
            found = train(out, {**settings, **changed})
        except SystemExit as left:
            found = int(left.code or 0)
        said = capsys.readouterr().err
        assert found == code and fault in said and "Traceback" not in said, json.dumps(changed)
        assert not (out / "metrics.jsonl").exists()
