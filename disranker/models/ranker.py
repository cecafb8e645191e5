"""A ranker: a stock transformers sequence classifier whose logits are the score, run packed.

Encoders are read at [CLS], decoders at the last token of each sequence.  The stock model stays the owner of all
weights, so what is saved opens in `AutoModelForSequenceClassification`, sentence-transformers and vLLM; only the way
through it is ours: one packed row, pooled positions alone reach the head, and the head computes in fp32.

Shapes: B sequences, T tokens in all, H hidden width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, relu
from torch.nn.utils.rnn import pad_sequence
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PreTrainedModel

from disranker.models.heads import EXPECTED_LABEL, score_head, scores_from_logits
from disranker.models.packed import PACKED_ATTENTION, Packed, pack
from disranker.models.states import AttentionRecorder, Layers, Outputs
from disranker.text.encode import Tokens

if TYPE_CHECKING:
    from peft import PeftModel

# RoBERTa and its kin count positions from padding_idx + 1.
_POSITIONS_AFTER_PADDING = (
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
)
# Families whose packed scores tests hold to the stock model's; any other is tried when it is loaded.
_PACKED_AS_STOCK = (
    "albert",
    "bert",
    "distilbert",
    "electra",
    "llama",
    "mistral",
    "modernbert",
    "modernbert-decoder",
    "qwen2",
    "qwen3",
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
)
# Families whose layers go on from their attention with a module that takes what was attended and the residual stream.
ROWS_AFTER_ATTENTION = ("bert", "camembert", "electra", "roberta", "xlm-roberta")
# Decoders whose classifier is built like an encoder's; they pool the last token all the same.
_DECODERS_WITHOUT_SCORE = ("modernbert-decoder",)


class Ranker(nn.Module):
    """Scores packed batches with a stock sequence classifier, LoRA-wrapped or plain."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        self.model = model
        stock = self.stock
        if stock.config.num_labels != 1 and score_head(stock.config) != EXPECTED_LABEL:
            raise ValueError(f"a ranker has one score, but the model has num_labels = {stock.config.num_labels}")
        if getattr(stock.config, "classifier_pooling", "cls") != "cls":
            raise ValueError("this model pools the mean of all tokens; set classifier_pooling to 'cls' in its config")
        self.is_decoder = is_decoder(stock)
        self.is_packed = supports_packing(stock)
        if self.is_packed and stock.config.model_type in _PACKED_AS_STOCK:
            stock.set_attn_implementation(PACKED_ATTENTION)
        elif self.is_packed:
            self.is_packed = self._try_packing()
        compute_head_in_float32(stock)

    @property
    def stock(self) -> PreTrainedModel:
        """The transformers model inside, without the LoRA wrapper (its layers stay in place)."""
        return stock_model(self.model)

    def forward(self, packed: Packed) -> Tensor:
        """[B] float32 scores, in the order of the sequences that were packed."""
        rows_BH = self._pooled_rows(packed)
        scores_B = score_rows(self.stock, rows_BH)
        return torch.empty_like(scores_B).index_copy(0, packed.order, scores_B)

    def score_and_pool(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """[B] float32 scores and the [B, H] pooled hidden states they are read from, in the order of the caller."""
        outputs = self.read(packed)
        return outputs.scores_B, outputs.pooled_BH

    def read(
        self, packed: Packed, *, hidden_layers: Collection[int] = (), attention_layers: Collection[int] = ()
    ) -> Outputs:
        """Scores and pooled states in the order of the caller, and states of those layers in the order of the row.

        Hidden layers go from 0, the embeddings, attention layers from 1; both up to the number of layers.

        Raises:
            ValueError: layers are asked for of a model that does not run packed.
        """
        if (hidden_layers or attention_layers) and not self.is_packed:
            raise ValueError(f"a {type(self.stock).__name__} does not run packed: its layers cannot be read")
        recorder = AttentionRecorder(attention_layers)
        asked: dict[str, Any] = {"output_hidden_states": sorted(hidden_layers)} if hidden_layers else {}
        asked |= {"recorder": recorder} if attention_layers else {}
        states, rows_BH = self._run_backbone(packed, **asked)
        layers = Layers({layer: states[layer][0] for layer in hidden_layers}, recorder.close()) if asked else None
        scores_B = score_rows(self.stock, rows_BH)
        scores_B = torch.empty_like(scores_B).index_copy(0, packed.order, scores_B)
        pooled_BH = torch.empty_like(rows_BH).index_copy(0, packed.order, rows_BH)
        return Outputs(scores_B, pooled_BH, layers=layers)

    @torch.inference_mode()
    def _try_packing(self) -> bool:
        """Replace the attention if two short sequences in one row then come out as in the stock model's padded batch.

        They would not where something besides attention looks at neighbouring tokens, or at the padding.
        """
        stock, was_training = self.stock, self.model.training
        if stock.device.type == "meta":
            return True  # there is nothing to compare: a dry run takes it for one that can
        self.model.eval()
        num_known: Any = stock.get_input_embeddings().num_embeddings
        ids = [np.arange(first, first + length, dtype=np.int32) % num_known for first, length in ((5, 4), (20, 7))]
        packed = pack([Tokens(row, 2, 0) for row in ids])
        device = next(stock.parameters()).device
        packed = packed.to(device)
        usual = stock.config._attn_implementation
        theirs = self._pooled_rows_padded(packed).float()
        stock.set_attn_implementation(PACKED_ATTENTION)
        try:
            ours = self._pooled_rows(packed).float()
        except (RuntimeError, TypeError, ValueError):  # it takes no such row
            ours = torch.full_like(theirs, torch.nan)
        self.model.train(was_training)
        tolerance = (1e-4 if stock.dtype == torch.float32 else 0.05) * float(theirs.abs().max())
        if bool((ours - theirs).abs().max() <= tolerance):
            return True
        stock.set_attn_implementation(usual)
        return False

    def _pooled_rows(self, packed: Packed) -> Tensor:
        return self._run_backbone(packed)[1]

    def _run_backbone(self, packed: Packed, **asked: Any) -> tuple[Any, Tensor]:
        """Hidden states by layer, [1, T, H] each, if they are asked for, and the [B, H] rows at pooled positions."""
        if not self.is_packed:
            return None, self._pooled_rows_padded(packed)
        at = (packed.cu_seqlens[1:] - 1 if self.is_decoder else packed.cu_seqlens[:-1]).long()
        last = None if "output_hidden_states" in asked else self._last_attention_output
        with nullcontext() if last is None else _only_rows(last, at):
            output = self.stock.base_model(**packed_inputs(self.stock, packed), packed=packed, **asked)
        hidden_TH = output.last_hidden_state[0]
        return getattr(output, "hidden_states", None), hidden_TH[at] if last is None else hidden_TH

    @property
    def _last_attention_output(self) -> nn.Module | None:
        """The module of the last layer from which on every token is on its own, if it can be told rows; else None."""
        # A forward that is computed again for the backward would not find the rows.
        recomputed = self.training and getattr(self.stock, "is_activation_checkpointing", False)
        if recomputed or self.stock.config.model_type not in ROWS_AFTER_ATTENTION:
            return None
        backbone: Any = self.stock.base_model
        last: nn.Module = backbone.encoder.layer[-1].attention.output
        return last

    def _pooled_rows_padded(self, packed: Packed) -> Tensor:
        """The same rows through a padded batch, for families whose attention cannot be replaced (DeBERTa)."""
        lengths = packed.cu_seqlens.diff().tolist()
        # The pad token and no other: convolutions (MobileBERT) look one token past the end.
        pad = getattr(self.stock.config, "pad_token_id", None) or 0
        ids_BL = pad_sequence(list(packed.input_ids[0].split(lengths)), batch_first=True, padding_value=pad)
        types_BL = pad_sequence(list(packed.token_type_ids[0].split(lengths)), batch_first=True)
        mask_BL = pad_sequence([ids_BL.new_ones(length) for length in lengths], batch_first=True)
        inputs: dict[str, Tensor] = {"input_ids": ids_BL, "attention_mask": mask_BL}
        if has_token_types(self.stock):
            inputs["token_type_ids"] = types_BL
        hidden_BLH = self.stock.base_model(**inputs).last_hidden_state
        at = packed.cu_seqlens.diff() - 1 if self.is_decoder else torch.zeros_like(packed.cu_seqlens[:-1])
        rows_BH: Tensor = hidden_BLH[torch.arange(len(lengths), device=at.device), at.long()]
        return rows_BH


@contextmanager
def _only_rows(module: nn.Module, at_B: Tensor) -> Iterator[None]:
    """Within, a module and all behind it computes those rows of its [1, T, H] inputs and no others."""
    handle = module.register_forward_pre_hook(lambda _, states: tuple(state[:, at_B] for state in states))
    try:
        yield
    finally:
        handle.remove()


def stock_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model, out of its LoRA wrapper if it has one."""
    return cast(PreTrainedModel, model if isinstance(model, PreTrainedModel) else model.get_base_model())


def packed_inputs(stock: PreTrainedModel, packed: Packed) -> dict[str, Any]:
    """The arguments with which a stock backbone reads a packed row."""
    position_ids = packed.position_ids
    if stock.config.model_type in _POSITIONS_AFTER_PADDING:
        position_ids = position_ids + stock.config.pad_token_id + 1
    inputs: dict[str, Any] = {"input_ids": packed.input_ids, "position_ids": position_ids}
    if has_token_types(stock):
        inputs["token_type_ids"] = packed.token_type_ids
    if is_decoder(stock):
        inputs["use_cache"] = False
    return inputs


def is_decoder(stock: PreTrainedModel) -> bool:
    """Whether the model reads left to right, so that only its last token has seen the whole pair."""
    # RoBERTa's masked language model has an lm_head, too.
    fills_in_masks = type(stock.config) in MODEL_FOR_MASKED_LM_MAPPING
    by_head = hasattr(stock, "score") or (hasattr(stock, "lm_head") and not fills_in_masks)
    return by_head or stock.config.model_type in _DECODERS_WITHOUT_SCORE


def supports_packing(stock: PreTrainedModel) -> bool:
    """Whether sequences of one row stay apart and attention is plain.

    That is: the family routes its attention through transformers' attention interface, without a cap on the logits and
    without sinks, and nothing but attention mixes neighbouring tokens (convolutions, linear or chunked attention).
    """
    config = stock.config
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    sinks = any(hasattr(module, "sinks") for module in stock.modules())
    layer_types = set(getattr(config, "layer_types", None) or ())
    mixes = bool(getattr(config, "trigram_input", False)) or not layer_types <= {"full_attention", "sliding_attention"}
    return bool(getattr(stock, "_supports_attention_backend", False)) and not (capped or sinks or mixes)


def num_positions(stock: PreTrainedModel) -> int | None:
    """Tokens of the longest sequence that the model has positions for; None where the family has no limit."""
    limit: int | None = getattr(stock.config, "max_position_embeddings", None)
    if limit is not None and stock.config.model_type in _POSITIONS_AFTER_PADDING:
        limit -= stock.config.pad_token_id + 1
    return limit


def has_token_types(stock: PreTrainedModel) -> bool:
    """Whether the model was made for two token types (RoBERTa has one, ModernBERT and decoders none)."""
    return getattr(stock.config, "type_vocab_size", 0) > 1


def score_rows(stock: PreTrainedModel, rows_BH: Tensor) -> Tensor:
    """[B] scores of pooled hidden states through the model's own head modules.

    Raises:
        ValueError: the head is of a family that is not known here.
    """
    model: Any = stock  # what its head is made of, its family says
    if hasattr(model, "score"):  # Llama, Qwen, …
        logits = model.score(rows_BH)
    elif getattr(model.base_model, "pooler_activation", None) is not None:  # ALBERT: its pooler is a bare linear layer
        backbone = model.base_model
        logits = model.classifier(model.dropout(backbone.pooler_activation(backbone.pooler(rows_BH))))
    elif hasattr(model.base_model, "pooler") and model.base_model.pooler is not None:  # BERT
        logits = model.classifier(model.dropout(model.base_model.pooler(rows_BH[:, None])))
    elif hasattr(model, "pooler"):  # DeBERTa
        logits = model.classifier(model.dropout(model.pooler(rows_BH[:, None])))
    elif hasattr(model, "head"):  # ModernBERT
        logits = model.classifier(model.drop(model.head(rows_BH)))
    elif hasattr(model, "pre_classifier"):  # DistilBERT
        logits = model.classifier(model.dropout(relu(model.pre_classifier(rows_BH))))
    elif hasattr(model.classifier, "out_proj"):  # RoBERTa, ELECTRA
        logits = model.classifier(rows_BH[:, None])
    else:
        raise ValueError(f"no way known to read the score head of a {type(stock).__name__}")
    return scores_from_logits(stock.config, logits)


class Float32Linear(nn.Linear):
    """A linear layer that computes in fp32 whatever its weights are: bf16 scores saturate and tie."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return linear(input.float(), self.weight.float(), bias)


class Float32LayerNorm(nn.LayerNorm):
    """A layer norm that computes in fp32 whatever its weights are."""

    def forward(self, input: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps)


def compute_head_in_float32(stock: PreTrainedModel) -> None:
    """Let every linear layer and layer norm behind the backbone compute in fp32; names and weights stay."""
    heads = [child for child in stock.children() if child is not stock.base_model]
    pooler = getattr(stock.base_model, "pooler", None)
    for head in [*heads, pooler]:
        for module in head.modules() if head is not None else ():
            # The class alone changes: parameters, their names and their ZeRO partitions are left as they are.
            if type(module) is nn.Linear:
                module.__class__ = Float32Linear
            elif type(module) is nn.LayerNorm:
                module.__class__ = Float32LayerNorm
