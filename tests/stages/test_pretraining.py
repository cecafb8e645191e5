"""Stage 1 by its command line: forms, general text, penalties, weights and adapters; what is at fault says so."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, PreTrainedModel

from disranker import dist
from disranker.config.pretrain import PretrainConfig
from disranker.data.readers import read_clicks, write_records
from disranker.launch import run_stage
from disranker.models.build import load_tokenizer
from disranker.models.bundle import load_encoder, read_facts
from disranker.models.language import LanguageModel
from disranker.schema import Click
from disranker.text.token_bytes import token_bytes
from disranker.train.clicked import read_examples
from disranker.train.dev import dev_likelihood
from tests import tiny_runs
from tests.stages.test_multiprocess import check_equal_runs, on_two_ranks

EVERYTHING: dict[str, Any] = {
    "objectives": {"document_given_query": 1.0, "query_given_document": 0.5, "document": 0.5},
    "replay.share": 0.2,
    "penalty": {"kind": "ewc", "weight": 10.0, "fisher_texts": 6},
    "evidence.position": {"propensities": [1.0, 0.5, 0.25]},
    "training.evaluate_every": 3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world, general text in two files, and a language model to start from."""
    made = tmp_path_factory.mktemp("pretraining")
    tiny_runs.make_world(made / "world")
    rows = [f"general text number {row} speaks of the weather and of {row % 7} trains" for row in range(60)]
    (made / "general.txt").write_text("\n".join(rows[:40]))
    (made / "other.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows[40:]))
    fresh = tiny_runs.fresh(made / "world" / "decoder", tiny_runs.DECODER)
    assert pretrain(made, "start", {**fresh, "model.name": None, "training.seed": 1}) == 0
    return made


def command(folder: Path, name: str, changed: Mapping[str, Any]) -> list[str]:
    settings = {
        "model.name": str(folder / "start"),
        "clicks": [str(folder / "world" / "clicks.parquet")],
        "dev_share": 0.2,
        **tiny_runs.short_run(6),
        **changed,
    }
    if "replay.share" in changed:
        settings["replay.texts"] = [str(folder / "general.txt")]
    words = {key: value for key, value in settings.items() if value is not None}
    return tiny_runs.arguments(folder / name, words)


def pretrain(folder: Path, name: str, changed: Mapping[str, Any]) -> int:
    return run_stage("pretrain", command(folder, name, changed))


@pytest.fixture(scope="module")
def everything(folder: Path, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A run with all there is, and what it printed."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    capture.read_global_capture()
    assert pretrain(folder, "everything", EVERYTHING) == 0
    shown, _ = capture.read_global_capture()
    return folder / "everything", shown


def dev_lines(out: Path) -> dict[int, dict[str, float]]:
    return {line["step"]: line["dev"] for line in tiny_runs.lines(out) if "dev" in line}


# --- a run of everything ---


def test_the_plan_says_what_is_learnt(everything: tuple[Path, str]) -> None:
    plan = {line.split()[0]: line for line in everything[1].splitlines() if line.startswith("  ")}
    assert (
        "50% document_given_query (plain), 25% query_given_document (query-plain), 25% document (document-plain)"
        in plan["learns"]
    )
    assert "10 clicks" in plan["held"]
    assert "20.0% of the tokens: " in plan["replay"] and "pieces of general text an epoch" in plan["replay"]
    assert "10 x ewc, Fisher information of 6 pieces at most" in plan["penalty"]
    assert plan["lengths"].endswith("0% padding, as examples are packed")
    assert "GFLOP/s measured in float32 matrix products" in plan["peak"]
    assert "cut to fit" in plan["tokens"] and "(given)" in plan["position"]


def test_perplexities_stand_before_during_and_after(everything: tuple[Path, str]) -> None:
    measured = dev_lines(everything[0])
    assert list(measured) == [0, 3, 6]
    parts = ("", "query_", "document_", "general_")
    names = {"log_likelihood", *(f"{part}{name}" for part in parts for name in ("perplexity", "bits_per_byte"))}
    assert all(values.keys() == names for values in measured.values())
    assert measured[6]["perplexity"] < measured[3]["perplexity"] < measured[0]["perplexity"]
    for values in measured.values():
        assert math.log(values["perplexity"]) == pytest.approx(-values["log_likelihood"])
    svg = (everything[0] / "perplexity.svg").read_text()
    assert all(title in svg for title in ("document given query", "query given document", "general text", "steps"))


def test_every_step_tells_its_bits_and_its_speed(everything: tuple[Path, str]) -> None:
    lines = [line for line in tiny_runs.lines(everything[0]) if "loss" in line]
    assert len(lines) == 6
    for line in lines:
        assert line["loss"] == pytest.approx(line["nll"] + 10.0 * line["penalty"], rel=1e-6)
        assert line["bits_per_byte"] == pytest.approx(line["nll"] / math.log(2.0) / line["bytes_per_token"])
        assert 0.0 < line["peak_share"] < 1.5 and line["tokens_per_second"] > 0
    assert lines[0]["penalty"] == 0.0 < lines[-1]["penalty"]
    # the first loss is that of a model that knows little of 500 tokens
    assert 4.0 < lines[0]["nll"] < 6.5


def test_the_bundle_knows_its_formats(everything: tuple[Path, str]) -> None:
    facts = read_facts(everything[0])
    assert facts["template"] == {"name": "plain", "version": 1}
    assert facts["formats"] == {
        "document_given_query": {"name": "plain", "version": 1},
        "query_given_document": {"name": "query-plain", "version": 1},
        "document": {"name": "document-plain", "version": 1},
    }
    assert not (everything[0] / "cache").exists()


def test_cutting_a_step_changes_nothing(everything: tuple[Path, str], folder: Path) -> None:
    assert pretrain(folder, "cut", {**EVERYTHING, "training.accumulation": 3, "training.zero_stage": 2}) == 0
    check_equal_runs(everything[0], folder / "cut")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_ranks_equal_one(everything: tuple[Path, str], folder: Path) -> None:
    on_two_ranks("pretrain", command(folder, "two", EVERYTHING))
    check_equal_runs(everything[0], folder / "two")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_partitioned_weights_are_measured_before_they_train(folder: Path) -> None:
    settings = {"objectives.query_given_document": 1.0, "replay.share": 0.2, "training.evaluate_every": 3}
    assert pretrain(folder, "whole", settings) == 0
    on_two_ranks("pretrain", command(folder, "parts", {**settings, "training.zero_stage": 3}))
    check_equal_runs(folder / "whole", folder / "parts")
    whole, parts = (dev_lines(folder / name) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(parts[step] == pytest.approx(whole[step], rel=1e-4) for step in whole)


def test_weights_of_one_size_are_no_weights(folder: Path) -> None:
    """A mean weight has no say: with propensities that are all alike, a run is the run without them."""
    rows = [replace(click, clicks=1) for click in read_clicks(folder / "world" / "clicks.parquet")]
    write_records(folder / "once.parquet", Click, rows)
    once = {"clicks": [str(folder / "once.parquet")]}
    assert pretrain(folder, "plain", once) == 0
    assert pretrain(folder, "alike", {**once, "evidence.position": {"propensities": [0.1, 0.1]}}) == 0
    plain, alike = (tiny_runs.step_lines(folder / name) for name in ("plain", "alike"))
    assert [line["loss"] for line in alike] == pytest.approx([line["loss"] for line in plain], rel=1e-6)
    assert tiny_runs.largest_difference(*(tiny_runs.weights(folder / name) for name in ("plain", "alike"))) < 1e-5


def test_the_general_dev_set_takes_the_place_of_the_held_out_part(folder: Path) -> None:
    general = {"general_dev": [str(folder / "other.jsonl")]}
    assert pretrain(folder, "measured", {**general, "training.steps": 2}) == 0
    assert dev_lines(folder / "measured")[0]["general_perplexity"] > 1.0
    assert pretrain(folder, "both", {**general, "replay.share": 0.5, "training.steps": 2}) == 0
    first = [dev_lines(folder / name)[0] for name in ("measured", "both")]
    assert first[0] == pytest.approx(first[1])


def test_a_penalty_holds_the_weights_back(folder: Path) -> None:
    held = {"penalty": {"kind": "l2-sp", "weight": 1000.0}, "optim.clip_norm": 1e9, "optim.weight_decay": 0.0}
    assert pretrain(folder, "held", held) == 0
    assert pretrain(folder, "free", {"optim.clip_norm": 1e9, "optim.weight_decay": 0.0}) == 0
    start, kept, free = (tiny_runs.weights(folder / name) for name in ("start", "held", "free"))

    def distance(weights: Mapping[str, Any]) -> float:
        return math.sqrt(sum(float(((weights[name] - start[name]) ** 2).sum()) for name in start))

    assert 0.0 < distance(kept) < 0.7 * distance(free)


# --- adapters ---


def reopened(out: Path, folder: Path) -> tuple[LanguageModel, Any]:
    """The saved bundle as a stock model, and what its run measured on."""
    stock = AutoModelForCausalLM.from_pretrained(out)
    assert isinstance(stock, PreTrainedModel) and not any("lora" in name for name in stock.state_dict())
    config = PretrainConfig.parse(["--config", str(out / "config.yaml")])
    dist.initialize()
    encoder = load_encoder(out, read_facts(out))
    return LanguageModel(stock.eval()), read_examples(config, folder / "again", encoder).dev


@pytest.mark.parametrize("variant", ["lora", "dora", "rslora"])
def test_merged_adapters_have_the_perplexity_of_unmerged_ones(variant: str, folder: Path, tmp_path: Path) -> None:
    lora = {"model.lora": {"r": 4, "alpha": 8, "variant": variant}, "optim.learning_rate": 0.02}
    replay = {"replay.share": 0.2}
    assert pretrain(folder, variant, {**lora, **replay, "training.evaluate_every": 3}) == 0
    measured = dev_lines(folder / variant)
    best = measured[read_facts(folder / variant)["training"]["best_step"]]
    assert abs(best["perplexity"] / measured[0]["perplexity"] - 1.0) > 1e-3  # the adapters have moved
    model, dev = reopened(folder / variant, tmp_path)
    counts = token_bytes(load_tokenizer(str(folder / variant)))
    evaluate = dev_likelihood(model, dev, counts, tokens_per_batch=800)
    assert evaluate is not None
    assert evaluate() == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("kind", ["l2-sp", "ewc"])
def test_a_penalty_on_adapters(kind: str, folder: Path) -> None:
    lora = {"model.lora": {"r": 4, "alpha": 8}, "optim.learning_rate": 0.02, "replay.share": 0.2}
    assert pretrain(folder, f"lora-{kind}", {**lora, "penalty": {"kind": kind, "weight": 1.0}}) == 0
    lines = tiny_runs.step_lines(folder / f"lora-{kind}")
    assert lines[0]["penalty"] == 0.0 < lines[-1]["penalty"]


# --- what is at fault ---


def test_one_query_alone_trains_unmeasured_or_says_that_nothing_is_held_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Click("red shoes", f"page {row} about shoes", "a summary") for row in range(5)]
    write_records(tmp_path / "one.parquet", Click, rows)
    one = {"clicks": [str(tmp_path / "one.parquet")], "dev_share": 0.01}
    assert pretrain(folder, "one", {**one, "training.steps": 2}) == 0
    assert "held out   no clicks: nothing is measured" in capsys.readouterr().out
    assert not (folder / "one" / "perplexity.svg").exists()
    assert pretrain(folder, "one", {**one, "training.evaluate_every": 1}) == 1
    assert "training.evaluate_every has nothing to measure: dev_share 0.01 holds out none" in capsys.readouterr().err


def test_a_query_longer_than_its_budget_is_cut_and_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Click("waterproof " * 60 + str(row), f"page {row}", "") for row in range(5)]
    rows += [Click(f"shoes {row}", f"page {row}", "") for row in range(5)]
    write_records(tmp_path / "long.parquet", Click, rows)
    settings = {"clicks": [str(tmp_path / "long.parquet")], "dev_share": 0.0, "text.max_query_tokens": 10}
    assert pretrain(folder, "long", {**settings, "training.steps": 1}) == 0
    assert "in 10 pairs, 50.0% cut to fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "changed", "expected"),
    [
        ('{"body": "x"}\n', {}, "no column 'text', and not both 'title' and 'summary', among 'body'"),
        ('{"text": ""}\n', {}, "holds blank texts alone"),
        ('{"text": "red shoes"}\n', {"dev_share": 0.999999}, "left to train on"),
    ],
)
def test_replay_without_text_is_named(
    content: str,
    changed: dict[str, Any],
    expected: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text(content)
    assert pretrain(folder, "bad", {"replay": {"texts": [str(path)], "share": 0.1}, **changed}) == 1
    assert expected in capsys.readouterr().err


def test_replay_that_is_all_held_out_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "general.txt"
    path.write_text("x\n")  # its hash holds it out at a share of 0.9
    code = pretrain(folder, "bad", {"replay": {"texts": [str(path)], "share": 0.1}, "dev_share": 0.9})
    assert code == 1
    assert "replay.texts leave nothing to learn: dev_share 0.9 holds out every text" in capsys.readouterr().err


def test_the_weights_of_clicks_are_those_of_the_log(folder: Path, tmp_path: Path) -> None:
    """Clicks at position 2 count for two, and a step's count is the sum of the weights of its tokens."""
    clicks = list(read_clicks(folder / "world" / "clicks.parquet"))
    settings = {"evidence.position": {"propensities": [1.0, 0.5]}, "dev_share": 0.0, "training.steps": None}
    assert pretrain(folder, "weighed", {**settings, "training.epochs": 1}) == 0
    config = PretrainConfig.parse(["--config", str(folder / "weighed" / "config.yaml")])
    encoder = load_encoder(folder / "weighed", read_facts(folder / "weighed"))
    items = read_examples(config, tmp_path, encoder).train
    raw = np.array([click.clicks * (1.0 if click.position == 1 else 2.0) for click in clicks])
    weights = raw / raw.mean()
    predicted = [int(items.batch([row], 0, 1.0).predict_T.sum()) for row in range(len(clicks))]
    found = sum(line["count"] for line in tiny_runs.step_lines(folder / "weighed"))
    assert found == pytest.approx(float(np.dot(weights, predicted)), rel=1e-5)
