"""`--dry-run`: what a run takes, told before there is a machine for it; nothing is trained and nothing is written.

The model is built of tensors without data, so its weights need not be there, and a laptop plans for eight GPUs.
Inputs and tokenizer are read if they are there; else the plan counts with the longest examples that are allowed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
)

from disranker import dist
from disranker.config.parts import RankerStage, TrainedStage
from disranker.data.batches import Items, StepPlan
from disranker.models.adapters import num_in_4_bits
from disranker.models.build import describe, load_tokenizer, shape_of
from disranker.models.bundle import make_encoder
from disranker.models.language import LanguageModel
from disranker.models.masked import MaskedLanguageModel
from disranker.models.ranker import Ranker
from disranker.text.encode import PairEncoder
from disranker.train.activations import activation_bytes, packed_of_length
from disranker.train.memory import StateBytes, read_parameters, state_bytes
from disranker.train.run import input_paths

Model = Ranker | LanguageModel | MaskedLanguageModel
ReadItems = Callable[[Path, PairEncoder], Items[Any]]
_WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}
_STEPS_LOOKED_AT = 200
# Settings whose memory is named, not counted.
_BESIDE = ("penalty", "teacher", "perturbation", "consistency", "quantisation")
_GB = 1e9


def dry_run(stage: str, config: TrainedStage, model_class: type[Model], read: ReadItems) -> int:
    """Print the plan of a run and the bytes of a rank; 1 if they are more than `dry_run.memory_gb`, else 0.

    `read` makes the items of the run, given a folder for its cache and the encoder.

    Raises:
        ValueError: the shape of the model is not known, or an input that is there is at fault.
    """
    assert config.dry_run is not None
    rank, num_launched = dist.launched()
    if rank > 0:
        return 0  # one speaks for all that a launcher started
    world_size, tokenizer = config.dry_run.world_size or num_launched, _tokenizer_if_there(config)
    plain, recomputing = (_build(model_class, config, tokenizer, recomputes) for recomputes in (False, True))
    model = recomputing if config.model.gradient_checkpointing else plain
    parameters = read_parameters(model, num_4bit=num_in_4_bits(model) if config.model.quantization else 0)
    weight_bytes, zero_stage = _WEIGHT_BYTES[config.model.dtype], config.training.zero_stage
    states = state_bytes(parameters, zero_stage=zero_stage, world_size=world_size, weight_bytes=weight_bytes)
    facts, num_tokens = _read_plan(config, tokenizer, model, read, world_size)
    packed = packed_of_length(num_tokens, config.text.max_tokens)
    with_all, with_some = activation_bytes(plain, packed), activation_bytes(recomputing, packed)
    activations = with_some if config.model.gradient_checkpointing else with_all

    peak = states.peak(activations or 0)
    beside = [name for name in _BESIDE if getattr(config, name, None) is not None]
    without = ["the CUDA context", "fragmentation", *(f"what {name} takes" for name in beside)]
    _print(f"{stage}, a dry run:", {"model": describe(model.model), **facts})
    lines = {
        **_describe_states(states),
        "activations": _describe_activations(config, with_all, with_some),
        "at most": f"{_size(peak)}, without {', '.join(without)}",
        "host": f"{_size(weight_bytes * parameters.num_all)} of host memory for each rank while it loads the weights",
    }
    _print(f"bytes of a rank: {config.model.dtype}, ZeRO {zero_stage}, {world_size} ranks", lines)
    return _judge(peak, config.dry_run.memory_gb)


def _build(
    model_class: type[Model], config: TrainedStage, tokenizer: PreTrainedTokenizerBase | None, recomputes: bool
) -> Model:
    auto_class = {LanguageModel: AutoModelForCausalLM, MaskedLanguageModel: AutoModelForMaskedLM}.get(
        model_class, AutoModelForSequenceClassification
    )
    model = config.model.model_copy(update={"gradient_checkpointing": recomputes})
    return model_class(shape_of(auto_class, model, tokenizer))


def _tokenizer_if_there(config: TrainedStage) -> PreTrainedTokenizerBase | None:
    try:
        return load_tokenizer(config.model.tokenizer_name)
    except OSError:
        return None


def _read_plan(
    config: TrainedStage,
    tokenizer: PreTrainedTokenizerBase | None,
    model: Model,
    read: ReadItems,
    world_size: int,
) -> tuple[dict[str, str], int]:
    """Lines on examples and steps, and the tokens of the largest micro-batch."""
    training = config.training
    missing = [str(path) for path in input_paths(config) if not path.exists()]
    missing += [f"tokenizer {config.model.tokenizer_name}"] if tokenizer is None else []
    if tokenizer is None or missing:
        # Micro-batches are made of whole examples, and an example of a ranker is a query with all its documents.
        longest = config.text.max_tokens * (config.docs_per_query if isinstance(config, RankerStage) else 1)
        budget = training.tokens_per_step / (world_size * training.accumulation)
        examples = f"not counted, for there is no {', no '.join(missing)}"
        num_steps, num_tokens = training.steps, longest * math.ceil(budget / longest)
    else:
        with tempfile.TemporaryDirectory() as folder:
            items = read(Path(folder), make_encoder(tokenizer, config.text, model.model))
            plan: StepPlan[Any] = StepPlan(
                items,
                tokens_per_step=training.tokens_per_step,
                accumulation=training.accumulation,
                process_rank=0,
                world_size=world_size,
                seed=training.seed,
            )
            lengths = items.lengths(0)
            examples = f"{len(lengths):,} an epoch, of {lengths.mean():,.0f} tokens, the longest of {lengths.max():,}"
            num_steps = training.steps or plan.num_steps(training.epochs or 0)
            num_tokens = plan.most_tokens(_STEPS_LOOKED_AT)
    cut = f"{world_size} ranks x {training.accumulation} micro-batches of up to {num_tokens:,}"
    steps = f"{training.epochs} epochs" if num_steps is None else f"{num_steps:,} steps"
    total = "" if num_steps is None else f", {num_steps * training.tokens_per_step:,} in all"
    return {
        "examples": examples,
        "steps": f"{steps} of about {training.tokens_per_step:,} tokens = {cut}{total}",
    }, num_tokens


def _describe_states(states: StateBytes) -> dict[str, str]:
    lines = {
        "weights": _size(states.weights),
        "gradients": _size(states.gradients),
        "optimizer": _size(states.optimizer),
        "bucket": f"{_size(states.bucket)} to reduce gradients in" if states.bucket else None,
        "gathered": f"{_size(states.gathered)}, whole weights of the layers at work" if states.gathered else None,
        "step": f"{_size(states.step)}, when the activations are gone",
        "start": f"{_size(states.start)}, before the weights are laid out" if states.start > states.weights else None,
    }
    return {name: text for name, text in lines.items() if text is not None}


def _describe_activations(config: TrainedStage, with_all: int | None, with_some: int | None) -> str:
    if with_all is None or with_some is None:
        return "not known: this family runs padded"
    if config.model.gradient_checkpointing:
        return f"{_size(with_some)} ({_size(with_all)} without gradient_checkpointing)"
    return f"{_size(with_all)} ({_size(with_some)} with gradient_checkpointing)"


def _judge(needed: int, memory_gb: float | None) -> int:
    if memory_gb is None:
        return 0
    fits = needed <= memory_gb * _GB
    advice = "it fits" if fits else "too much: see zero_stage, accumulation, gradient_checkpointing, lora, more ranks"
    print(f"{_size(needed)} of {memory_gb:g} GB: {advice}")
    return 0 if fits else 1


def _size(num_bytes: int) -> str:
    return f"{num_bytes / _GB:.2f} GB" if num_bytes >= _GB else f"{num_bytes / 1e6:.2f} MB"


def _print(title: str, lines: Mapping[str, str]) -> None:
    print(title)
    for name, value in lines.items():
        print(f"  {name:<11} {value}")
