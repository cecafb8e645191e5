"""Score heads of decoders: the rows behind the last token, and how their logits become one score.

Every head is the linear head, without bias, of an ordinary transformers sequence classifier, so a bundle opens in stock
classes and in vLLM:

    last-token       one row of its own:                     score = row · h                (arXiv 2411.04539)
    yes-no           one row, W[yes] - W[no]:                score = logit(yes) - logit(no)       (arXiv 2506.05176)
    expected-label   a row W[label] for each label token:    score = sum_i i * softmax(logits)_i  (arXiv 2310.14122)

where h is the last token's state and W the output layer of the language model.  The name of a head other than
last-token stands in the model's config as `score_head`, so whoever has the model knows how to read it.  Encoders have
heads of their own, which are no subject of this module.

Shapes: B sequences, L labels, H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

if TYPE_CHECKING:
    from disranker.config.parts import ModelConfig

LAST_TOKEN, EXPECTED_LABEL, YES_NO = "last-token", "expected-label", "yes-no"


def score_head(config: Any) -> str:
    """The head that a decoder's transformers config names: last-token unless it says otherwise."""
    name: str = getattr(config, "score_head", LAST_TOKEN)
    return name


def scores_from_logits(config: Any, logits_BL: Tensor) -> Tensor:
    """[B] float32 scores from a stock classifier's logits, whose transformers config names the head."""
    logits_BL = logits_BL.float()
    if score_head(config) != EXPECTED_LABEL:
        return logits_BL.squeeze(-1)
    labels_L = torch.arange(logits_BL.shape[-1], device=logits_BL.device, dtype=torch.float32)
    return logits_BL.softmax(dim=-1) @ labels_L


def head_tokens(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the tokens whose logits a head reads: yes and no, or the labels from 0 on.

    Raises:
        ValueError: one of them is not one token of this tokenizer, or two are the same.
    """
    setting = "yes_no_tokens" if config.head == YES_NO else "label_tokens"
    texts: list[str] = list(getattr(config, setting))
    ids = [_one_token(tokenizer, text, f"model.{setting}") for text in texts]
    if len(set(ids)) < len(ids):
        raise ValueError(f"model.{setting}: two of {texts} are the same token for this tokenizer: {ids}")
    return ids


def _one_token(tokenizer: PreTrainedTokenizerBase, text: str, setting: str) -> int:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return ids[0]
    # SentencePiece puts a blank before a text that begins; within a prompt the bare piece is what follows.
    piece: int | None = tokenizer.get_vocab().get(text)
    if piece is not None:
        return piece
    pieces = tokenizer.convert_ids_to_tokens(ids)
    raise ValueError(f"{setting}: {text!r} must be one token, but this tokenizer splits it into {pieces}")


def classifier_from_language_model(
    causal: PreTrainedModel, head: str, token_ids: list[int], label_names: list[str]
) -> PreTrainedModel:
    """The stock sequence classifier on the language model's backbone, which is shared; its rows are the output layer's.

    Raises:
        ValueError: the family has no plain linear head behind its last token, or its logits are more than W · h.
    """
    config = causal.config
    config.num_labels = 1 if head == YES_NO else len(token_ids)
    config.score_head = head
    if head == EXPECTED_LABEL:
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: label for label, name in enumerate(label_names)}
    with torch.device("meta"):  # its own backbone is thrown away at once
        stock: Any = AutoModelForSequenceClassification.from_config(config)
    if not hasattr(stock, "score") or stock.score.bias is not None:
        raise ValueError(f"model.head {head} needs a decoder; {type(stock).__name__} has a head of another kind")
    rows_VH: Tensor = causal.get_output_embeddings().weight.detach()
    # In float32, so that the difference of two bfloat16 rows is exact.
    rows_LH = rows_VH[token_ids].float()
    _check_logits(causal, rows_LH, token_ids)
    weight = rows_LH[:1] - rows_LH[1:] if head == YES_NO else rows_LH
    stock.score = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device)
    with torch.no_grad():
        stock.score.weight.copy_(weight)
    setattr(stock, stock.base_model_prefix, causal.base_model)
    stock.is_loaded_in_4bit = getattr(causal, "is_loaded_in_4bit", False)  # by this peft knows what it adapts
    classifier: PreTrainedModel = stock
    return classifier.train(causal.training)


@torch.inference_mode()
def _check_logits(causal: PreTrainedModel, rows_LH: Tensor, token_ids: list[int]) -> None:
    """Make sure that the logits are W · h and nothing more: Phi has a bias, Granite a scale, Gemma 2 a cap."""
    probe = torch.tensor([token_ids], device=rows_LH.device)
    was_training = causal.training
    causal.eval()
    logits_L = causal(probe).logits[0, -1, token_ids].float()
    rows_L = rows_LH @ causal.base_model(probe).last_hidden_state[0, -1].float()
    causal.train(was_training)
    # bfloat16 keeps 8 bits of a logit; a bias, a scale or a cap that matters is far larger.
    tolerance = 1e-4 if causal.dtype == torch.float32 else 0.02
    if not torch.allclose(logits_L, rows_L, rtol=0.0, atol=tolerance * max(1.0, float(rows_L.abs().max()))):
        raise ValueError(
            f"the logits of a {type(causal).__name__} are more than its output layer times the last state (a bias, a "
            "scale or a cap), so no classifier of stock transformers has them; use model.head last-token"
        )
