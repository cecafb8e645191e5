"""Models and tokenizers by name: a folder, a hub name, `package:PACKAGE/FOLDER`, or an architecture built fresh.

Nothing is fetched behind the user's back: folders and packages stay local, hub names go through transformers as usual;
`trust_remote_code` is off and only safetensors (or a GGUF file, named as such) are read.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from disranker import dist
from disranker.models.adapters import check_quantization, quantization_settings, wrap_lora
from disranker.models.heads import EXPECTED_LABEL, LAST_TOKEN, classifier_from_language_model, head_tokens, score_head
from disranker.models.ranker import is_decoder, stock_model

if TYPE_CHECKING:
    from peft import PeftModel

    from disranker.config.parts import ModelConfig


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of `float32` or `bfloat16`, as far as this machine computes in it."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dist.usable_dtype(name)]


def resolve_name(name: str) -> dict[str, str]:
    """The `from_pretrained` arguments of a model name: a path or hub name, and the GGUF file if it names one.

    Raises:
        ValueError: a `package:` name whose package or folder is not installed.
    """
    if name.startswith("package:"):
        package, _, inner = name.removeprefix("package:").partition("/")
        # A dotted name is no name of an installed package, and looking for it would import the part before the dot.
        found = None if "." in package else importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise ValueError(f"{name}: the package {package!r} is not installed; `make models` installs the small ones")
        name = str(Path(found.submodule_search_locations[0], inner))
        if not Path(name).exists():
            raise ValueError(f"package {package!r} is installed but holds no {inner!r}")
    path = Path(name)
    if path.suffix == ".gguf":
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    return {"pretrained_model_name_or_path": name}


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer of that name, with a pad token that differs from the end-of-sequence token.

    Stock decoder heads read the last token that differs from the pad token, so pad == eos would make them skip the
    appended end-of-sequence token; and whatever truncation or padding is baked into `tokenizer.json` is taken out,
    for it would cut behind the back of `PairEncoder`.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**resolve_name(name))
    if not tokenizer.is_fast:
        raise ValueError(f"{name} has no fast tokenizer (tokenizer.json); servers need one, and so do we")
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        taken = {tokenizer.eos_token, tokenizer.bos_token, None}
        spare = [token for token in (tokenizer.unk_token, *tokenizer.all_special_tokens) if token not in taken]
        if spare:
            tokenizer.pad_token = spare[0]
        else:
            tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return tokenizer


def build_ranker_model(
    config: ModelConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> PreTrainedModel | PeftModel:
    """A sequence classifier for `Ranker` with the head of the settings; one that the named weights have is kept.

    Raises:
        ValueError: the weights have another head, or none can be made of them.
    """
    check_quantization(config)
    saved = _saved_classifier(config)
    if config.head == LAST_TOKEN:
        _check_head(config, saved)
        model = _load(AutoModelForSequenceClassification, config, tokenizer, seed, num_labels=1)
    elif saved is not None:
        _check_head(config, saved)
        model = _load(AutoModelForSequenceClassification, config, tokenizer, seed)
    else:
        tokens = head_tokens(config, tokenizer)
        causal = _load(AutoModelForCausalLM, config, tokenizer, seed)
        model = classifier_from_language_model(causal, config.head, tokens, config.label_tokens)
    return _prepare(model, config)


def has_score_head(config: ModelConfig) -> bool:
    """Whether the named weights are a sequence classifier's, with a head that was trained."""
    return _saved_classifier(config) is not None


def _saved_classifier(config: ModelConfig) -> Any:
    """The transformers config of the named weights, if they are a sequence classifier's; else None."""
    if config.name is None or "gguf_file" in (names := resolve_name(config.name)):
        return None
    saved = AutoConfig.from_pretrained(**names)
    is_classifier = any(name.endswith("ForSequenceClassification") for name in saved.architectures or [])
    return saved if is_classifier else None


def _check_head(config: ModelConfig, saved: Any) -> None:
    if saved is None:
        return
    head = score_head(saved)
    if head != config.head:
        raise ValueError(
            f"{config.name} is a ranker with the head {head}, and model.head is {config.head}: go on with its own, or "
            "start from the language model"
        )
    labels = [saved.id2label[label] for label in range(saved.num_labels)]
    if head != EXPECTED_LABEL and saved.num_labels != 1:
        raise ValueError(f"{config.name} is a classifier of {saved.num_labels} labels, and a ranker has one score")
    if head == EXPECTED_LABEL and labels != config.label_tokens:
        raise ValueError(f"{config.name} has the labels {labels}, and model.label_tokens is {config.label_tokens}")


def build_language_model(
    config: ModelConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> PreTrainedModel | PeftModel:
    """A causal language model for continued pretraining.

    Raises:
        ValueError: the settings want a score head, which a language model has none of.
    """
    if config.head != LAST_TOKEN:
        raise ValueError(f"model.head is {config.head}, but a language model has no score head: leave it out")
    check_quantization(config)
    return _prepare(_load(AutoModelForCausalLM, config, tokenizer, seed), config)


def _load(
    auto_class: Any, config: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int, **extra: Any
) -> PreTrainedModel:
    torch.manual_seed(seed)
    special = {"pad_token_id": tokenizer.pad_token_id}
    if config.architecture is not None:
        architecture = {"vocab_size": len(tokenizer), **config.architecture}
        for token in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            if getattr(tokenizer, token, None) is not None:
                special[token] = getattr(tokenizer, token)
        model: Any = auto_class.from_config(AutoConfig.for_model(**architecture, **special, **extra))
    else:
        assert config.name is not None
        if config.quantization is not None:
            dtype = torch_dtype(config.dtype)
            extra = {**extra, "quantization_config": quantization_settings(dtype), "device_map": {"": dist.device()}}
        else:
            dtype = torch.float32
        model = auto_class.from_pretrained(**resolve_name(config.name), dtype=dtype, **extra)
        if getattr(model, "hf_quantizer", None) is not None:
            # Weights from GGUF are dequantised by now, 4-bit ones when they are saved: the marks would spoil both.
            model.hf_quantizer.remove_quantization_config(model)
        model.config.pad_token_id = special["pad_token_id"]
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer))
    loaded: PreTrainedModel = model
    return loaded


def _prepare(stock: PreTrainedModel, config: ModelConfig) -> PreTrainedModel | PeftModel:
    model: Any = stock
    if config.dropout is not None:
        _set_dropout(model, config.dropout)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if config.lora is not None:
        model = wrap_lora(model, config.lora)
    # Weights of 4 bits keep them: a cast reaches floating-point weights alone.
    return torch.nn.Module.to(model, torch_dtype(config.dtype))


def _set_dropout(model: PreTrainedModel, share: float) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
        elif isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", share)  # noqa: B010


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters; under ZeRO-3 the size before partition."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def describe(model: PreTrainedModel | PeftModel) -> str:
    """One line on a model for a run's plan: family, depth, width, parameters."""
    stock, (trainable, total) = stock_model(model), count_parameters(model)
    config = stock.config
    kind = "decoder" if is_decoder(stock) else "encoder"
    depth, width = getattr(config, "num_hidden_layers", "?"), getattr(config, "hidden_size", "?")
    return f"{config.model_type} {kind}, {depth} layers, {width} wide, {total:,} parameters, {trainable:,} trained"


def read_architecture(folder: str | Path) -> dict[str, Any]:
    """The transformers config of a saved model, as a dict."""
    architecture: dict[str, Any] = json.loads(Path(folder, "config.json").read_text())
    return architecture
