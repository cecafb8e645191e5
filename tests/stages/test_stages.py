"""Every stage by its command line on a tiny world: the files it writes, the facts in them, its exit codes."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from disranker.data.readers import read_candidates, read_clicks, read_judged, write_records
from disranker.data.tokens import TokenTable
from disranker.launch import run_stage, stage_script
from disranker.models.bundle import read_facts
from disranker.models.scorer import Scorer
from disranker.schema import Click, stable_seed
from disranker.shards import read_manifest
from disranker.teacher.store import Store
from tests import tiny_runs
from tests.stages.conftest import Pipeline

BUNDLE = {
    "README.md",
    "config.json",
    "config.yaml",
    "disranker.json",
    "metrics.jsonl",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
SYSTEMS = ("bm25", "random", "student", "teacher")
FILES = {
    "pretrained": BUNDLE | {"generation_config.json", "perplexity.svg"},
    "teacher": BUNDLE,
    "teacher-lora": BUNDLE,
    "store": {"manifest.json", "metrics.jsonl", *(f"scores-00000{index}.parquet" for index in range(4))},
    "student": BUNDLE | {"vocab.txt"},
    "evaluated": {f"{name}.{kind}" for name in SYSTEMS for kind in ("trec", "metrics.json")},
    "report": {"report.html", "report.json", "report.md"},
}
TRAINED = {"pretrained": 5, "teacher": 6, "teacher-lora": 4}


# --- what the stages write ---


@pytest.mark.parametrize("name", FILES)
def test_the_files_of_a_stage(pipeline: Pipeline, name: str) -> None:
    assert set(tiny_runs.file_bytes(pipeline.folder / name)) == FILES[name]


@pytest.mark.parametrize(("name", "steps"), TRAINED.items())
def test_the_steps_of_a_run(pipeline: Pipeline, name: str, steps: int) -> None:
    found = tiny_runs.step_lines(pipeline.folder / name)
    assert [line["step"] for line in found] == list(range(1, steps + 1))
    assert all(np.isfinite(line["loss"]) and line["learning_rate"] > 0 for line in found)


def test_an_epoch_sees_every_candidate_once(pipeline: Pipeline) -> None:
    found = tiny_runs.step_lines(pipeline.folder / "student")
    steps, training = len(found), read_facts(pipeline.folder / "student")["training"]
    assert steps % 2 == 0 and training["steps"] == steps
    for epoch in (found[: steps // 2], found[steps // 2 :]):
        assert (sum(line["count"] for line in epoch), sum(line["pairs"] for line in epoch)) == (20, 100)
        assert sum(line["tokens"] for line in epoch) == training["tokens"] / 2
    assert {"loss", "point-mse", "margin-mse", "grad_norm"} <= found[0].keys()
    assert found[0]["loss"] == pytest.approx(found[0]["point-mse"] + found[0]["margin-mse"])


@pytest.mark.parametrize("name", ["pretrained", "teacher", "student"])
def test_the_facts_of_a_bundle(pipeline: Pipeline, name: str) -> None:
    folder = pipeline.folder / name
    facts = read_facts(folder)
    assert facts["kind"] == ("language-model" if name == "pretrained" else "ranker")
    assert facts["head"] == ("cls" if name == "student" else "last-token")
    assert facts["template"] == {"name": "pair" if name == "student" else "plain", "version": 1}
    assert (facts["max_tokens"], facts["max_query_tokens"]) == (48, 32)
    assert len(facts["fingerprint"]) == 32
    # the settings once as a file and once in the facts, and equal
    assert facts["config"] == yaml.safe_load((folder / "config.yaml").read_text())
    assert facts["provenance"]["packages"]["torch"] == importlib.metadata.version("torch")
    lines = tiny_runs.lines(folder)
    values = {line["step"]: next(iter(line["dev"].values())) for line in lines if "dev" in line}
    assert facts["training"] == {
        "steps": len(tiny_runs.step_lines(folder)),
        "tokens": sum(line["tokens"] for line in lines if "tokens" in line),
        "pairs": sum(line["pairs"] for line in lines if "pairs" in line),
        "distinct_pairs": {"pretrained": num_train_clicks(pipeline), "teacher": 100, "student": 100}[name],
        "seconds": facts["training"]["seconds"],
        "best_step": max(values, key=lambda step: (values[step], -step)),
        "best_value": max(values.values()),
    }


def num_train_clicks(pipeline: Pipeline) -> int:
    clicks = read_clicks(pipeline.world / "clicks.parquet")
    return sum(stable_seed("dev", click.query) / 2**64 >= 0.2 for click in clicks)


def test_the_bundle_is_that_of_the_best_step(pipeline: Pipeline, tmp_path: Path) -> None:
    """Measured anew, the saved student has the value that the journal calls the best."""
    argv = ["--out", str(tmp_path), "--judged", json.dumps(pipeline.judged("dev")), "--measures", "[nDCG@10]"]
    bundle = {"s": {"kind": "bundle", "path": str(pipeline.folder / "student")}}
    assert run_stage("eval", [*argv, "--systems", json.dumps(bundle)]) == 0
    found = json.loads((tmp_path / "s.metrics.json").read_text())
    best = read_facts(pipeline.folder / "student")["training"]["best_value"]
    assert found["measures"]["nDCG@10"] == pytest.approx(best, abs=1e-6)


def test_the_store_holds_the_scores_of_the_teacher(pipeline: Pipeline) -> None:
    store, teacher = Store(pipeline.folder / "store"), read_facts(pipeline.folder / "teacher")
    pairs = [candidate.pair for candidate in read_candidates(pipeline.candidates)]
    assert store.manifest["teacher"]["fingerprint"] == teacher["fingerprint"]
    assert (store.manifest["num_candidates"], store.manifest["num_pairs"]) == (100, len(set(pairs)))
    scores = Scorer.load(pipeline.folder / "teacher").score(pairs)
    assert store.lookup(pairs) == pytest.approx(scores, abs=1e-5)
    assert np.ptp(scores) > 0.1


def test_a_teacher_opens_in_stock_transformers_and_scores_the_same(pipeline: Pipeline) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = [row.pair for row in read_judged(pipeline.judged("test"))][:8]
    for name in ("teacher", "teacher-lora"):
        folder = pipeline.folder / name
        assert "lora" not in (folder / "config.json").read_text()
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        assert not any("lora" in key for key in model.state_dict())
        tokenizer = AutoTokenizer.from_pretrained(folder)
        scorer = Scorer.load(folder)
        expected = scorer.score(rows)
        tokens = scorer.encoder.encode(rows)
        with torch.inference_mode():
            found = [float(model(torch.from_numpy(t.ids.astype(np.int64))[None]).logits[0, 0]) for t in tokens]
        assert found == pytest.approx(expected.tolist(), abs=1e-5)
        assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_lora_moves_what_is_adapted_and_nothing_else(pipeline: Pipeline) -> None:
    before, after = (tiny_runs.weights(pipeline.folder / name) for name in ("pretrained", "teacher-lora"))
    shared = before.keys() & after.keys()
    still = {name for name in shared if torch.equal(before[name], after[name])}
    moved = shared - still
    assert {name.split(".")[-2] for name in moved} == {
        f"{part}_proj" for part in ("q", "k", "v", "o", "up", "down", "gate")
    }
    assert "model.embed_tokens.weight" in still and "model.norm.weight" in still


def test_all_weights_of_a_teacher_move(pipeline: Pipeline) -> None:
    before, after = (tiny_runs.weights(pipeline.folder / name) for name in ("pretrained", "teacher"))
    shared = before.keys() & after.keys()
    assert len(shared) > 15 and not any(torch.equal(before[name], after[name]) for name in shared)


def test_the_evaluation_and_the_report_name_every_system(pipeline: Pipeline) -> None:
    metrics = json.loads((pipeline.folder / "evaluated" / "student.metrics.json").read_text())
    assert metrics["measures"].keys() == {"nDCG@5", "nDCG@10", "PNR"}
    facts = read_facts(pipeline.folder / "student")
    assert metrics["provenance"]["fingerprint"] == facts["fingerprint"]
    assert metrics["provenance"]["training"] == facts["training"]
    assert metrics["efficiency"]["parameters"] == facts["num_parameters"]
    assert metrics["efficiency"]["bytes"] == (pipeline.folder / "student" / "model.safetensors").stat().st_size
    assert len((pipeline.folder / "evaluated" / "student.trec").read_text().splitlines()) == 30
    report = json.loads((pipeline.folder / "report" / "report.json").read_text())
    assert set(report["systems"]) == set(SYSTEMS)
    assert report["comparisons"]


# --- run again ---


def test_scoring_again_does_nothing_anew(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, argv = pipeline.commands["store"]
    before = {path: path.stat().st_mtime_ns for path in (pipeline.folder / "store").glob("*.parquet")}
    content = tiny_runs.file_bytes(pipeline.folder / "store")
    monkeypatch.setattr(Scorer, "score", lambda *_: pytest.fail("scored anew"))
    assert run_stage(stage, argv) == 0
    assert {path: path.stat().st_mtime_ns for path in (pipeline.folder / "store").glob("*.parquet")} == before
    assert tiny_runs.file_bytes(pipeline.folder / "store") == content


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--pairs_per_shard", "31"], ["pairs_per_shard: there 30, here 31"]),
        (["--teacher", "{folder}/teacher-lora"], ["teacher: ", "fingerprint"]),
        (["--candidates", "[{world}/judged.dev.parquet]"], ["input: "]),
    ],
)
def test_another_scoring_run_is_not_mixed_in(
    pipeline: Pipeline, changed: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    stage, argv = pipeline.commands["store"]
    before = tiny_runs.file_bytes(pipeline.folder / "store")
    words = [word.format(folder=pipeline.folder, world=pipeline.world) for word in changed]
    assert run_stage(stage, [*argv, *words]) == 1
    message = capsys.readouterr().err
    assert [part for part in ["the two are not mixed", *named] if part not in message] == []
    assert tiny_runs.file_bytes(pipeline.folder / "store") == before


def test_training_again_gives_the_same_bundle(pipeline: Pipeline, tmp_path: Path) -> None:
    stage, argv = pipeline.commands["student"]
    assert run_stage(stage, [*argv, "--out", str(tmp_path)]) == 0
    assert tiny_runs.step_lines(tmp_path) == tiny_runs.step_lines(pipeline.folder / "student")
    assert read_facts(tmp_path)["fingerprint"] == read_facts(pipeline.folder / "student")["fingerprint"]


def test_another_seed_gives_another_bundle(pipeline: Pipeline, tmp_path: Path) -> None:
    stage, argv = pipeline.commands["student"]
    assert run_stage(stage, [*argv, "--out", str(tmp_path), "--training.seed", "1"]) == 0
    assert tiny_runs.step_lines(tmp_path)[0] != tiny_runs.step_lines(pipeline.folder / "student")[0]


def test_a_checkpoint_of_other_settings_is_refused_before_a_model_loads(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, argv = pipeline.commands["teacher"]
    argv = [*argv, "--out", str(tmp_path), "--training.checkpoint_every", "2"]
    monkeypatch.setattr("disranker.train.engine.remove_checkpoints", lambda folder: None)
    assert run_stage(stage, argv) == 0
    settings = (tmp_path / "config.yaml").read_text()
    monkeypatch.setattr("disranker.models.build.load_tokenizer", lambda name: pytest.fail("a model was loaded"))
    assert run_stage(stage, [*argv, "--optim.learning_rate", "0.5"]) == 1
    message = capsys.readouterr().err
    assert "there  learning_rate: 0.003" in message and "here   learning_rate: 0.5" in message
    assert (tmp_path / "config.yaml").read_text() == settings


# --- exit codes ---


@pytest.mark.parametrize("name", ["pretrained", "teacher", "store", "student", "evaluated", "report"])
def test_faults_of_the_call_give_2_all_at_once_before_anything_loads(
    pipeline: Pipeline,
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, argv = pipeline.commands[name]
    monkeypatch.setattr("disranker.dist.initialize", lambda: pytest.fail("the run had begun"))
    out = tmp_path / "out"
    assert run_stage(stage, [*argv, "--out", str(out), "--no_such_field", "1", "--neither.this", "2"]) == 2
    message = capsys.readouterr().err
    assert "2 faults in the settings" in message
    assert "no_such_field = 1: no such field" in message and "neither = " in message
    assert not out.exists()


@pytest.mark.parametrize("stage", ["pretrain", "rank", "score", "distill", "eval", "report"])
def test_help_gives_0(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage(stage, ["--help"]) == 0
    assert "--out" in capsys.readouterr().out


@pytest.mark.slow
def test_a_script_ends_with_the_code(tmp_path: Path, checkout: Path) -> None:
    """As a process, not through `run_stage`: bad data gives 1, and the message is all there is on stderr."""
    (tmp_path / "run.trec").write_text("q1 Q0 d1 1 nonsense tag\n")
    (tmp_path / "c.jsonl").write_text('{"query_id": "q", "doc_id": "d", "query": "a", "title": "b", "summary": ""}\n')
    words = ["--run", str(tmp_path / "run.trec"), "--candidates", f"[{tmp_path / 'c.jsonl'}]"]
    command = [sys.executable, str(stage_script("score")), "--out", str(tmp_path / "store"), *words]
    done = subprocess.run(
        command, cwd=checkout, env=tiny_runs.environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "run.trec:1" in line and "nonsense" in line
    assert "Traceback" not in done.stderr


def bad(pipeline: Pipeline, name: str, *words: str) -> int:
    stage, argv = pipeline.commands[name]
    return run_stage(stage, [*argv, *words])


def test_bad_data_gives_1_with_file_and_line(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "judged.jsonl"
    row = {"query_id": "q", "doc_id": "d", "query": "a", "title": "b", "summary": ""}
    broken.write_text(f"{json.dumps({**row, 'label': 1})}\n{json.dumps({**row, 'doc_id': 'e', 'label': 'good'})}\n")
    for name, field in (("teacher", "judged"), ("teacher", "judged_dev"), ("evaluated", "judged")):
        assert bad(pipeline, name, "--out", str(tmp_path / "out"), f"--{field}", f"[{broken}]") == 1
        message = capsys.readouterr().err
        assert message.startswith(f"error: {broken}:2: ") and "good" in message


def test_candidates_without_a_score_give_1(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = f"[{pipeline.world / 'judged.test.parquet'}]"
    assert bad(pipeline, "student", "--out", str(tmp_path), "--candidates", others) == 1
    assert "pairs have no teacher score in" in capsys.readouterr().err


def test_what_is_no_store_or_no_bundle_gives_1(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bad(pipeline, "student", "--out", str(tmp_path / "a"), "--store", str(pipeline.folder / "teacher")) == 1
    assert "is no store" in capsys.readouterr().err
    assert bad(pipeline, "store", "--out", str(tmp_path / "b"), "--teacher", str(pipeline.folder / "store")) == 1
    assert "is no bundle" in capsys.readouterr().err
    assert bad(pipeline, "store", "--out", str(tmp_path / "c"), "--teacher", str(pipeline.folder / "pretrained")) == 1
    assert "train a ranker from it first" in capsys.readouterr().err


def test_an_unknown_dev_measure_gives_1_before_training(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bad(pipeline, "teacher", "--out", str(tmp_path), "--dev_measure", "nDGC@10") == 1
    assert "unknown measure 'nDGC@10'" in capsys.readouterr().err
    assert not (tmp_path / "metrics.jsonl").exists()


# --- click logs that are hardly any ---


def clicks(path: Path, queries: list[str]) -> list[str]:
    rows = [Click(query, f"page {row} about {query}", "a summary") for row, query in enumerate(queries)]
    write_records(path, Click, rows)
    return ["--clicks", f"[{path}]"]


def test_an_empty_click_log_gives_1(pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = clicks(tmp_path / "clicks.parquet", [])
    assert bad(pipeline, "pretrained", *words, "--out", str(tmp_path / "out")) == 1
    assert str(tmp_path / "clicks.parquet") in capsys.readouterr().err
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_clicks_of_one_query_train_without_a_dev_set(pipeline: Pipeline, tmp_path: Path) -> None:
    words = clicks(tmp_path / "clicks.parquet", ["red shoes"] * 5)
    assert bad(pipeline, "pretrained", *words, "--out", str(tmp_path / "out"), "--dev_share", "0.0") == 0
    training = read_facts(tmp_path / "out")["training"]
    assert (training["distinct_pairs"], training["best_value"], training["best_step"]) == (5, None, 5)


@pytest.mark.parametrize("length", [["--training.steps", "3"], ["--training.steps", "null", "--training.epochs", "1"]])
def test_clicks_that_are_all_held_out_give_1(
    pipeline: Pipeline, tmp_path: Path, length: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = clicks(tmp_path / "clicks.parquet", ["red shoes"] * 5)
    share = ["--dev_share", "0.999999"]
    assert bad(pipeline, "pretrained", *words, "--out", str(tmp_path / "out"), *share, *length) == 1
    assert "is left to train on: 5 usable rows" in capsys.readouterr().err


# --- further ways to run ---


def test_a_foreign_run_is_a_teacher(pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(read_candidates(pipeline.candidates))
    lines = [f"{row.query_id} Q0 {row.doc_id} {at + 1} {len(row.title)}.5 theirs\n" for at, row in enumerate(rows)]
    run = tmp_path / "theirs.trec"
    run.write_text("".join(lines))
    words = ["--candidates", json.dumps(pipeline.candidates), "--run", str(run)]
    assert run_stage("score", ["--out", str(tmp_path / "store"), *words]) == 0
    assert Store(tmp_path / "store").lookup([rows[3].pair]).tolist() == [len(rows[3].title) + 0.5]
    assert read_manifest(tmp_path / "store")["teacher"]["name"] == "theirs"
    run.write_text("".join(lines[:-1]))
    assert run_stage("score", ["--out", str(tmp_path / "other"), *words]) == 1
    named = f"has no score for 1 candidates, first: ('{rows[-1].query_id}', '{rows[-1].doc_id}')"
    assert named in capsys.readouterr().err


def test_bfloat16_trains(pipeline: Pipeline, tmp_path: Path) -> None:
    stage, argv = pipeline.commands["teacher"]
    words = ["--out", str(tmp_path), "--model.dtype", "bfloat16", "--training.steps", "4"]
    assert run_stage(stage, [*argv, *words]) == 0
    found, expected = (tiny_runs.step_lines(at) for at in (tmp_path, pipeline.folder / "teacher"))
    assert found[0]["loss"] == pytest.approx(expected[0]["loss"], abs=0.03)
    assert len(found) == 4


def test_the_texts_are_tokenized_once(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed run leaves its cache, and the next one reads it."""
    stage, argv = pipeline.commands["student"]
    argv = [*argv, "--out", str(tmp_path)]

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("disranker.train.engine.train", die)
        assert run_stage(stage, argv) == 130
    (cache,) = (tmp_path / "cache").iterdir()
    assert len(TokenTable(cache)) == 100
    monkeypatch.setattr("disranker.data.tokens.write_tokens", lambda *_: pytest.fail("tokenized again"))
    assert run_stage(stage, argv) == 0
    assert not (tmp_path / "cache").exists()


def test_a_ranker_bundle_can_be_trained_further(pipeline: Pipeline, tmp_path: Path) -> None:
    """A bundle is a model name: the head of the first training is where the second begins."""
    shutil.copytree(pipeline.folder / "teacher", tmp_path / "copy")
    stage, argv = pipeline.commands["teacher"]
    words = ["--out", str(tmp_path / "out"), "--model.name", str(tmp_path / "copy"), "--optim.learning_rate", "1e-12"]
    assert run_stage(stage, [*argv, *words, "--training.steps", "1"]) == 0
    before, after = (tiny_runs.weights(tmp_path / name) for name in ("copy", "out"))
    assert tiny_runs.largest_difference(before, after) < 1e-6
