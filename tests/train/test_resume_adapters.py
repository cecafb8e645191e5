"""Adapters and the head beside them come out of a checkpoint as they went in, under every ZeRO stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from disranker.config.parts import LoraConfig
from disranker.models.adapters import merged_weights, wrap_lora
from disranker.models.ranker import Ranker
from tests.tiny_runs import largest_difference
from tests.train.training import Killed, killed_at, make_model, run

# ZeRO-3 gathers with functions that torch has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.distributed:FutureWarning")


def adapted(variant: Any) -> Ranker:
    """The tiny teacher with adapters, always with the same weights."""
    ranker: Any = make_model("llama-rank")
    torch.manual_seed(0)
    ranker.model = wrap_lora(ranker.stock, LoraConfig(r=4, alpha=8, variant=variant))
    return Ranker(ranker.model).train()


@pytest.mark.parametrize(
    ("variant", "zero_stage"),
    [
        ("lora", 0),
        ("dora", 1),
        pytest.param("rslora", 2, marks=pytest.mark.slow),
        pytest.param("dora", 3, marks=pytest.mark.slow),
    ],
)
def test_resume_is_exact(variant: str, zero_stage: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"zero_stage": zero_stage, "checkpoint_every": 2}
    whole = run("llama-rank", tmp_path / "whole", model=adapted(variant), **settings)
    start = merged_weights(adapted(variant).model)
    for name in ("score.weight", "model.layers.0.mlp.up_proj.weight"):
        assert not torch.equal(start[name], whole.weights[name]), name
    out = tmp_path / "killed"
    with pytest.raises(Killed):
        run("llama-rank", out, model=adapted(variant), wrap_plan=killed_at(3), **settings)
    resumed = run("llama-rank", out, model=adapted(variant), **settings)
    assert resumed.lines == whole.lines
    assert largest_difference(resumed.weights, whole.weights) == 0.0
