"""Models and tokenizers by name: a folder, a hub name, `package:PACKAGE/FOLDER`, or an architecture built fresh.

Nothing is fetched behind the user's back: folders and packages stay local, hub names go through transformers as usual;
`trust_remote_code` is off and only safetensors (or a GGUF file, named as such) are read.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from disranker import dist
from disranker.models.adapters import check_quantization, quantization_settings, wrap_lora
from disranker.models.dropout import use_bit_dropout
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
    return _prepare(model, config, torch_dtype(config.dtype))


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
    return _prepare(_load(AutoModelForCausalLM, config, tokenizer, seed), config, torch_dtype(config.dtype))


def build_masked_model(
    config: ModelConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> PreTrainedModel | PeftModel:
    """A masked language model for the warm-up of an encoder; an output layer that the named weights have is kept.

    Raises:
        ValueError: the model is no encoder, or its tokenizer has no mask token.
    """
    if config.name is not None:
        check_encoder(AutoConfig.from_pretrained(**resolve_name(config.name)), config.name)
    else:
        assert config.architecture is not None
        check_encoder(AutoConfig.for_model(**config.architecture), "model.architecture")
    if tokenizer.mask_token_id is None:
        raise ValueError(f"the tokenizer {config.tokenizer_name} has no mask token, such as [MASK]")
    return _prepare(_load(AutoModelForMaskedLM, config, tokenizer, seed), config, torch_dtype(config.dtype))


def check_encoder(config: Any, name: str) -> None:
    """Make sure that a family, by its transformers config, reads in both directions and so can fill in masked tokens.

    Raises:
        ValueError: it does not.
    """
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ValueError(f"{name} is a {config.model_type}, and this is for encoders (BERT, RoBERTa, ModernBERT, …)")


def shape_of(
    auto_class: Any, config: ModelConfig, tokenizer: PreTrainedTokenizerBase | None
) -> PreTrainedModel | PeftModel:
    """The model of the settings, with adapters and types, of tensors that have a shape and no data (the meta device).

    It needs no weights: `architecture` says the shape, or else the config.json of the `name`.  Without a tokenizer the
    rows that it might add to the embeddings are missing; quantized weights are there unquantized.  `auto_class` is
    transformers', such as AutoModelForCausalLM.

    Raises:
        ValueError: neither says the shape.
    """
    if config.architecture is None:
        names = resolve_name(str(config.name))
        try:
            shape = AutoConfig.from_pretrained(**names)
        except (OSError, ValueError) as error:  # the latter of a folder without the file
            raise ValueError(
                f"model.name {config.name}: its config.json is neither on this disk nor within reach; put the file in "
                "a folder and name that, or state its shape in model.architecture"
            ) from error
    elif tokenizer is None and "vocab_size" not in config.architecture:
        raise ValueError(f"{config.tokenizer_name} is not on this disk, and model.architecture has no vocab_size")
    else:
        vocabulary = {} if tokenizer is None else {"vocab_size": len(tokenizer)}
        shape = AutoConfig.for_model(**{**vocabulary, **config.architecture})
    if auto_class is AutoModelForSequenceClassification:
        shape.num_labels = len(config.label_tokens) if config.head == EXPECTED_LABEL else 1
        shape.score_head = config.head
    with torch.device("meta"):
        model: Any = auto_class.from_config(shape)
        if tokenizer is not None and len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        # Not what this machine computes in: the run is another one's.
        return _prepare(model, config, getattr(torch, config.dtype))


def _check_shape(config: ModelConfig) -> None:
    """Make sure that named weights have the shape that `architecture` states beside the name.

    But for the vocabulary: where a tokenizer lacks a pad token, weights that were saved here have a row for one.
    """
    if config.name is None or config.architecture is None:
        return
    saved, stated = AutoConfig.from_pretrained(**resolve_name(config.name)), AutoConfig.for_model(**config.architecture)
    for key in config.architecture.keys() - {"vocab_size"}:
        there, here = getattr(saved, key, None), getattr(stated, key, None)
        if there != here:
            raise ValueError(
                f"{config.name} has the {key} {there}, and model.architecture says {here}: mend that, or leave it out"
            )


def _load(
    auto_class: Any, config: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int, **extra: Any
) -> PreTrainedModel:
    torch.manual_seed(seed)
    _check_shape(config)
    special = {"pad_token_id": tokenizer.pad_token_id}
    if config.name is None:
        assert config.architecture is not None
        architecture = {"vocab_size": len(tokenizer), **config.architecture}
        for token in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            if getattr(tokenizer, token, None) is not None:
                special[token] = getattr(tokenizer, token)
        model: Any = auto_class.from_config(AutoConfig.for_model(**architecture, **special, **extra))
    else:
        # In the type that it trains in: every rank of a machine holds the whole model in host memory for a while.
        dtype = torch_dtype(config.dtype)
        if config.quantization is not None:
            extra = {**extra, "quantization_config": quantization_settings(dtype), "device_map": {"": dist.device()}}
        model = auto_class.from_pretrained(**resolve_name(config.name), dtype=dtype, **extra)
        if getattr(model, "hf_quantizer", None) is not None:
            # Weights from GGUF are dequantised by now, 4-bit ones when they are saved: the marks would spoil both.
            model.hf_quantizer.remove_quantization_config(model)
        model.config.pad_token_id = special["pad_token_id"]
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer))
    loaded: PreTrainedModel = model
    return loaded


def _prepare(stock: PreTrainedModel, config: ModelConfig, dtype: torch.dtype) -> PreTrainedModel | PeftModel:
    model: Any = stock
    if config.dropout is not None:
        _set_dropout(model, config.dropout)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if config.lora is not None:
        model = wrap_lora(model, config.lora)
    use_bit_dropout(model)
    # Weights alone: 4-bit ones are no floating-point numbers, and buffers keep their type, for the frequencies of
    # rotary positions in bfloat16 would be off by up to 0.2%, 0.04 radians after a hundred tokens.
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    prepared: PreTrainedModel | PeftModel = model
    return prepared


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
