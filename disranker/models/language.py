"""A causal language model over packed examples; only the tokens that are to be predicted reach the output layer.

Shapes: T tokens in all, N predicted tokens, V words of the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from disranker.models.packed import PACKED_ATTENTION, Packed
from disranker.models.ranker import packed_inputs, stock_model, supports_packing

if TYPE_CHECKING:
    from peft import PeftModel


class LanguageModel(nn.Module):
    """Next-token losses of packed examples by a stock `…ForCausalLM`, LoRA-wrapped or plain."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        self.model = model
        if not supports_packing(self.stock):
            raise ValueError(f"{type(self.stock).__name__} cannot run packed, which continued pretraining needs")
        self.stock.set_attn_implementation(PACKED_ATTENTION)

    @property
    def stock(self) -> PreTrainedModel:
        """The transformers model inside, without the LoRA wrapper."""
        return stock_model(self.model)

    def forward(self, packed: Packed, predict_T: Tensor) -> Tensor:
        """[N] negative log-likelihoods in nats of the tokens marked in `predict_T`, given those before them.

        The first token of an example has nothing before it, so `predict_T` must not mark it.
        """
        # Token t is predicted by the state at t - 1, which belongs to the same example.
        at_N = predict_T.nonzero()[:, 0]
        # The stock class makes the logits, for to Granite and Cohere they are more than the output layer's product.
        inputs = packed_inputs(self.stock, packed)
        logits_NV = self.stock(**inputs, packed=packed, logits_to_keep=at_N - 1).logits[0]
        return cross_entropy(logits_NV.float(), packed.input_ids[0, at_N], reduction="none")
