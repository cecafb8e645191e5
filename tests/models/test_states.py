"""What is read of the layers in a packed forward, against the stock model's own states."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from disranker.config.parts import LoraConfig
from disranker.models.adapters import wrap_lora
from disranker.models.packed import Packed, pack
from disranker.models.ranker import Ranker, has_token_types
from disranker.models.states import Attention, AttentionRecorder, Layers, Outputs
from tests.tiny import classifier, padded, sequences

LENGTHS = [9, 4, 13, 4, 7]
PACKING = ["bert", "roberta", "xlm-roberta-xl", "electra", "albert", "distilbert", "modernbert", "llama", "qwen3"]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def of_sequence(row: Tensor, packed: Packed, caller: int) -> Tensor:
    """The part of a packed row that is the sequence which the caller gave at that place."""
    at = packed.order.tolist().index(caller)
    begin, end = packed.cu_seqlens[at : at + 2].tolist()
    return row[begin:end]


@pytest.mark.parametrize("family", PACKING)
def test_hidden_states_are_those_of_the_stock_model(family: str) -> None:
    model = classifier(family)
    reference, tokens = copy.deepcopy(model), sequences(LENGTHS)
    inputs = padded(tokens, model.config.pad_token_id)
    if not has_token_types(reference):
        del inputs["token_type_ids"]
    with torch.inference_mode():
        theirs = reference(**inputs, output_hidden_states=True).hidden_states
        packed = pack(tokens)
        layers = Ranker(model).read(packed, hidden_layers=[0, 2, 3]).layers
    assert layers is not None and set(layers.hidden_TH) == {0, 2, 3} and layers.attention == {}
    for layer, row in layers.hidden_TH.items():
        for caller, one in enumerate(tokens):
            expected = theirs[layer][caller, : len(one.ids)]
            torch.testing.assert_close(of_sequence(row, packed, caller), expected, rtol=1e-5, atol=2e-5)
    assert (layers.hidden_TH[2] - layers.hidden_TH[3]).abs().max() > 0.1


@pytest.mark.parametrize("family", PACKING)
def test_queries_keys_and_values_are_those_of_each_sequence_alone(family: str) -> None:
    ranker, tokens = Ranker(classifier(family)), sequences(LENGTHS)
    with torch.inference_mode():
        packed = pack(tokens)
        together = ranker.read(packed, attention_layers=[1, 3]).layers
        alone = [ranker.read(pack([one]), attention_layers=[1, 3]).layers for one in tokens]
    assert together is not None and set(together.attention) == {1, 3} and together.hidden_TH == {}
    for layer, attention in together.attention.items():
        for name in Attention._fields:
            row = getattr(attention, name)
            assert row.shape[0] == packed.num_tokens
            for caller, other in enumerate(alone):
                assert other is not None
                expected = getattr(other.attention[layer], name)
                torch.testing.assert_close(of_sequence(row, packed, caller), expected, rtol=1e-5, atol=2e-5)


def test_queries_keys_and_values_are_what_the_layer_makes_of_the_state_before_it() -> None:
    ranker = Ranker(classifier("bert"))
    with torch.inference_mode():
        layers = ranker.read(pack(sequences(LENGTHS)), hidden_layers=[1], attention_layers=[2]).layers
        assert layers is not None
        module: Any = ranker.stock.base_model.encoder.layer[1].attention.self
        for part, found in zip((module.query, module.key, module.value), layers.attention[2], strict=True):
            expected = part(layers.hidden_TH[1]).unflatten(1, (4, 8))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "modernbert", "llama", "deberta-v2"])
def test_scores_and_pooled_states_are_those_of_a_plain_forward(family: str) -> None:
    ranker, packed = Ranker(classifier(family)), pack(sequences(LENGTHS))
    layers = {"hidden_layers": [1], "attention_layers": [2]} if ranker.is_packed else {}
    with torch.inference_mode():
        scores, outputs = ranker(packed), ranker.read(packed, **layers)
        alone = [ranker.read(pack([one])).pooled_BH[0] for one in sequences(LENGTHS)]
    assert torch.equal(outputs.scores_B, scores)
    torch.testing.assert_close(outputs.pooled_BH, torch.stack(alone), rtol=0, atol=2e-5)
    assert outputs.projected_BH is None and (outputs.layers is not None) is ranker.is_packed


def test_it_is_one_forward_whatever_is_asked_for() -> None:
    ranker, calls = Ranker(classifier("bert")), []
    ranker.stock.base_model.register_forward_pre_hook(lambda *_: calls.append(1))
    outputs = ranker.read(pack(sequences(LENGTHS)), hidden_layers=[0, 1, 2, 3], attention_layers=[1, 2, 3])
    assert len(calls) == 1 and outputs.layers is not None and len(outputs.layers.attention) == 3


def test_layers_of_a_padded_model_are_refused() -> None:
    with pytest.raises(ValueError, match="a DebertaV2ForSequenceClassification does not run packed: its layers cannot"):
        Ranker(classifier("deberta-v2")).read(pack(sequences([3])), hidden_layers=[1])


def gradients(ranker: Ranker) -> tuple[Layers, dict[str, Tensor]]:
    """The states of layers, and what the sum of their squares says to the weights."""
    outputs = ranker.train().read(pack(sequences(LENGTHS)), hidden_layers=[0, 2], attention_layers=[3])
    assert outputs.layers is not None
    states = [*outputs.layers.hidden_TH.values(), *outputs.layers.attention[3]]
    sum(state.square().mean() for state in states).backward()
    return outputs.layers, {name: p.grad for name, p in ranker.named_parameters() if p.grad is not None}


def test_gradients_flow_and_checkpointing_changes_nothing() -> None:
    plain, checkpointed = (Ranker(classifier("bert", **NO_DROPOUT)) for _ in range(2))
    checkpointed.stock.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    calls: list[int] = []
    checkpointed.stock.base_model.encoder.layer[0].attention.register_forward_pre_hook(lambda *_: calls.append(1))
    (ours, our_grads), (theirs, their_grads) = gradients(plain), gradients(checkpointed)
    assert len(calls) == 2  # the layer ran again for the backward pass
    torch.testing.assert_close(ours.hidden_TH[2], theirs.hidden_TH[2])
    torch.testing.assert_close(ours.attention[3].value_TAD, theirs.attention[3].value_TAD)
    torch.testing.assert_close(our_grads, their_grads, rtol=1e-5, atol=1e-6)
    of_layers = [name for name in our_grads if ".encoder.layer." in name]
    # Layer 3 up to its queries, keys and values, everything before it, nothing behind it.
    assert any("layer.2.attention.self.value" in name for name in of_layers)
    assert not any("layer.2.output" in name or "classifier" in name for name in our_grads)
    assert all(our_grads[name].abs().max() > 0 for name in of_layers if "key.bias" not in name)


def test_adapters_are_in_what_is_read() -> None:
    ranker = Ranker(wrap_lora(classifier("bert", **NO_DROPOUT), LoraConfig(r=4, alpha=8)))
    _, grads = gradients(ranker)
    assert any("layer.2.attention.self.query.lora_B" in name for name in grads)


def test_a_closed_recorder_records_nothing() -> None:
    recorder, state = AttentionRecorder([2]), torch.zeros(1)
    for number in range(4):
        recorder.record(state + number, state, state)
    assert recorder.close()[2].query_TAD.item() == 1.0
    recorder.record(state, state, state)
    assert list(recorder.attention) == [2]


def test_outputs_are_what_deepspeed_walks() -> None:
    # A dataclass would be passed by unseen, and ZeRO-3 would partition weights that the backward pass still needs.
    outputs = Ranker(classifier("bert")).read(pack(sequences([3])), hidden_layers=[1], attention_layers=[1])
    assert isinstance(outputs, Outputs | tuple) and isinstance(outputs.layers, tuple)
    assert isinstance(outputs.layers.hidden_TH, dict) and isinstance(outputs.layers.attention[1], tuple)
