"""Models and tokenizers by name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from disranker import dist
from disranker.config.parts import LoraConfig, ModelConfig
from disranker.models.adapters import wrap_lora
from disranker.models.build import (
    build_language_model,
    build_ranker_model,
    count_parameters,
    describe,
    load_tokenizer,
    resolve_name,
)
from disranker.models.packed import pack
from disranker.models.ranker import Ranker
from tests.tiny import (
    PAIRS,
    architecture,
    classifier,
    encoder,
    pair_tokenizer,
    prompt_tokenizer,
    spread,
    tokenizer_folder,
)

BERT, LLAMA = architecture("bert"), architecture("llama", vocab_size=300)
del BERT["vocab_size"]


def built(seed: int = 0, **changed: Any) -> PreTrainedModel:
    """A fresh tiny ranker, or one with some settings changed."""
    settings = {"architecture": BERT, "tokenizer": "unused", **changed}
    return build_ranker_model(ModelConfig(**settings), pair_tokenizer(), seed=seed)


def scores(model: PreTrainedModel, *, training: bool = False) -> Tensor:
    found: Tensor = Ranker(model.train(training))(pack(encoder().encode(PAIRS)))
    return found


# ---------------------------------------------------------------------------------------------------------- names


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that ships a model folder."""
    root = tmp_path / "site" / "tiny_ranker_weights"
    (root / "model").mkdir(parents=True)
    (root / "__init__.py").write_text("raise RuntimeError('a package of weights is found, never imported')")
    monkeypatch.syspath_prepend(str(root.parent))
    return root


def test_a_folder_or_hub_name_is_left_as_it_is() -> None:
    assert resolve_name("BAAI/some-model") == {"pretrained_model_name_or_path": "BAAI/some-model"}
    assert resolve_name("/models/x") == {"pretrained_model_name_or_path": "/models/x"}


def test_a_gguf_file_is_named_within_its_folder() -> None:
    expected = {"pretrained_model_name_or_path": "/models/smol", "gguf_file": "model-q4.gguf"}
    assert resolve_name("/models/smol/model-q4.gguf") == expected


def test_a_package_name_is_its_folder_on_disk(package: Path) -> None:
    expected = {"pretrained_model_name_or_path": str(package / "model")}
    assert resolve_name("package:tiny_ranker_weights/model") == expected
    (package / "weights.gguf").touch()
    expected = {"pretrained_model_name_or_path": str(package), "gguf_file": "weights.gguf"}
    assert resolve_name("package:tiny_ranker_weights/weights.gguf") == expected


def test_a_model_and_its_tokenizer_load_from_a_package(package: Path) -> None:
    model = classifier("bert", vocab_size=len(pair_tokenizer()))
    model.save_pretrained(package / "model")
    tokenizer_folder(package / "model", pair_tokenizer())
    name = "package:tiny_ranker_weights/model"
    loaded = build_ranker_model(ModelConfig(name=name), load_tokenizer(name), seed=0)
    torch.testing.assert_close(scores(loaded), scores(model))
    assert "tiny_ranker_weights" not in sys.modules


def test_what_a_package_name_lacks_is_said(package: Path) -> None:
    with pytest.raises(ValueError, match=r"the package 'no_such_weights' is not installed; `make models`"):
        resolve_name("package:no_such_weights/model")
    with pytest.raises(ValueError, match=r"the package 'no_such_weights\.inner' is not installed"):
        resolve_name("package:no_such_weights.inner/model")
    with pytest.raises(ValueError, match="package 'tiny_ranker_weights' is installed but holds no 'other'"):
        resolve_name("package:tiny_ranker_weights/other")


# ----------------------------------------------------------------------------------------------------- tokenizers


def saved_with(folder: Path, **special: str) -> str:
    """A folder with the prompt tokenizer under other special tokens."""
    backend = prompt_tokenizer().backend_tokenizer
    return tokenizer_folder(folder, PreTrainedTokenizerFast(tokenizer_object=backend, **special))


def test_a_pad_that_is_the_end_token_gets_another(tmp_path: Path) -> None:
    name = saved_with(tmp_path, eos_token="</s>", pad_token="</s>")
    assert AutoTokenizer.from_pretrained(name).pad_token_id == AutoTokenizer.from_pretrained(name).eos_token_id
    tokenizer = load_tokenizer(name)
    assert tokenizer.eos_token == "</s>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    # There is no spare special token, so one is added.
    assert (tokenizer.pad_token, len(tokenizer)) == ("<|pad|>", len(prompt_tokenizer()) + 1)
    again = load_tokenizer(tokenizer_folder(tmp_path / "again", tokenizer))
    assert (again.pad_token_id, len(again)) == (tokenizer.pad_token_id, len(tokenizer))


def test_a_spare_special_token_is_taken_for_the_pad(tmp_path: Path) -> None:
    # As SmolLM2 has it: pad is eos, and the unknown token is free.
    name = saved_with(tmp_path, eos_token="</s>", pad_token="</s>", unk_token="<pad>")
    tokenizer = load_tokenizer(name)
    assert (tokenizer.pad_token, len(tokenizer)) == ("<pad>", len(prompt_tokenizer()))


def test_no_pad_token_gets_one_that_is_neither_begin_nor_end(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved_with(tmp_path, eos_token="</s>", bos_token="<pad>"))
    assert tokenizer.pad_token == "<|pad|>"


def test_a_good_pad_token_stays(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved_with(tmp_path, eos_token="</s>", pad_token="<pad>", unk_token="red"))
    assert tokenizer.pad_token == "<pad>"


def test_truncation_and_padding_baked_into_the_file_are_taken_out(tmp_path: Path) -> None:
    name = tokenizer_folder(tmp_path, pair_tokenizer())
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    file.write_text(json.dumps(content))
    backend = load_tokenizer(name).backend_tokenizer
    assert (backend.truncation, backend.padding) == (None, None)
    assert len(backend.encode("red shoes red shoes red shoes").ids) == 8


# --------------------------------------------------------------------------------------------------------- models


def test_an_architecture_takes_its_vocabulary_and_special_tokens_from_the_tokenizer() -> None:
    model, tokenizer = built(), pair_tokenizer()
    assert (model.config.model_type, model.config.num_labels) == ("bert", 1)
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    causal = build_language_model(ModelConfig(architecture=LLAMA, tokenizer="x"), prompt_tokenizer(), seed=0)
    assert type(causal).__name__ == "LlamaForCausalLM"
    assert (causal.config.eos_token_id, causal.config.vocab_size) == (prompt_tokenizer().eos_token_id, 300)


@pytest.mark.parametrize("name", ["pad_token_id", "eos_token_id", "num_labels"])
def test_an_architecture_names_no_special_tokens_of_its_own(name: str) -> None:
    with pytest.raises(ValueError, match=f"architecture takes {name} from the tokenizer and the head: leave it out"):
        ModelConfig(architecture={**LLAMA, name: 1}, tokenizer="x")


def test_a_seed_makes_a_model() -> None:
    first, again, other = built(seed=1), built(seed=1), built(seed=2)
    for (name, left), right in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(left, right), name
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert not torch.equal(first.bert.pooler.dense.weight, other.bert.pooler.dense.weight)


def test_a_language_model_becomes_a_ranker_with_a_fresh_head_made_by_the_seed(tmp_path: Path) -> None:
    causal = build_language_model(ModelConfig(architecture=LLAMA, tokenizer="x"), prompt_tokenizer(), seed=0)
    causal.save_pretrained(tmp_path)
    rankers = [build_ranker_model(ModelConfig(name=str(tmp_path)), prompt_tokenizer(), seed=seed) for seed in (1, 1, 2)]
    for ranker in rankers:
        for name, weight in ranker.model.state_dict().items():
            assert torch.equal(weight, causal.model.state_dict()[name])
    assert torch.equal(rankers[0].score.weight, rankers[1].score.weight)
    assert not torch.equal(rankers[0].score.weight, rankers[2].score.weight)
    assert rankers[0].score.weight.shape == (1, 32)


def test_an_added_pad_token_widens_the_embeddings_and_becomes_the_models_pad(tmp_path: Path) -> None:
    classifier("llama", vocab_size=len(prompt_tokenizer())).save_pretrained(tmp_path / "model")
    tokenizer = load_tokenizer(saved_with(tmp_path / "tokenizer", eos_token="</s>", pad_token="</s>"))
    model = build_ranker_model(ModelConfig(name=str(tmp_path / "model")), tokenizer, seed=0)
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == len(tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize("emulated", [False, True])
def test_the_type_of_the_weights(emulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "usable_dtype", lambda name: "float32" if emulated else name)
    computed = torch.float32 if emulated else torch.bfloat16
    assert {parameter.dtype for parameter in built().parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in built(dtype="bfloat16").parameters()} == {computed}


@pytest.mark.parametrize("family", ["bert", "modernbert", "distilbert", "electra"])
def test_dropout_is_overridden_everywhere(family: str) -> None:
    def difference(share: float | None) -> float:
        torch.manual_seed(0)
        model = spread(built(architecture=architecture(family, vocab_size=len(pair_tokenizer())), dropout=share))
        with torch.no_grad():
            return float((scores(model, training=True) - scores(model)).abs().max())

    assert difference(0.0) == 0.0
    assert difference(0.5) > 0.1


def test_dropout_of_a_decoder_is_on_its_attention() -> None:
    config = ModelConfig(architecture=LLAMA, tokenizer="x", dropout=0.5)
    model = spread(build_ranker_model(config, prompt_tokenizer(), seed=0))
    tokens = pack(encoder("plain").encode(PAIRS))
    with torch.no_grad():
        quiet, noisy = Ranker(model.eval())(tokens), Ranker(model.train())(tokens)
    assert (quiet - noisy).abs().max() > 0.01


@pytest.mark.parametrize("lora", [None, LoraConfig(r=2), LoraConfig(r=2, variant="dora")])
def test_gradient_checkpointing_changes_no_gradient(lora: LoraConfig | None) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = spread(built(dropout=0.0, gradient_checkpointing=checkpointing, lora=lora))
        ranker = Ranker(model.train())
        flags = {getattr(module, "gradient_checkpointing", False) for module in model.modules()}
        assert (True in flags) is checkpointing
        ranker(pack(encoder().encode(PAIRS))).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=1e-6)
    assert sum(float(gradient.abs().max()) > 1e-3 for gradient in gradients[0].values()) > 5


def test_counts_and_the_line_for_the_plan() -> None:
    model = classifier("llama")
    total = sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(model) == (total, total)
    assert describe(model) == f"llama decoder, 3 layers, 32 wide, {total:,} parameters, {total:,} trained"
    trainable, with_adapters = count_parameters(wrap_lora(model, LoraConfig(r=2)))
    assert 0 < trainable < total < with_adapters
    assert describe(classifier("bert")).startswith("bert encoder, 3 layers, 32 wide, ")
