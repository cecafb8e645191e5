"""Model cards: what a hub reads in them, and that their code does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from disranker.config.parts import ModelConfig
from disranker.models.build import build_language_model, build_ranker_model
from disranker.models.bundle import CARD_NAME, read_facts, save_bundle, write_facts
from disranker.models.card import make_card
from disranker.models.scorer import Scorer
from tests.tiny import architecture, encoder, pair_tokenizer, prompt_tokenizer

CONFIG = {
    "model": {"name": "google-bert/bert-base-uncased"},
    "store": "runs/store",
    "candidates": ["a.parquet", "b.parquet"],
    "judged": [],
    "judged_dev": ["dev.parquet"],
    "distill": [{"name": "point-mse", "weight": 1.0}, {"name": "margin-mse", "weight": 0.5}],
    "supervised": [],
    "optim": {"learning_rate": 3e-5, "schedule": "cosine"},
    "training": {"seed": 7},
    "dev_measure": "nDCG@10",
}
TRAINING = {"steps": 1200, "tokens": 34567, "pairs": 890, "distinct_pairs": 800, "best_step": 600, "best_value": 0.5}
PROVENANCE = {"packages": {"torch": "2.13.0", "transformers": None}}


def save(folder: Path, family: str) -> Path:
    """A bundle without a history: `lm` is a language model, every other name the family of a ranker."""
    template = "pair" if family == "bert" else "plain"
    tokenizer = pair_tokenizer() if template == "pair" else prompt_tokenizer()
    shape = architecture("llama" if family == "lm" else family, vocab_size=len(tokenizer))
    config = ModelConfig(architecture=shape, tokenizer="x")
    model = (build_language_model if family == "lm" else build_ranker_model)(config, tokenizer, seed=0)
    save_bundle(folder, model, encoder(template), {})
    return folder


def card_of(folder: Path) -> str:
    return (folder / CARD_NAME).read_text("utf-8")


@pytest.mark.parametrize(
    ("family", "library", "task", "tags"),
    [
        ("bert", "sentence-transformers", "text-ranking", ["disranker", "reranker", "cross-encoder"]),
        ("llama", "transformers", "text-ranking", ["disranker", "reranker"]),
        ("lm", "transformers", "text-generation", ["disranker"]),
    ],
)
def test_a_hub_reads_what_it_is(tmp_path: Path, family: str, library: str, task: str, tags: list[str]) -> None:
    card = card_of(save(tmp_path / family, family))
    assert ModelCard(card).data.to_dict() == {"library_name": library, "pipeline_tag": task, "tags": tags}
    model_type = "bert" if family == "bert" else "llama"
    assert f"{model_type}, {read_facts(tmp_path / family)['num_parameters']:,} parameters" in card


def test_an_encoder_without_a_score_is_told_to_be_one() -> None:
    facts = {"kind": "warmed-encoder", "num_parameters": 9000, "disranker": "1", "config": CONFIG}
    card = make_card(facts, "bert")
    assert ModelCard(card).data.pipeline_tag == "feature-extraction"
    assert "It has no score yet" in card and "bert, 9,000 parameters" in card


@pytest.mark.parametrize("family", ["bert", "llama", "lm"])
def test_its_code_runs_and_gives_the_scores(tmp_path: Path, family: str) -> None:
    folder = save(tmp_path / family, family)
    blocks = re.findall(r"```python\n(.*?)```", card_of(folder), flags=re.DOTALL)
    assert len(blocks) == (2 if family == "bert" else 1)
    for block in blocks:
        *imports, call = block.replace("FOLDER", str(folder)).strip().splitlines()
        names: dict[str, Any] = {}
        exec("\n".join(imports), names)
        found = eval(call, names)
        if family != "lm":
            expected = Scorer.load(folder).score([("query", "title", "summary")])
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_it_tells_its_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path / "bert", "bert")
    facts = {**read_facts(folder), "config": CONFIG, "training": TRAINING, "provenance": PROVENANCE}
    write_facts(folder, facts)
    assert read_facts(folder) == facts
    card = card_of(folder)
    assert ModelCard(card).data.base_model == "google-bert/bert-base-uncased"
    assert card.split("|---|---|\n")[1].splitlines()[:-2] == [
        "| start | `google-bert/bert-base-uncased` |",
        "| teacher scores | `runs/store` |",
        "| candidates | `a.parquet`, `b.parquet` |",
        "| distill | 1 point-mse + 0.5 margin-mse |",
        "| optimizer | AdamW, learning rate 3e-05, cosine |",
        "| training | 1,200 steps, 34,567 tokens, 890 pairs (800 distinct), seed 7 |",
        "| dev | nDCG@10 on `dev.parquet`: 0.5000 at step 600, the one kept |",
        f"| made with | disranker {facts['disranker']}, torch 2.13.0 |",
    ]
    # The same name as that of a folder is no model of a hub; without a name the weights were fresh.
    (tmp_path / "google-bert" / "bert-base-uncased").mkdir(parents=True)
    assert "base_model" not in make_card(facts, "bert")
    assert "| start | fresh weights |" in make_card({**facts, "config": {**CONFIG, "model": {"name": None}}}, "bert")


def test_a_measure_that_is_infinite_or_was_not_taken(tmp_path: Path) -> None:
    facts = {**read_facts(save(tmp_path, "bert")), "config": CONFIG}
    assert "inf at step 600" in make_card({**facts, "training": {**TRAINING, "best_value": "inf"}}, "bert")
    assert "| dev |" not in make_card({**facts, "training": {**TRAINING, "best_value": None}}, "bert")


@pytest.mark.parametrize(
    ("facts", "row"),
    [
        ({"adopted": "BAAI/bge-reranker-base"}, "| adopted | `BAAI/bge-reranker-base` |"),
        (
            {"shrunk": {"model": "x/y", "layers": [0, 2], "tokens": 9}},
            "| shrunk | model x/y, layers [0, 2], tokens 9 |",
        ),
    ],
)
def test_one_that_was_not_trained_here(tmp_path: Path, facts: dict[str, Any], row: str) -> None:
    assert row in make_card({**read_facts(save(tmp_path, "bert")), **facts}, "bert")
