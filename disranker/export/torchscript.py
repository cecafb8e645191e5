"""A student as TorchScript, for engines that run libtorch: traced from the same module as the ONNX file.

The file takes the inputs in order (`input_ids`, `attention_mask` and, where the model has them, `token_type_ids`, all
int64 [batch, sequence]) and gives logits [batch, 1] in fp32.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from disranker.export.manifest import INPUT_NAMES
from disranker.export.onnx import StockLogits
from disranker.export.padded import Forward, Inputs
from disranker.text.encode import PairEncoder


def write_torchscript(model: PreTrainedModel, encoder: PairEncoder, file: Path) -> tuple[str, ...]:
    """Write an encoder as one TorchScript file; the names of its inputs, in order."""
    module = StockLogits(model).eval()
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad():
        # As for ONNX: constants depend on the model alone; torch calls the format old, but engines read no other.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, module.example_inputs(encoder), strict=False)
        torch.jit.save(torch.jit.freeze(traced.eval()), str(file))
    return module.names


def torchscript_forward(file: Path) -> Forward:
    """What computes the logits with one TorchScript file, on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(file), map_location="cpu")
    num_inputs = len(list(module.graph.inputs())) - 1  # the first is the module itself

    @torch.inference_mode()
    def forward(inputs: Inputs) -> NDArray[Any]:
        logits_B1 = module(*(torch.from_numpy(inputs[name]) for name in INPUT_NAMES[:num_inputs]))
        return np.asarray(logits_B1.numpy())

    return forward
