"""The masked-language-model loss against transformers' own, and what of the model is saved."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification
from transformers import PreTrainedModel as Stock

from disranker.config.parts import ModelConfig
from disranker.models.build import build_masked_model
from disranker.models.bundle import load_bundle, read_facts
from disranker.models.masked import MaskedLanguageModel, pooler_weights, save_warmed
from disranker.models.packed import pack
from disranker.text.encode import Tokens
from tests.tiny import FAMILIES, causal_model, padded, pair_tokenizer, prompt_tokenizer, sequences, spread

LENGTHS = [5, 17, 9, 17, 2, 12]


def masked_model(family: str, **changed: Any) -> Stock:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**FAMILIES[family], **changed})
    return spread(AutoModelForMaskedLM.from_config(config)).eval()


def hidden_in(tokens: list[Tokens]) -> list[np.ndarray]:
    """True where a token of each sequence is to be predicted: every third one."""
    return [np.arange(len(one.ids)) % 3 == 1 for one in tokens]


def losses(model: MaskedLanguageModel, tokens: list[Tokens]) -> Tensor:
    packed = pack(tokens)
    hidden = hidden_in(tokens)
    masked_T = torch.from_numpy(np.concatenate([hidden[index] for index in packed.order.tolist()]))
    found: Tensor = model(packed, masked_T, packed.input_ids[0][masked_T])
    return found


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "albert", "distilbert", "modernbert"])
def test_a_packed_batch_has_transformers_own_loss(family: str) -> None:
    model = masked_model(family)
    reference = copy.deepcopy(model)
    tokens = sequences(LENGTHS)
    together = losses(MaskedLanguageModel(model), tokens)
    assert together.dtype == torch.float32 and together.shape == (sum(int(row.sum()) for row in hidden_in(tokens)),)

    inputs = padded(tokens, model.config.pad_token_id)
    if getattr(model.config, "type_vocab_size", 0) < 2:
        del inputs["token_type_ids"]
    labels = torch.full_like(inputs["input_ids"], -100)
    for row, hidden in enumerate(hidden_in(tokens)):
        at = torch.from_numpy(np.flatnonzero(hidden))
        labels[row, at] = inputs["input_ids"][row, at]
    theirs = reference(**inputs, labels=labels).loss
    torch.testing.assert_close(together.mean(), theirs, rtol=0, atol=1e-5)
    assert together.std() > 0.05  # not merely an untrained model's even guess

    theirs.backward()
    together.mean().backward()
    for (name, left), right in zip(model.named_parameters(), reference.parameters(), strict=True):
        if right.grad is None:
            assert left.grad is None, name
        else:
            assert left.grad is not None, name
            torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-4)


def test_only_hidden_tokens_reach_the_output_layer() -> None:
    model = MaskedLanguageModel(masked_model("bert"))
    rows = []
    output: Any = model.stock.get_output_embeddings()
    output.register_forward_hook(lambda module, args, logits: rows.append(logits.shape[0]))
    tokens = sequences(LENGTHS)
    losses(model, tokens)
    assert rows == [sum(int(row.sum()) for row in hidden_in(tokens))]


def test_a_batch_without_hidden_tokens_has_a_loss_of_nothing() -> None:
    model = MaskedLanguageModel(masked_model("bert"))
    packed = pack(sequences([4, 6]))
    nothing = torch.zeros(10, dtype=torch.bool)
    found = model(packed, nothing, packed.input_ids[0][nothing])
    found.sum().backward()
    assert found.shape == (0,) and found.sum().item() == 0.0


def test_families_that_cannot() -> None:
    with pytest.raises(ValueError, match="DebertaV2ForMaskedLM cannot run packed, which the warm-up needs"):
        MaskedLanguageModel(masked_model("deberta-v2"))


def test_decoders_and_tokenizers_without_a_mask_are_refused(tmp_path: Path) -> None:
    llama = {name: value for name, value in FAMILIES["llama"].items() if name != "pad_token_id"}
    fresh = ModelConfig(architecture=llama, tokenizer="t")
    with pytest.raises(ValueError, match=r"model\.architecture is a llama, and this is for encoders"):
        build_masked_model(fresh, pair_tokenizer(), seed=0)
    causal_model("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} is a llama, and this is for encoders"):
        build_masked_model(ModelConfig(name=str(tmp_path)), pair_tokenizer(), seed=0)
    bert = {name: value for name, value in FAMILIES["bert"].items() if name != "pad_token_id"}
    with pytest.raises(ValueError, match="the tokenizer t has no mask token"):
        build_masked_model(ModelConfig(architecture=bert, tokenizer="t"), prompt_tokenizer(), seed=0)


def test_what_is_saved_starts_a_ranker_with_all_its_weights(tmp_path: Path) -> None:
    """Also with the pooler, which stands between [CLS] and the score and is no part of a masked language model."""
    vocab = len(pair_tokenizer())
    source = spread(AutoModel.from_config(AutoConfig.for_model(**{**FAMILIES["bert"], "vocab_size": vocab})))
    source.save_pretrained(tmp_path / "source")
    config = ModelConfig(name=str(tmp_path / "source"))
    model = MaskedLanguageModel(build_masked_model(config, pair_tokenizer(), seed=0))
    with torch.no_grad():
        model.stock.base_model.encoder.layer[0].output.dense.weight.fill_(0.5)  # as if it had been trained
    save_warmed(tmp_path / "out", model, pooler_weights(config), pair_tokenizer(), {"config": {}})
    ranker, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", num_labels=1, output_loading_info=True
    )
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(ranker.bert.pooler.dense.weight, source.pooler.dense.weight)
    assert (ranker.bert.encoder.layer[0].output.dense.weight == 0.5).all()
    # and the next warm-up goes on with the output layer of this one
    names = set(load_file(tmp_path / "out" / "model.safetensors"))
    assert "cls.predictions.transform.dense.weight" in names
    facts = read_facts(tmp_path / "out")
    assert facts["kind"] == "masked-language-model" and len(facts["fingerprint"]) == 32
    with pytest.raises(ValueError, match="is a masked-language-model bundle, which has no score"):
        load_bundle(tmp_path / "out", dtype="float32")


def test_a_model_without_a_pooler_gets_none(tmp_path: Path) -> None:
    masked_model("bert").save_pretrained(tmp_path)
    assert pooler_weights(ModelConfig(name=str(tmp_path))) == {}
    assert pooler_weights(ModelConfig(architecture={"model_type": "bert"}, tokenizer="t")) == {}
