"""Stage 2 with every head and adapter under every ZeRO stage: all that was trained is in a bundle that stock opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from disranker.config.parts import ModelConfig
from disranker.data.readers import read_judged
from disranker.launch import run_stage
from disranker.models import verify
from disranker.models.build import build_language_model, load_tokenizer
from disranker.models.bundle import load_encoder, read_facts, save_bundle
from disranker.models.heads import scores_from_logits
from disranker.models.scorer import Scorer
from tests import tiny_runs
from tests.stages.test_multiprocess import on_two_ranks
from tests.tiny import spread

# ZeRO-3 gathers with functions that torch has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.distributed:FutureWarning")

WAYS: dict[str, dict[str, Any]] = {
    "own-row-dora": {"model.lora": {"variant": "dora", "r": 4}},
    "label-rslora": {"model.head": "expected-label", "model.lora": {"variant": "rslora", "r": 4}},
    "yes-no-lora": {"model.head": "yes-no", "model.yes_no_tokens": ["1", "0"], "model.lora": {"r": 4}},
    "label-full": {"model.head": "expected-label", "model.gradient_checkpointing": True},
}
TEMPLATES = {"last-token": "plain", "expected-label": "label-en", "yes-no": "label-en"}


@pytest.fixture(scope="module")
def language_model(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    tokenizer = load_tokenizer(str(world / "decoder"))
    config = ModelConfig(architecture=tiny_runs.DECODER, tokenizer="x")
    spread(build_language_model(config, tokenizer, seed=0), 0.1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def words(way: str, world: Path, language_model: Path, out: Path, zero_stage: int) -> list[str]:
    settings = {
        **tiny_runs.short_run(2, tokens_per_step=2000, zero_stage=zero_stage),
        "judged": [str(world / "judged.train.parquet")],
        "model.name": str(language_model),
        "text.template": TEMPLATES[WAYS[way].get("model.head", "last-token")],
        "text.max_tokens": 120,
        **WAYS[way],
    }
    return tiny_runs.arguments(out, settings)


@pytest.fixture(scope="module")
def without_zero(world: Path, language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Way -> the bundle of one process without ZeRO, made when it is first asked for."""
    made: dict[str, Path] = {}

    def make(way: str) -> Path:
        if way not in made:
            made[way] = tmp_path_factory.mktemp(way)
            assert run_stage("rank", words(way, world, language_model, made[way], 0)) == 0
        return made[way]

    return make


def check_bundle(out: Path, world: Path, expected: Path) -> None:
    """It opens in the stock class with our scores, which are those of the other bundle."""
    assert not (out / "unchecked").exists()
    weights = tiny_runs.weights(out)
    assert not any("lora" in name or "base_layer" in name or "modules_to_save" in name for name in weights)
    assert tiny_runs.largest_difference(weights, tiny_runs.weights(expected)) < 1e-4
    pairs = [row.pair for row in read_judged([world / "judged.test.parquet"])][:6]
    scores = Scorer.load(out).score(pairs)
    np.testing.assert_allclose(scores, Scorer.load(expected).score(pairs), rtol=0, atol=1e-3)
    stock = AutoModelForSequenceClassification.from_pretrained(out).eval()
    with torch.inference_mode():
        theirs = [
            float(scores_from_logits(stock.config, stock(torch.from_numpy(tokens.ids.astype(np.int64))[None]).logits))
            for tokens in load_encoder(out, read_facts(out)).encode(pairs)
        ]
    np.testing.assert_allclose(scores, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_what_was_trained_is_in_the_bundle(way: str, world: Path, language_model: Path, without_zero: Any) -> None:
    out = without_zero(way)
    check_bundle(out, world, out)
    before, after = tiny_runs.weights(language_model), tiny_runs.weights(out)
    assert not torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])
    rows = before["model.embed_tokens.weight"][load_tokenizer(str(out)).convert_tokens_to_ids(list("01234"))]
    head = read_facts(out)["head"]
    start = {"expected-label": rows, "yes-no": rows[1:2] - rows[:1]}.get(head)
    if start is not None:  # rows of the output layer, moved by two steps
        moved = (after["score.weight"] - start).abs().max()
        assert 0.0 < moved < 0.02


@pytest.mark.parametrize("way", ["own-row-dora", pytest.param("label-rslora", marks=pytest.mark.slow)])
def test_zero_3_in_one_process_saves_the_same(
    way: str, world: Path, language_model: Path, without_zero: Any, tmp_path: Path
) -> None:
    assert run_stage("rank", words(way, world, language_model, tmp_path, 3)) == 0
    check_bundle(tmp_path, world, without_zero(way))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_every_zero_stage_in_one_process_saves_the_same(
    way: str, zero_stage: int, world: Path, language_model: Path, without_zero: Any, tmp_path: Path
) -> None:
    assert run_stage("rank", words(way, world, language_model, tmp_path, zero_stage)) == 0
    check_bundle(tmp_path, world, without_zero(way))


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("way", ["own-row-dora", "label-rslora", "yes-no-lora"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_every_zero_stage_on_two_ranks_saves_the_same(
    way: str, zero_stage: int, world: Path, language_model: Path, without_zero: Any, tmp_path: Path
) -> None:
    on_two_ranks("rank", words(way, world, language_model, tmp_path, zero_stage))
    check_bundle(tmp_path, world, without_zero(way))


def test_a_bundle_that_lost_something_ends_the_run_with_one_message(
    world: Path,
    language_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def save_wrong(out: Path, model: Any, *others: Any) -> None:
        save_bundle(out, model, *others)
        with torch.no_grad():
            model.score.weight[0].add_(0.5)

    monkeypatch.setattr(verify, "save_bundle", save_wrong)
    assert run_stage("rank", words("label-full", world, language_model, tmp_path, 0)) == 1
    message = capsys.readouterr().err
    assert "does not score as the model in memory does" in message and message.count("\n") == 1
    assert not (tmp_path / "disranker.json").exists()
