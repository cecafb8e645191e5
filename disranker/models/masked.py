"""A masked language model over packed examples; only the tokens that are to be predicted reach the output layer.

Shapes: T tokens in all, N predicted tokens, H hidden width, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from disranker import dist
from disranker.models.adapters import merged_weights
from disranker.models.build import resolve_name
from disranker.models.encoder_folder import save_encoder
from disranker.models.packed import PACKED_ATTENTION, Packed
from disranker.models.ranker import packed_inputs, stock_model, supports_packing

if TYPE_CHECKING:
    from peft import PeftModel

    from disranker.config.parts import ModelConfig

KIND = "masked-language-model"


class MaskedLanguageModel(nn.Module):
    """Losses of masked tokens by a stock `…ForMaskedLM`, LoRA-wrapped or plain."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        self.model = model
        if not supports_packing(self.stock):
            raise ValueError(f"{type(self.stock).__name__} cannot run packed, which the warm-up needs")
        self.stock.set_attn_implementation(PACKED_ATTENTION)

    @property
    def stock(self) -> PreTrainedModel:
        """The transformers model inside, without the LoRA wrapper."""
        return stock_model(self.model)

    def forward(self, packed: Packed, masked_T: Tensor, targets_N: Tensor) -> Tensor:
        """[N] negative log-likelihoods in nats of the tokens that stood where `masked_T` is True."""
        backbone = cast(PreTrainedModel, self.stock.base_model)
        hidden_TH = backbone(**packed_inputs(backbone, packed), packed=packed).last_hidden_state[0]
        logits_NV = vocabulary_logits(self.stock, hidden_TH[masked_T])
        return cross_entropy(logits_NV.float(), targets_N, reduction="none")


def vocabulary_logits(stock: PreTrainedModel, rows_NH: Tensor) -> Tensor:
    """[N, V] logits of hidden states through the model's own output layer.

    Raises:
        ValueError: the output layer is of a family that is not known here.
    """
    model: Any = stock  # what its head is made of, its family says
    if hasattr(model, "cls"):  # BERT
        logits_NV = model.cls(rows_NH)
    elif hasattr(model, "lm_head"):  # RoBERTa
        logits_NV = model.lm_head(rows_NH)
    elif hasattr(model, "decoder"):  # ModernBERT
        logits_NV = model.decoder(model.head(rows_NH))
    elif hasattr(model, "predictions"):  # ALBERT
        logits_NV = model.predictions(rows_NH)
    elif hasattr(model, "generator_lm_head"):  # ELECTRA
        logits_NV = model.generator_lm_head(model.generator_predictions(rows_NH))
    elif hasattr(model, "vocab_projector"):  # DistilBERT
        logits_NV = model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(rows_NH))))
    else:
        raise ValueError(f"no way known to read the output layer of a {type(stock).__name__}")
    return logits_NV


def pooler_weights(config: ModelConfig) -> dict[str, Tensor]:
    """The weights between [CLS] and a score head that the named model has, and that `…ForMaskedLM` leaves out.

    They are saved beside the warmed-up ones, as they were, for the ranker that starts there.
    """
    if config.name is None:
        return {}
    stock, info = AutoModel.from_pretrained(
        **resolve_name(config.name), dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    return {
        f"{stock.base_model_prefix}.{name}": tensor
        for name, tensor in stock.state_dict().items()
        if name.startswith("pooler.") and name not in info["missing_keys"]
    }


def save_warmed(
    out: str | Path,
    model: MaskedLanguageModel,
    pooler: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    facts: Mapping[str, Any],
) -> None:
    """Write the folder that a ranker starts from.

    Every rank calls this (ZeRO-3 gathers its partitions); rank 0 writes.
    """
    weights = merged_weights(model.model)
    if dist.is_main():
        save_encoder(out, model.stock, {**pooler, **weights}, tokenizer, {"kind": KIND, **facts})
    dist.barrier()
