"""Operations of a step by arithmetic, held to torch's own counter, and a peak that is measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from disranker.config.parts import LoraConfig
from disranker.models.adapters import wrap_lora
from disranker.models.language import LanguageModel
from disranker.models.packed import pack
from disranker.train.throughput import Meter, flops_per_token, matmul_peak
from tests import tiny


def make_model(lora: bool) -> LanguageModel:
    stock: Any = tiny.causal_model("qwen3", head_dim=16)  # heads as wide as they like: 4 x 16, not 32
    return LanguageModel(wrap_lora(stock, LoraConfig(r=4, alpha=8)) if lora else stock).train()


@pytest.mark.parametrize("lora", [False, True])
def test_the_operations_are_those_that_torch_counts(lora: bool) -> None:
    model = make_model(lora)
    lengths = [20, 20, 7]
    packed = pack(tiny.sequences(lengths))
    predict_T = packed.token_type_ids[0].bool()
    counter = FlopCounterMode(display=False)
    with counter:
        model(packed, predict_T).sum().backward()
    products = sum(of for name, of in counter.get_flop_counts()["Global"].items() if "attention" not in str(name))
    told = flops_per_token(model, np.array(lengths), int(predict_T.sum()) / sum(lengths)) * sum(lengths)
    # 4 heads of 16, 3 layers, and half of each square, which torch counts whole or not at all
    attention = sum(6 * 3 * 64 * length**2 for length in lengths)
    # The first layer's inputs need no gradient with adapters, where it starts at the embedding: a small share.
    assert told - attention == pytest.approx(products, rel=0.06 if lora else 0.01)


def test_frozen_weights_take_four_and_trained_ones_six() -> None:
    model = make_model(lora=False)
    every = flops_per_token(model, np.array([1]), 0.0) - 6 * 3 * 64
    linear = sum(p.numel() for name, p in model.stock.base_model.named_parameters() if "proj" in name)
    assert every == 6 * linear
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert flops_per_token(model, np.array([1]), 0.0) - 6 * 3 * 64 == 4 * linear


def test_the_output_layer_counts_for_predicted_tokens_alone() -> None:
    model = make_model(lora=False)
    none, half = (flops_per_token(model, np.array([9, 4]), share) for share in (0.0, 0.5))
    assert half - none == 0.5 * 6 * 32 * tiny.VOCAB_SIZE


def test_the_peak_is_a_plausible_number() -> None:
    peak = matmul_peak(torch.float32)
    assert 1e8 < peak < 1e15


def test_what_a_step_implies(monkeypatch: pytest.MonkeyPatch) -> None:
    class Items:
        predicted_share = 0.5

        def lengths(self, epoch: int) -> np.ndarray:
            return np.array([10, 10])

    monkeypatch.setattr("disranker.train.throughput.matmul_peak", lambda dtype: 4e9)
    monkeypatch.setattr("disranker.train.throughput.flops_per_token", lambda *_: 2e6)
    items: Any = Items()
    meter = Meter(make_model(lora=False), items)
    assert meter.describe() == "4 GFLOP/s measured in float32 matrix products; 2.0 MFLOP a token"
    metrics = {"loss": 3.0, "bytes_per_token": 2.5, "tokens_per_second": 500.0}
    assert meter.derive(metrics) == pytest.approx({"bits_per_byte": 3.0 / math.log(2) / 2.5, "peak_share": 0.25})
    assert meter.derive({**metrics, "nll": 2.0})["bits_per_byte"] == pytest.approx(2.0 / math.log(2) / 2.5)
