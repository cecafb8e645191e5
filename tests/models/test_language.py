"""The language-model loss against transformers' own, and packed against alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from disranker.models.language import LanguageModel
from disranker.models.packed import pack
from disranker.text.encode import Tokens
from tests.tiny import causal_model, padded, sequences

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "granite"]  # the last one scales its logits
LENGTHS = [5, 17, 9, 17, 2, 12]


def losses(model: LanguageModel, tokens: list[Tokens]) -> Tensor:
    packed = pack(tokens)
    found: Tensor = model(packed, packed.token_type_ids[0].bool())
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_batch_is_the_sum_of_its_examples_and_transformers_own_loss(family: str) -> None:
    model = causal_model(family)
    reference = copy.deepcopy(model)
    language_model = LanguageModel(model)
    tokens = sequences(LENGTHS)
    together = losses(language_model, tokens)
    predicted = sum(len(one.ids) - one.second for one in tokens)
    assert together.shape == (predicted,)
    assert together.dtype == torch.float32

    alone = [losses(language_model, [one]).sum() for one in tokens]
    torch.testing.assert_close(together.sum() / predicted, sum(alone) / predicted, rtol=0, atol=1e-5)

    inputs = padded(tokens, model.config.pad_token_id)
    on_document = (inputs.pop("token_type_ids") == 1) & (inputs["attention_mask"] == 1)
    labels = inputs["input_ids"].masked_fill(~on_document, -100)
    theirs = reference(**inputs, labels=labels).loss
    torch.testing.assert_close(together.mean(), theirs, rtol=0, atol=1e-5)
    assert abs(theirs.item() - math.log(100)) > 0.05  # not merely an untrained model's even guess

    theirs.backward()
    together.mean().backward()
    for (name, left), right in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert left.grad is not None, name
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_example_sees_another(family: str) -> None:
    model = LanguageModel(causal_model(family))
    tokens = sequences([5, 9, 12])
    changed = [sequences([5], seed=1)[0], *tokens[1:]]
    with torch.inference_mode():
        before, after = losses(model, tokens), losses(model, changed)
    own = len(tokens[0].ids) - tokens[0].second  # the shortest example stands first
    assert (after[:own] - before[:own]).abs().min() > 1e-3
    torch.testing.assert_close(after[own:], before[own:], rtol=0, atol=5e-6)


def test_the_query_is_read_but_not_learnt() -> None:
    model = LanguageModel(causal_model("llama"))
    (one,) = sequences([12])
    with_loss = losses(model, [one])
    on_all = model(pack([one]), torch.arange(12) > 0)
    # The loss of the document's tokens is that of a plain language model on the whole; the query's are left out.
    torch.testing.assert_close(with_loss, on_all[one.second - 1 :])
    other_query = Tokens(sequences([12], seed=1)[0].ids.copy(), one.second, 0)
    other_query.ids[one.second :] = one.ids[one.second :]
    assert (losses(model, [other_query]) - with_loss).abs().max() > 1e-2


def test_a_family_that_cannot_run_packed_is_refused() -> None:
    with pytest.raises(ValueError, match="Gemma2ForCausalLM cannot run packed, which continued pretraining needs"):
        LanguageModel(causal_model("gemma2"))
