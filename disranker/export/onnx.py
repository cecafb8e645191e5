"""A student as one ONNX file in fp32, which every runtime reads.

The stock padded model is traced, not the packed one: a consumer knows neither our attention nor our packing.  Its last
layer computes the row that is read alone, where the family is known, which changes no score.  Decoders are not
exported; a teacher is served from its bundle.

Shapes: B sequences, T tokens of the longest, A attention heads, D head width, H hidden width.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from disranker.export.manifest import INPUT_NAMES
from disranker.export.padded import pad
from disranker.models.ranker import ROWS_AFTER_ATTENTION, has_token_types
from disranker.schema import Pair
from disranker.text.encode import PairEncoder

MIN_OPSET, MAX_OPSET = 14, 20
"""The operator sets that torch's tracing exporter writes."""


class StockLogits(nn.Module):
    """The stock model as a function of its inputs, in the order of `names`; its last layer is changed in place."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        # Plain matrix products: every runtime has them, and optimizers of ONNX graphs know their pattern.
        model.set_attn_implementation("eager")
        if model.config.model_type in ROWS_AFTER_ATTENTION:
            _attend_from_first_row(model)
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


class FirstRowAttention(nn.Module):
    """The self-attention of a layer from the first row alone, with the weights of the stock one: [B, 1, H]."""

    def __init__(self, stock: nn.Module) -> None:
        super().__init__()
        self.stock = stock

    def forward(self, hidden_BTH: Tensor, attention_mask: Tensor | None = None, **others: Any) -> tuple[Tensor, None]:
        stock: Any = self.stock

        def heads(rows: Tensor) -> Tensor:
            return rows.view(rows.shape[0], -1, stock.num_attention_heads, stock.attention_head_size).transpose(1, 2)

        query_BA1D = heads(stock.query(hidden_BTH[:, :1]))
        weights_BA1T = query_BA1D @ heads(stock.key(hidden_BTH)).transpose(2, 3) * stock.scaling
        if attention_mask is not None:
            weights_BA1T = weights_BA1T + attention_mask[:, :, :1]
        attended_BA1D = weights_BA1T.softmax(-1) @ heads(stock.value(hidden_BTH))
        return attended_BA1D.transpose(1, 2).reshape(hidden_BTH.shape[0], 1, -1), None


def _attend_from_first_row(model: PreTrainedModel) -> None:
    """What follows the attention of the last layer is done for each row by itself, so one row is enough."""
    backbone: Any = model.base_model
    attention = backbone.encoder.layer[-1].attention
    if isinstance(attention.self, FirstRowAttention):
        return  # the same model is traced twice, for ONNX and for TorchScript
    attention.self = FirstRowAttention(attention.self)
    attention.output.register_forward_pre_hook(lambda _, inputs: (inputs[0], inputs[1][:, :1]))


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
