"""An export to open, and a place for results; plain pytest leaves this folder alone (see `make test-consumers`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from disranker.data.readers import read_judged
from disranker.data.world import write_world
from disranker.launch import run_stage
from disranker.models.bundle import save_bundle
from disranker.text.encode import PairEncoder
from disranker.text.templates import get_template
from disranker.text.vocabulary import train_pair_tokenizer
from tests.consumers.environments import COLLECTED, ENVIRONMENTS
from tests.consumers.scores import Result, write_results

if not COLLECTED:
    collect_ignore_glob = ["*.py"]

MAX_TOKENS = 256
VARIANTS = "[onnx-int8-static, openvino]"
LAYOUTS = "[flashrank, opensearch, torchscript, triton, vespa]"


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with every layout of a student with random weights, 512 positions and a limit of 256 tokens."""
    folder = tmp_path_factory.mktemp("consumers")
    write_world(
        folder,
        seed=0,
        language="mixed",
        num_clicks=1,
        judged_queries={"dev": 30},
        candidate_queries=1,
        docs_per_query=8,
    )
    judged = folder / "judged.dev.parquet"
    texts = [text for row in read_judged([judged]) for text in (row.query, row.title, row.summary)]
    tokenizer = train_pair_tokenizer(texts, vocab_size=3000)
    torch.manual_seed(5)
    config = AutoConfig.for_model(
        "bert",
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_labels=1,
        # Wide, so that the scores lie well apart and a lost token shows.
        initializer_range=0.3,
    )
    encoder = PairEncoder(tokenizer, get_template("pair"), max_tokens=MAX_TOKENS, max_query_tokens=64)
    save_bundle(folder / "student", AutoModelForSequenceClassification.from_config(config), encoder, {})
    out = folder / "export"
    arguments = ["--bundle", str(folder / "student"), "--judged", f"[{judged}]", "--out", str(out)]
    # int8 is not judged here: random weights that lie this far apart lose more by it than trained ones.
    arguments += ["--variants", VARIANTS, "--layouts", LAYOUTS, "--accept_drift", "true"]
    assert run_stage("export", arguments) == 0
    return out


@pytest.fixture(scope="session")
def results() -> Iterator[list[Result]]:
    """What each consumer gave; at the end it stands in results.md beside the environments."""
    found: list[Result] = []
    yield found
    write_results(ENVIRONMENTS / "results.md", found)
