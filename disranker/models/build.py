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
from disranker.models.ranker import is_decoder, stock_model

if TYPE_CHECKING:
    from peft import PeftModel

    from disranker.config.parts import LoraConfig, ModelConfig


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
    """A sequence classifier with one label for `Ranker`; its score head is fresh unless the name has one."""
    return _build(AutoModelForSequenceClassification, config, tokenizer, seed, num_labels=1)


def build_language_model(
    config: ModelConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> PreTrainedModel | PeftModel:
    """A causal language model for continued pretraining."""
    return _build(AutoModelForCausalLM, config, tokenizer, seed)


def _build(
    auto_class: Any, config: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int, **extra: Any
) -> PreTrainedModel | PeftModel:
    torch.manual_seed(seed)
    special = {"pad_token_id": tokenizer.pad_token_id}
    if config.architecture is not None:
        architecture = {"vocab_size": len(tokenizer), **config.architecture}
        for token in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            if getattr(tokenizer, token, None) is not None:
                special[token] = getattr(tokenizer, token)
        model = auto_class.from_config(AutoConfig.for_model(**architecture, **special, **extra))
    else:
        assert config.name is not None
        model = auto_class.from_pretrained(**resolve_name(config.name), dtype=torch.float32, **extra)
        if getattr(model, "hf_quantizer", None) is not None:
            _forget_quantization(model)
        model.config.pad_token_id = special["pad_token_id"]
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer))
    if config.dropout is not None:
        _set_dropout(model, config.dropout)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if config.lora is not None:
        model = wrap_lora(model, config.lora)
    return model.to(torch_dtype(config.dtype))


def _forget_quantization(model: PreTrainedModel) -> None:
    """Take off the marks of a GGUF file: its weights were dequantised on loading, yet transformers would not save them.

    Seen with transformers 5.23; remove when a model loaded from GGUF can be saved.
    """
    del model.hf_quantizer
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _set_dropout(model: PreTrainedModel, share: float) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
        elif isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", share)  # noqa: B010


def wrap_lora(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """The model with LoRA adapters on its linear layers; a score head, if it has one, is trained in full."""
    import peft

    heads = [name for name in ("score", "classifier", "pre_classifier", "pooler", "head") if hasattr(model, name)]
    return peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=config.r,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=config.target_modules or "all-linear",
            modules_to_save=[name for name in heads if name != "lm_head"] or None,
            task_type=None,
        ),
    )


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters; under ZeRO-3 the size before partition."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def merged_weights(model: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor]:
    """The stock model's weights by their stock names, LoRA merged in, on CPU; the model itself is left as it is.

    Under ZeRO-3 every rank must call this: the partitions are gathered for it.
    """
    with _gathered(list(model.parameters())):
        stock = stock_model(model)
        # An output layer that is the embedding is one weight, not two.
        tied = getattr(stock, "all_tied_weights_keys", {})
        deltas = {
            name: module.get_delta_weight("default").detach().cpu()
            for name, module in stock.named_modules()
            if hasattr(module, "get_delta_weight")
        }
        weights = {}
        for name, tensor in stock.state_dict().items():
            if ".lora_" in name or ".original_module." in name or name in tied:
                continue
            plain = name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")
            # clone: a CPU tensor would otherwise share memory with a weight that trains on.
            weight = tensor.detach().cpu().clone()
            layer = name.removesuffix(".base_layer.weight")
            if layer in deltas and name.endswith(".base_layer.weight"):
                weight = (weight.float() + deltas[layer].float()).to(weight.dtype)
            weights[plain] = weight
        return weights


def _gathered(parameters: list[torch.nn.Parameter]) -> Any:
    from contextlib import nullcontext

    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)


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
