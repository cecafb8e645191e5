"""Bytes of a rank: the formulas by hand, and against the tensors of a real engine on two ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from torch import nn

from disranker.train.memory import Parameters, StateBytes, read_parameters, state_bytes
from tests import tiny, tiny_runs


def of_one_size(number: int) -> Parameters:
    """So many trained elements, in one matrix that no stage keeps whole."""
    return Parameters(matrices=(number,), vectors=(), frozen=())


@pytest.mark.parametrize(
    ("zero_stage", "weights", "gradients", "optimizer"),
    [(0, 2, 2, 12), (1, 2, 2, 12 / 8), (2, 2, 2, 12 / 8), (3, 2 / 8, 2 / 8, 12 / 8)],
)
def test_the_bytes_of_the_zero_paper(zero_stage: int, weights: float, gradients: float, optimizer: float) -> None:
    """Figure 1 of arXiv 1910.02054, for 7.5 B parameters; stage 2 keeps one matrix whole if it has a part of it."""
    number = 7_500_000_000 // 16 * 16
    found = state_bytes(of_one_size(number), zero_stage=zero_stage, world_size=8, weight_bytes=2)
    assert (found.weights, found.gradients, found.optimizer) == (
        weights * number,
        gradients * number,
        optimizer * number,
    )


def test_stage_2_keeps_the_gradients_that_reach_into_a_share() -> None:
    # A row of 40 in four shares of 10: the second share has a part of the first matrix, all of the second and third.
    parameters = Parameters(matrices=(12, 4, 4, 20), vectors=(), frozen=())
    found = state_bytes(parameters, zero_stage=2, world_size=4, weight_bytes=2)
    assert found.gradients == 2 * max(12, 12 + 4 + 4, 20, 20)
    assert found.optimizer == 12 * 10


def test_padding_makes_shares_equal() -> None:
    parameters = Parameters(matrices=(100_001,), vectors=(3,), frozen=(5,))
    cut = state_bytes(parameters, zero_stage=1, world_size=4, weight_bytes=4)
    assert cut.weights == 4 * (100_008 + 8 + 5)  # each group to a multiple of 2 * 4
    assert cut.optimizer == 12 * (100_008 + 8) // 4
    apart = state_bytes(parameters, zero_stage=3, world_size=4, weight_bytes=4)
    assert apart.weights == 4 * (25_001 + 1 + 2 + (3 + 5))  # and what is small stays whole besides
    assert apart.optimizer == 12 * (25_001 + 1)


def test_float32_is_its_own_master_without_zero() -> None:
    found = state_bytes(of_one_size(1000), zero_stage=0, world_size=1, weight_bytes=4)
    assert (found.optimizer, found.step) == (8000, 4000)
    assert state_bytes(of_one_size(1000), zero_stage=1, world_size=1, weight_bytes=4).optimizer == 12_000


def test_adapters_on_4_bits() -> None:
    parameters = Parameters(matrices=(640,), vectors=(), frozen=(64 * 256, 1000), num_4bit=64 * 256)
    found = state_bytes(parameters, zero_stage=0, world_size=1, weight_bytes=2)
    # half a byte a weight, a byte for 64 of them, 4 for 64 * 256
    assert found.weights == 64 * 256 // 2 + 256 + 4 + 2 * (1000 + 640)
    assert found.optimizer == 12 * 640


def test_the_peak_is_in_the_backward_pass_or_in_the_step_or_at_the_start() -> None:
    states = StateBytes(weights=10, gradients=10, optimizer=60, bucket=5, gathered=7, step=40, start=50)
    assert states.kept == 80
    assert states.peak(100) == 80 + 100 + 5 + 7
    assert states.peak(3) == 80 + 40
    assert StateBytes(1, 1, 1, 0, 0, 1, start=50).peak(0) == 50


def test_parameters_are_read_once_each() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3, bias=False), nn.LayerNorm(3))
    model[1].weight.requires_grad = False
    assert read_parameters(model) == Parameters(matrices=(12,), vectors=(4, 3, 3), frozen=(12,))
    decoder = tiny.causal_model("llama", tie_word_embeddings=True)
    assert read_parameters(decoder).num_all == sum(parameter.numel() for parameter in decoder.parameters())


# A decoder with a matrix that ZeRO-3 does cut, on two ranks: every tensor that the engine keeps is weighed.
PROGRAM = """
import json
import torch
from disranker import dist
from disranker.config.parts import ModelConfig, OptimConfig, TrainingConfig
from disranker.models.packed import pack
from disranker.models.ranker import Ranker
from disranker.train.engine import _start_engine
from disranker.train.memory import read_parameters, state_bytes
from tests import tiny

def weigh(tensors):
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None}
    return sum(storages.values())

dist.usable_dtype = lambda dtype: dtype  # arithmetic may be slow here, but it is that of the settings
dist.initialize()
found = []
for dtype, stage in [(dtype, stage) for dtype in ("float32", "bfloat16") for stage in (0, 1, 2, 3)]:
    classifier = tiny.classifier("llama", vocab_size=4001, num_hidden_layers=1)
    classifier.model.layers[0].mlp.requires_grad_(False)
    ranker = Ranker(classifier.to(getattr(torch, dtype)).train())
    parameters, weight_bytes = read_parameters(ranker), {"float32": 4, "bfloat16": 2}[dtype]
    said = state_bytes(parameters, zero_stage=stage, world_size=2, weight_bytes=weight_bytes)
    model = ModelConfig(name="x", dtype=dtype)
    training = TrainingConfig(steps=1, zero_stage=stage, accumulation=2)
    engine = _start_engine(ranker, model, OptimConfig(learning_rate=1e-3), training)
    kept, batch = {}, pack(tiny.sequences([5, 9]))
    for micro_batch in range(2):
        engine.backward(engine(batch).sum())
        if micro_batch == 0:
            optimizer = engine.optimizer
            held = [p.grad for p in ranker.parameters()]
            if stage == 2:
                held += [gradient for group in optimizer.all_grad_tensors.values() for gradient in group or ()]
            if stage == 3:
                held.append(optimizer.grad_partitions_flat_buffer)
            kept["gradients"] = weigh(held)
        engine.step()
    inner = getattr(optimizer, "optimizer", optimizer)
    moments = [state[name] for state in inner.state.values() for name in ("exp_avg", "exp_avg_sq")]
    masters = [p for group in inner.param_groups for p in group["params"]]
    if stage == 3:
        masters = optimizer.fp32_partitioned_groups_flat
    weights = [p.ds_tensor if stage == 3 else p for p in ranker.parameters()]
    whole = [p.data for p in ranker.parameters() if stage == 3 and p.ds_persist]
    kept["weights"] = weigh([*weights, *whole])
    kept["optimizer"] = weigh(moments) + (0 if stage == 0 and dtype == "float32" else weigh(masters))
    found.append((dtype, stage, kept, {name: getattr(said, name) for name in kept}))
    engine.destroy()
gathered = dist.gather_objects(found)
dist.print_once(json.dumps(gathered))
"""


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_engines_tensors_have_the_bytes_that_are_said() -> None:
    """Exactly, of the rank that has most, in each stage and type, with frozen weights among them."""
    port, processes = str(tiny_runs.free_port()), []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        environment = {**tiny_runs.environment(), **place, "MASTER_PORT": port, "PYTHONPATH": os.getcwd()}
        command = [sys.executable, "-c", PROGRAM]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=250)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    ranks = json.loads(next(line for line in outputs[0].splitlines() if line.startswith("[[")))
    assert len(ranks[0]) == 8
    for first, second in zip(*ranks, strict=True):
        dtype, stage, kept, said = first
        most = {name: max(kept[name], second[2][name]) for name in kept}
        assert most == said, (dtype, stage)
