"""The warm-up by its command line: what it writes, what starts from it, two ranks and kills."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from disranker.config.warmup import WarmupConfig
from disranker.data.readers import read_candidates, read_clicks
from disranker.launch import run_stage, stage_script
from disranker.models.bundle import read_facts
from disranker.schema import stable_seed
from tests import tiny_runs
from tests.stages.conftest import Pipeline
from tests.stages.test_multiprocess import check_equal_runs, kill_when, num_lines, on_two_ranks


def settings(world: Path, **more: Any) -> dict[str, Any]:
    clicks, candidates = ([str(world / f"{name}.parquet")] for name in ("clicks", "candidates"))
    made = {"clicks": clicks, "candidates": candidates, "dev_share": 0.2}
    return {**made, **tiny_runs.fresh(world / "encoder", tiny_runs.ENCODER), **tiny_runs.short_run(8), **more}


@pytest.fixture(scope="module")
def warmed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("warm") / "warmed"
    assert run_stage("warmup", tiny_runs.arguments(out, settings(world))) == 0
    return out


def num_rows(world: Path, *, held_out: bool) -> int:
    rows = [*read_clicks(world / "clicks.parquet"), *read_candidates(world / "candidates.parquet")]
    return sum((stable_seed("dev", row.title, row.summary) / 2**64 < 0.2) == held_out for row in rows)


def test_what_it_writes(warmed: Path, world: Path) -> None:
    files = set(tiny_runs.file_bytes(warmed))
    assert {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "disranker.json",
        "metrics.jsonl",
    } <= files
    assert not (warmed / "cache").exists()
    lines = tiny_runs.lines(warmed)
    looks = {line["step"]: line["dev"] for line in lines if "dev" in line}
    assert looks.keys() == {0, 8}  # before and after
    assert looks[8]["perplexity"] < looks[0]["perplexity"]
    facts = read_facts(warmed)
    assert facts["kind"] == "masked-language-model"
    assert facts["training"]["distinct_pairs"] == num_rows(world, held_out=False) > num_rows(world, held_out=True) > 5
    assert facts["training"]["best_value"] == looks[8]["log_likelihood"]
    again = WarmupConfig.parse(["--config", str(warmed / "config.yaml")])
    assert again.model_dump(mode="json") == facts["config"]
    steps = tiny_runs.step_lines(warmed)
    assert len(steps) == 8 and steps[-1]["loss"] < steps[0]["loss"]


def test_rankers_start_from_it(warmed: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    """Stage 2 and stage 3: at a learning rate of nothing their encoder is the warmed-up one."""
    still = {**tiny_runs.short_run(1), "optim.learning_rate": 1e-12, "model.name": str(warmed)}
    runs = {
        "rank": {"judged": pipeline.judged("train")},
        "distill": {"store": str(pipeline.folder / "store"), "candidates": pipeline.candidates},
    }
    before = tiny_runs.weights(warmed)
    for stage, data in runs.items():
        assert run_stage(stage, tiny_runs.arguments(tmp_path / stage, {**still, **data})) == 0
        after = tiny_runs.weights(tmp_path / stage)
        shared = before.keys() & after.keys()
        assert len(shared) > 30 and all((before[name] - after[name]).abs().max() < 1e-6 for name in shared)
        assert not any(name.startswith("cls.") for name in after)


def test_another_warm_up_goes_on_with_the_output_layer(warmed: Path, world: Path, tmp_path: Path) -> None:
    again = settings(world, **{"model.architecture": None, "model.tokenizer": None, "model.name": str(warmed)})
    assert run_stage("warmup", tiny_runs.arguments(tmp_path, again)) == 0
    before, after = ([line["dev"] for line in tiny_runs.lines(at) if "dev" in line] for at in (warmed, tmp_path))
    assert after[0]["perplexity"] == pytest.approx(before[-1]["perplexity"], rel=1e-4)


def test_documents_are_masked_without_a_query(world: Path, tmp_path: Path) -> None:
    """Candidates alone: [CLS] [SEP] document [SEP], so that a document has the token type that a ranker gives it."""
    argv = tiny_runs.arguments(tmp_path, settings(world, clicks=[], dev_share=0.0))
    assert run_stage("warmup", argv) == 0
    assert not any("dev" in line for line in tiny_runs.lines(tmp_path))
    assert read_facts(tmp_path)["training"]["best_value"] is None


def test_a_dry_run_writes_nothing(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run_stage("warmup", [*tiny_runs.arguments(out, settings(world)), "--dry-run"]) == 0
    assert "warm-up, a dry run:" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--clicks", "[]", "--candidates", "[]"], 2, "there are no texts: give clicks or candidates"),
        (["--mask_share", "1.0"], 2, "mask_share = 1.0"),
        (["--model.head", "yes-no"], 2, "model.head is yes-no, but there is no score head yet: leave it out"),
        (["--model.architecture.model_type", "llama"], 1, "model.architecture is a llama, and this is for encoders"),
        (["--text.max_tokens", "80"], 1, "the model has positions for 64 tokens only"),
    ],
)
def test_faults(
    words: list[str], code: int, message: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_stage("warmup", [*tiny_runs.arguments(tmp_path / "out", settings(world)), *words]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_texts_that_are_all_held_out(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage("warmup", tiny_runs.arguments(tmp_path, settings(world, dev_share=0.999999))) == 1
    assert "there is nothing to train on" in capsys.readouterr().err


def test_accumulation_changes_nothing(warmed: Path, world: Path, tmp_path: Path) -> None:
    argv = tiny_runs.arguments(tmp_path, settings(world, **{"training.accumulation": 4}))
    assert run_stage("warmup", argv) == 0
    check_equal_runs(warmed, tmp_path)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("zero_stage", ["1", "3"])
def test_two_ranks_equal_one(warmed: Path, world: Path, tmp_path: Path, zero_stage: str) -> None:
    argv = tiny_runs.arguments(tmp_path, settings(world, **{"training.zero_stage": zero_stage}))
    on_two_ranks("warmup", argv)
    check_equal_runs(warmed, tmp_path)
    assert read_facts(tmp_path)["num_parameters"] == read_facts(warmed)["num_parameters"]


@pytest.mark.slow
def test_a_killed_warm_up_goes_on_exactly(world: Path, tmp_path: Path) -> None:
    more = {"model.dropout": 0.2, "training.checkpoint_every": 4, "training.steps": 30}
    assert run_stage("warmup", tiny_runs.arguments(tmp_path / "straight", settings(world, **more))) == 0
    out = tmp_path / "killed"
    argv = tiny_runs.arguments(out, settings(world, **more))
    assert kill_when([sys.executable, str(stage_script("warmup")), *argv], lambda: num_lines(out) >= 11)
    assert (out / "checkpoint" / "latest").exists()
    assert run_stage("warmup", argv) == 0
    assert tiny_runs.step_lines(out) == tiny_runs.step_lines(tmp_path / "straight")
    straight, killed = (tiny_runs.weights(at) for at in (tmp_path / "straight", out))
    assert all(torch.equal(straight[name], killed[name]) for name in straight)
    assert json.loads((out / "disranker.json").read_text())["training"]["steps"] == 30
