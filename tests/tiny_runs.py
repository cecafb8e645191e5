"""Tiny worlds and runs for the tests of training and of the stages: a world on disk, command lines, what a run left."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from disranker.data.readers import read_clicks
from disranker.data.world import write_world
from disranker.text.vocabulary import train_pair_tokenizer, train_prompt_tokenizer

# Models this small are slower on many threads, and where another process takes a core, threads that wait for one
# another spin: on two busy cores a test was seen to take ten times as long.
torch.set_num_threads(1)

# Dropout is 0 unless a test turns it on: with it, runs that cut a step differently draw other masks.
DECODER = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
ENCODER = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def make_world(folder: Path) -> Path:
    """A world of 80 clicks, 20 + 6 + 6 judged queries and 20 candidate queries, with two tokenizers beside it."""
    write_world(
        folder,
        seed=0,
        language="en",
        num_clicks=80,
        judged_queries={"train": 20, "dev": 6, "test": 6},
        candidate_queries=20,
        docs_per_query=5,
    )
    texts = [text for click in read_clicks(folder / "clicks.parquet") for text in (click.query, click.title)]
    train_prompt_tokenizer(texts, 500).save_pretrained(folder / "decoder")
    train_pair_tokenizer(texts, 400).save_pretrained(folder / "encoder")
    return folder


def arguments(out: Path, settings: Mapping[str, Any]) -> list[str]:
    """A command line as a user writes it: `--out OUT --name value …`; what is no text stands as JSON, which is YAML."""
    words = ["--out", str(out)]
    for name, value in settings.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value, default=str)]
    return words


def fresh(tokenizer: Path, architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model that is built from nothing."""
    return {"model.tokenizer": str(tokenizer), "model.architecture": dict(architecture)}


def short_run(steps: int, **more: Any) -> dict[str, Any]:
    """The settings of a run of that many steps; `more` are fields of `training`."""
    training = {f"training.{name}": value for name, value in {"tokens_per_step": 800, "steps": steps, **more}.items()}
    return {"text.max_tokens": 48, "optim.learning_rate": 3e-3, **training}


def lines(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def step_lines(out: Path) -> list[dict[str, Any]]:
    """The lines of the steps, without the figures of speed, which no two runs share."""
    speed = ("tokens_per_second", "peak_share")
    return [{k: v for k, v in line.items() if k not in speed} for line in lines(out) if "loss" in line]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The weights of a bundle."""
    return load_file(out / "model.safetensors")


def largest_difference(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> float:
    """The largest absolute difference between two sets of weights; they must have the same names."""
    assert first.keys() == second.keys() and first
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def environment() -> dict[str, str]:
    """The environment for a process of its own: without the process group that this one may be in."""
    group = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in group}
    # One thread each: two ranks share the cores, and sums come out the same whatever their number.
    return {**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
