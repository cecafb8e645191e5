"""A student as one ONNX file in fp32, which every runtime reads.

The stock padded model is traced, not the packed one: a consumer knows neither our attention nor our packing.  Decoders
are not exported; a teacher is served from its bundle.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from disranker.export.manifest import INPUT_NAMES
from disranker.export.padded import pad
from disranker.models.ranker import has_token_types
from disranker.schema import Pair
from disranker.text.encode import PairEncoder

MIN_OPSET, MAX_OPSET = 14, 20
"""The operator sets that torch's tracing exporter writes."""


class StockLogits(nn.Module):
    """The stock model as a function of its inputs, in the order of `names`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        # Plain matrix products: every runtime has them, and optimizers of ONNX graphs know their pattern.
        model.set_attn_implementation("eager")
        self.model = model
        self.names = INPUT_NAMES if has_token_types(model) else INPUT_NAMES[:2]

    def forward(self, *inputs: Tensor) -> Tensor:
        logits_B1: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits_B1

    def example_inputs(self, encoder: PairEncoder) -> tuple[Tensor, ...]:
        """Inputs to trace with: two pairs, one of them padded."""
        examples = [Pair("a b", "a b c", "a b c d e f g h"), Pair("a", "b", "c")]
        padded = pad(encoder.encode(examples), encoder.tokenizer.pad_token_id)
        return tuple(torch.from_numpy(padded[name]) for name in self.names)


def write_onnx(model: PreTrainedModel, encoder: PairEncoder, file: Path, *, opset: int) -> tuple[str, ...]:
    """Write an encoder as one ONNX file, inputs int64 [batch, sequence], output `logits` [batch, 1]; its input names.

    Raises:
        ValueError: the operator set is out of range.
        ImportError: onnx is not installed.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ValueError(f"opset = {opset}: the exporter writes operator sets {MIN_OPSET} to {MAX_OPSET}")
    try:
        import onnx
    except ImportError as error:
        raise ImportError("onnx is not installed: pip install 'disranker[export]'") from error

    module = StockLogits(model).eval()
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # Constants that the tracer warns of depend on the model alone; the measured drift holds them to that.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            module.example_inputs(encoder),
            str(file),
            input_names=list(module.names),
            output_names=["logits"],
            dynamic_axes={**{name: {0: "batch", 1: "sequence"} for name in module.names}, "logits": {0: "batch"}},
            opset_version=opset,
            dynamo=False,
        )
    onnx.checker.check_model(str(file), full_check=True)
    return module.names
