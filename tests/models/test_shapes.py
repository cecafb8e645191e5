"""Models without data: the parameters of the real ones; and the shape that a config states beside a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from disranker import dist
from disranker.config.parts import LoraConfig, ModelConfig
from disranker.models.adapters import num_in_4_bits
from disranker.models.build import build_language_model, build_ranker_model, shape_of
from disranker.models.ranker import stock_model
from tests import tiny

LLAMA = tiny.architecture("llama", vocab_size=300, tie_word_embeddings=True)


def saved(folder: Path) -> str:
    tiny.causal_model("llama", vocab_size=300).save_pretrained(folder)
    return str(folder)


def sizes(model: Any) -> dict[str, tuple[tuple[int, ...], bool, torch.dtype]]:
    return {name: (tuple(p.shape), p.requires_grad, p.dtype) for name, p in model.named_parameters()}


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4), LoraConfig(r=4, variant="dora")])
def test_a_shape_has_the_parameters_of_the_model(lora: LoraConfig | None) -> None:
    config = ModelConfig(architecture=LLAMA, tokenizer="unused", lora=lora, gradient_checkpointing=True)
    tokenizer = tiny.prompt_tokenizer()
    language, ranker = (
        shape_of(AutoModelForCausalLM, config, tokenizer),
        shape_of(AutoModelForSequenceClassification, config, None),
    )
    assert sizes(language) == sizes(build_language_model(config, tokenizer, seed=0))
    assert sizes(ranker) == sizes(build_ranker_model(config, tokenizer, seed=0))
    assert {parameter.device.type for parameter in ranker.parameters()} == {"meta"}


def test_a_shape_is_in_bfloat16_on_a_machine_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "usable_dtype", lambda dtype: "float32")
    config = ModelConfig(architecture=LLAMA, tokenizer="unused", dtype="bfloat16")
    assert {p.dtype for p in shape_of(AutoModelForCausalLM, config, None).parameters()} == {torch.bfloat16}


def test_the_shape_of_a_name_is_in_its_config_file(tmp_path: Path) -> None:
    config = ModelConfig(name=saved(tmp_path), tokenizer="unused")
    shape = shape_of(AutoModelForCausalLM, config, None)
    assert sizes(shape) == sizes(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"its config.json is neither on this disk nor within reach"):
        shape_of(AutoModelForCausalLM, config, None)


def test_an_architecture_without_vocabulary_needs_the_tokenizer() -> None:
    shape = {name: value for name, value in LLAMA.items() if name != "vocab_size"}
    config = ModelConfig(architecture=shape, tokenizer="none")
    with pytest.raises(ValueError, match=r"none is not on this disk, and model.architecture has no vocab_size"):
        shape_of(AutoModelForCausalLM, config, None)
    tokenizer = tiny.prompt_tokenizer()
    embeddings: Any = stock_model(shape_of(AutoModelForCausalLM, config, tokenizer)).get_input_embeddings()
    assert embeddings.num_embeddings == len(tokenizer)


def test_weights_must_have_the_shape_that_stands_beside_their_name(tmp_path: Path) -> None:
    shape = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 3}
    tokenizer = tiny.prompt_tokenizer()
    config = ModelConfig(name=saved(tmp_path), architecture={**shape, "vocab_size": 299}, tokenizer="unused")
    build_language_model(config, tokenizer, seed=0)  # a row more in the vocabulary is a pad token
    config = ModelConfig(name=str(tmp_path), architecture={**shape, "num_hidden_layers": 4}, tokenizer="unused")
    with pytest.raises(ValueError, match=r"has the num_hidden_layers 3, and model.architecture says 4"):
        build_language_model(config, tokenizer, seed=0)


def test_rotary_frequencies_stay_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the stock model that serves the weights: in bfloat16 they would turn positions by another angle."""
    monkeypatch.setattr(dist, "usable_dtype", lambda dtype: dtype)
    config = ModelConfig(name=saved(tmp_path), tokenizer="unused", dtype="bfloat16")
    ours: Any = build_language_model(config, tiny.prompt_tokenizer(), seed=0).eval()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    assert ours.model.rotary_emb.inv_freq.dtype == torch.float32
    ids = torch.arange(4, 60)[None]
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_frozen_linear_layers_but_heads_will_have_4_bits() -> None:
    config = ModelConfig(architecture=LLAMA, tokenizer="unused", lora=LoraConfig(r=4))
    model = shape_of(AutoModelForSequenceClassification, config, None)
    blocks = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if ".base_layer." in name and "score" not in name
    )
    assert num_in_4_bits(model) == blocks > 0
