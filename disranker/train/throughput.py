"""How much of what the machine can multiply a run makes use of: the model's operations against a measured peak.

Operations are counted by arithmetic, not by a profiler: 2 for a multiply and add, of the linear layers and of
attention; embeddings are looked up, norms and the softmax are left out.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from disranker import dist
from disranker.data.text_items import TextItems
from disranker.models.language import LanguageModel

_SECONDS = 0.2
_SIZE, _REPEATS = {"cuda": 4096, "cpu": 1024}, {"cuda": 10, "cpu": 1}


class Meter:
    """Tells of each step what its metrics imply: bits per byte, and the share of the peak that its tokens took."""

    def __init__(self, model: LanguageModel, items: TextItems) -> None:
        """Measures the peak, which takes all ranks a moment; the lengths are those of the first epoch."""
        model_dtype = model.stock.dtype
        self._peak = matmul_peak(model_dtype)
        self._dtype = str(model_dtype).removeprefix("torch.")
        self._flops = flops_per_token(model, items.lengths(0), items.predicted_share)

    def describe(self) -> str:
        """One line for the plan of a run."""
        return (
            f"{self._peak / 1e9:,.0f} GFLOP/s measured in {self._dtype} matrix products; "
            f"{self._flops / 1e6:,.1f} MFLOP a token"
        )

    def derive(self, metrics: dict[str, float]) -> dict[str, float]:
        """`bits_per_byte` of the predicted text and `peak_share` of a step."""
        nats = metrics.get("nll", metrics["loss"])
        return {
            "bits_per_byte": nats / math.log(2.0) / metrics["bytes_per_token"],
            "peak_share": metrics["tokens_per_second"] * self._flops / self._peak,
        }


def matmul_peak(dtype: torch.dtype) -> float:
    """Operations a second of a product of two square matrices, over all ranks, at the best of 0.2 seconds of trying.

    All ranks measure at once, since they share what they run on.  It is what this machine gives under this torch, not
    what a data sheet says.
    """
    device = dist.device()
    size, repeats = _SIZE[device.type], _REPEATS[device.type]
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best, until = float("inf"), time.perf_counter() + _SECONDS
    torch.mm(left, right)  # the first product starts threads and picks kernels
    while time.perf_counter() < until or best == float("inf"):
        _wait(device)
        began = time.perf_counter()
        for _ in range(repeats):
            torch.mm(left, right)
        _wait(device)
        best = min(best, (time.perf_counter() - began) / repeats)
    return dist.sum_over_ranks([2.0 * size**3 / best])[0]


def flops_per_token(model: LanguageModel, lengths: NDArray[np.int64], predicted_share: float) -> float:
    """Operations of one training step for each of its tokens, where examples have [N] `lengths`.

    Of each weight of a linear layer 2 in the forward pass, 2 for the gradient of its input, and 2 for its own gradient
    if it is trained: 6 in all, 4 for what stands still beside adapters.  The output layer counts for the
    `predicted_share` of tokens that reach it.  Attention takes 6 x layers x width x the tokens an example has, half of
    what it would take without a causal mask.  What gradient checkpointing computes again is not counted.
    """
    stock = model.stock
    # Only predicted positions go through the output layer, whose weight may be that of the embedding.
    output = stock.get_output_embeddings()
    linear = sum(_flops(module) for module in stock.base_model.modules() if isinstance(module, nn.Linear))
    attended = float(np.square(lengths.astype(np.float64)).sum() / lengths.sum())
    config = stock.config
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 6.0 * config.num_hidden_layers * config.num_attention_heads * head_width * attended
    return linear + predicted_share * _flops(output) + attention


def _flops(layer: nn.Linear) -> float:
    # By its shape: a 4-bit weight has fewer numbers than it stands for, a partitioned one has none.
    per_weight = 6.0 if layer.weight.requires_grad else 4.0
    return per_weight * layer.in_features * layer.out_features


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
