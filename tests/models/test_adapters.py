"""Adapters: what they train, and that the merged weights score as they do."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from disranker import dist
from disranker.config.parts import LoraConfig, ModelConfig, OptimConfig, TextConfig, TrainedStage, TrainingConfig
from disranker.models import build
from disranker.models.adapters import check_quantization, merged_weights, quantization_settings, wrap_lora
from disranker.models.build import build_ranker_model
from disranker.models.packed import pack
from disranker.models.ranker import Ranker
from tests.tiny import architecture, classifier, pair_tokenizer, prompt_tokenizer, sequences, spread

VARIANTS = ["lora", "dora", "rslora"]
ENCODERS_AND_DECODERS = ["bert", "llama", "modernbert", "distilbert", "deberta-v2"]


@pytest.mark.parametrize("family", ENCODERS_AND_DECODERS)
@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_adapters_and_the_head_alone_are_trained(family: str, variant: Any) -> None:
    model = wrap_lora(classifier(family), LoraConfig(r=2, variant=variant))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {name for name in trained if ".lora_" in name}
    heads = {name for name in trained if ".modules_to_save." in name}
    assert adapters
    assert heads
    assert trained == adapters | heads
    assert any(".lora_magnitude_vector." in name for name in adapters) is (variant == "dora")
    assert not any(".lora_" in name and (".score." in name or ".classifier." in name) for name in trained)


def test_lora_takes_the_layers_that_are_named() -> None:
    model = wrap_lora(classifier("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    layers = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if ".lora_" in name}
    assert layers == {"q_proj"}


def test_the_scale_of_a_variant() -> None:
    for variant, scale in (("lora", 8 / 4), ("dora", 8 / 4), ("rslora", 8 / 4**0.5)):
        model = wrap_lora(classifier("llama"), LoraConfig(r=4, alpha=8, variant=variant, target_modules=["q_proj"]))
        layers = [module for module in model.modules() if hasattr(module, "get_delta_weight")]
        assert {layer.scaling["default"] for layer in layers} == {scale}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ENCODERS_AND_DECODERS)
def test_merged_weights_are_the_stock_models_and_score_as_the_adapters_do(family: str, variant: Any) -> None:
    stock, wrapped = classifier(family), wrap_lora(classifier(family), LoraConfig(r=2, alpha=4, variant=variant))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:  # adapters start at zero: let them have learnt something
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * (0.3 if "modules_to_save" in name else 0.1))
    before = {name: tensor.clone() for name, tensor in wrapped.state_dict().items()}
    weights = merged_weights(wrapped)
    for name, tensor in wrapped.state_dict().items():
        assert torch.equal(tensor, before[name]), name  # merging left the model as it was

    assert set(weights) == set(stock.state_dict())
    tokens = pack(sequences([5, 17, 9, 3]))
    with torch.inference_mode():
        unlearnt = Ranker(stock.eval())(tokens)
        learnt = Ranker(wrapped.eval())(tokens)
        stock.load_state_dict(weights)
        torch.testing.assert_close(Ranker(stock)(tokens), learnt, rtol=1e-5, atol=1e-5)
    assert (learnt - unlearnt).abs().min() > 1e-3


def test_the_weights_of_a_plain_model_are_copies() -> None:
    model = classifier("bert")
    weights = merged_weights(model)
    assert set(weights) == set(model.state_dict())
    before = weights["classifier.weight"].clone()
    with torch.no_grad():
        model.classifier.weight.add_(1.0)
    assert torch.equal(weights["classifier.weight"], before)


# ---------------------------------------------------------------------------------------------------------- four bits


def test_what_four_bits_need_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(name="no/such-model", lora=LoraConfig(), quantization="nf4")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    with pytest.raises(ValueError, match=r"needs bitsandbytes: pip install 'disranker\[lora-4bit\]'"):
        build_ranker_model(config, pair_tokenizer(), seed=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found("json"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a CUDA device, and this machine has none: set it to null"):
        check_quantization(config)
    check_quantization(config.model_copy(update={"quantization": None}))


@pytest.mark.parametrize("variant", ["lora", "dora"])
@pytest.mark.parametrize("head", ["last-token", "yes-no"])
def test_four_bit_weights_are_whole_again_when_merged(
    head: Any, variant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    if not torch.cuda.is_available():  # its kernels for the CPU do as well here
        monkeypatch.setattr(build, "check_quantization", lambda config: None)
    tokenizer = prompt_tokenizer()
    shape = architecture("llama", vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128)
    fresh = ModelConfig(architecture=shape, tokenizer="x")
    spread(build.build_language_model(fresh, tokenizer, seed=0)).save_pretrained(tmp_path)
    tokens = {"yes_no_tokens": ("1", "0")} if head == "yes-no" else {}
    lora = LoraConfig(r=2, variant=variant)
    config = ModelConfig(name=str(tmp_path), head=head, quantization="nf4", lora=lora, **tokens)
    model = build_ranker_model(config, tokenizer, seed=0)
    assert {type(layer).__name__ for layer in model.modules()} >= {"Linear4bit"}
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.device))
    stock = classifier("llama", vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128)
    packed = pack(sequences([5, 17, 9, 3]))
    with torch.inference_mode():
        learnt = Ranker(model.eval())(packed.to(dist.device())).cpu()
        stock.load_state_dict(merged_weights(model))
        torch.testing.assert_close(Ranker(stock)(packed), learnt, rtol=1e-4, atol=1e-4)


def test_the_head_never_has_four_bits() -> None:
    said = json.loads(json.dumps(quantization_settings(torch.bfloat16).to_dict(), default=str))
    assert (said["load_in_4bit"], said["bnb_4bit_quant_type"], said["bnb_4bit_compute_dtype"]) == (
        True,
        "nf4",
        "bfloat16",
    )
    assert {"score", "classifier", "pooler", "lm_head"} <= set(said["llm_int8_skip_modules"])


def test_four_bits_without_adapters_or_under_zero_3_are_refused() -> None:
    with pytest.raises(ValidationError, match="quantization keeps the weights as they are: set lora too"):
        ModelConfig(name="x", quantization="nf4")
    with pytest.raises(ValidationError, match="quantization needs a name with weights in safetensors"):
        ModelConfig(name="x.gguf", quantization="nf4", lora=LoraConfig())
    with pytest.raises(ValidationError, match=r"training\.zero_stage 3 cannot partition 4-bit weights"):
        TrainedStage(
            out="x",
            model=ModelConfig(name="x", quantization="nf4", lora=LoraConfig()),
            text=TextConfig(),
            optim=OptimConfig(learning_rate=1.0),
            training=TrainingConfig(steps=1, zero_stage=3),
        )
