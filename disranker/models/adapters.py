"""Low-rank adapters on a model, over 16- or 4-bit weights, and the stock weights that they come to when merged.

What is trained is peft's; what is saved is a stock model, so nobody who opens a bundle needs peft or bitsandbytes.
"""

from __future__ import annotations

import importlib.util
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from disranker.models.ranker import stock_model

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import BitsAndBytesConfig

    from disranker.config.parts import LoraConfig, ModelConfig

# Modules behind the backbone.  They are trained in full beside the adapters, and never have 4 bits.
_HEADS = ("score", "classifier", "pre_classifier", "pooler", "head")
_ADAPTER = "default"


def wrap_lora(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """The model with adapters on its linear layers; a score head, if it has one, is trained in full.

    LoRA (arXiv 2106.09685), rsLoRA (arXiv 2312.03732) or DoRA (arXiv 2402.09353).
    """
    import peft

    settings = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_dora=config.variant == "dora",
        use_rslora=config.variant == "rslora",
        target_modules=config.target_modules or "all-linear",
        modules_to_save=[name for name in _HEADS if hasattr(model, name)] or None,
        task_type=None,
    )
    with warnings.catch_warnings():
        # peft 0.21 asks for `is_gradient_checkpointing`, which transformers 5.23 has renamed; gone when peft follows.
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(model, settings)


def check_quantization(config: ModelConfig) -> None:
    """Make sure that this machine can hold 4-bit weights, before anything is loaded.

    Raises:
        ValueError: bitsandbytes or a CUDA device is missing.
    """
    if config.quantization is None:
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("model.quantization nf4 needs bitsandbytes: pip install 'disranker[lora-4bit]'")
    if not torch.cuda.is_available():
        raise ValueError("model.quantization nf4 needs a CUDA device, and this machine has none: set it to null")


def quantization_settings(compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """What `from_pretrained` is given for QLoRA's 4-bit weights (arXiv 2305.14314): NF4, its scales quantised again."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=[*_HEADS, "lm_head"],  # of 4 bits, too
    )


def num_in_4_bits(model: nn.Module) -> int:
    """How many weights of a model that is not quantized yet will have 4 bits: of its frozen linear layers but heads."""
    return sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not module.weight.requires_grad
        and not {*_HEADS, "lm_head"} & set(name.split("."))
    )


def merged_weights(model: PreTrainedModel | PeftModel) -> dict[str, Tensor]:
    """The stock model's weights by their stock names, adapters merged in, on CPU; the model itself is left as it is.

    Under ZeRO-3 every rank must call this: the partitions are gathered for it.  peft's own saving would write the head
    empty there (peft issue 2450), because it copies a partition that nobody gathered.
    """
    with _gathered(list(model.parameters())), torch.no_grad():
        stock = stock_model(model)
        # An output layer that is the embedding is one weight, not two.
        tied = getattr(stock, "all_tied_weights_keys", {})
        whole = {f"{name}.weight": _whole_weight(module) for name, module in _layers_to_compute(stock)}
        weights = {}
        for name, tensor in stock.state_dict().items():
            if ".lora_" in name or ".original_module." in name or name in tied:
                continue
            if any(name.startswith(f"{layer}.") for layer in whole):  # the scales of a 4-bit weight
                continue
            plain = name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")
            # clone: a CPU tensor would otherwise share memory with a weight that trains on.
            weights[plain] = whole[name] if name in whole else tensor.detach().cpu().clone()
        return weights


def _layers_to_compute(stock: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """(name, module) of each layer whose stock weight is no tensor of the model: adapted, or of 4 bits, or both."""
    found: dict[str, nn.Module] = {}
    for name, module in stock.named_modules():
        if hasattr(module, "get_delta_weight"):
            found[f"{name}.base_layer"] = module
        elif type(module).__name__ == "Linear4bit" and name not in found:
            found[name] = module
    return list(found.items())


def _whole_weight(module: Any) -> Tensor:
    """The weight, on CPU, that a layer computes with: dequantised, its adapter merged by peft's own formula."""
    from peft.utils.integrations import dequantize_module_weight

    if not hasattr(module, "get_delta_weight"):
        return dequantize_module_weight(module).detach().cpu()
    base: Tensor = dequantize_module_weight(module.get_base_layer()).detach()
    if _ADAPTER in module.lora_variant:  # DoRA: more than a sum
        merged: Tensor = module.lora_variant[_ADAPTER].merge_safe(module, _ADAPTER, base.clone())
    else:
        merged = (base.float() + module.get_delta_weight(_ADAPTER).float()).to(base.dtype)
    return merged.detach().cpu()


def _gathered(parameters: list[nn.Parameter]) -> Any:
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)
