"""The parts that the stages' settings are composed of: model, text, optimizer, training."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from disranker.settings import InputPath, Settings

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]


class LoraConfig(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) instead of training every weight."""

    r: Positive = 16
    """Rank of the adapters."""
    alpha: Positive = 32
    """Adapters are scaled by alpha / r."""
    dropout: Share = 0.0
    """Dropout on the adapters' input."""
    target_modules: list[str] | None = None
    """Names of the linear layers that get an adapter; null means all of them but the head."""


class ModelConfig(Settings):
    """Which weights to start from: exactly one of `name` and `architecture`."""

    name: str | None = None
    """A folder, a hub name, or `package:PACKAGE/FOLDER` for weights that a Python package ships."""
    architecture: dict[str, Any] | None = None
    """A transformers config (with `model_type`) to build a fresh, randomly initialised model from."""
    tokenizer: str | None = None
    """Where the tokenizer is, if not with the model; needed with `architecture`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in the forward and backward pass; the optimizer keeps fp32 masters either way."""
    lora: LoraConfig | None = None
    """Train adapters instead of all weights; they are merged when the bundle is saved."""
    dropout: Share | None = None
    """Dropout of every layer; null keeps the model's own."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, far less memory."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.name is None) == (self.architecture is None):
            raise ValueError("give exactly one of name and architecture")
        if self.architecture is not None and "model_type" not in self.architecture:
            raise ValueError("architecture needs a model_type, such as llama or bert")
        if self.architecture is not None and self.tokenizer is None:
            raise ValueError("architecture needs a tokenizer")
        return self

    @property
    def tokenizer_name(self) -> str:
        """Where the tokenizer is read from."""
        name = self.tokenizer or self.name
        assert name is not None
        return name


class TextConfig(Settings):
    """How a pair becomes tokens."""

    template: str | None = None
    """`plain`, `prompt-en` or `prompt-zh` for decoders, `pair` for encoders; null means plain or pair."""
    max_tokens: Annotated[int, Field(ge=8)] = 128
    """Tokens of a whole pair, special tokens included; what is longer is cut, the summary first."""
    max_query_tokens: Annotated[int, Field(ge=1)] = 32
    """Tokens of the query in a decoder's prompt."""


class OptimConfig(Settings):
    """AdamW and its learning-rate schedule."""

    learning_rate: Annotated[float, Field(gt=0.0)]
    """Peak learning rate."""
    weight_decay: Weight = 0.01
    """Decoupled weight decay on matrices; vectors (biases, norms) have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Shape after the warm-up; wsd stays at the peak and falls linearly over the last `decay_share` of the steps."""
    warmup_share: Share = 0.06
    """Share of the steps over which the rate rises linearly from 0."""
    decay_share: Share = 0.2
    """Share of the steps over which wsd decays."""
    final_share: Share = 0.0
    """Rate at the end, as a share of the peak."""
    clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradients with a larger global norm are scaled down to it."""


class TrainingConfig(Settings):
    """The engine: how long, how much at once, how often to look."""

    steps: Positive | None = None
    """Optimizer steps; exactly one of `steps` and `epochs`."""
    epochs: Positive | None = None
    """Passes over the data; exactly one of `steps` and `epochs`."""
    tokens_per_step: Positive = 16_384
    """Tokens of one optimizer step over all ranks and accumulation; a batch is filled by tokens, not by counts."""
    accumulation: Positive = 1
    """Micro-batches that one step is cut into on every rank: more of them need less memory and change no result."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO: 1 partitions optimizer state over the ranks, 2 gradients too, 3 weights too."""
    seed: int = 0
    """Root of all randomness: initial weights, order of the data, dropout."""
    log_every: Positive = 10
    """Steps between two lines on the screen (metrics.jsonl has every step)."""
    evaluate_every: Positive | None = None
    """Steps between two evaluations on the dev set; the best bundle is kept.  null: keep the last."""
    patience: Positive | None = None
    """Stop after this many evaluations without a better one."""
    checkpoint_every: Positive | None = None
    """Steps between two checkpoints; a run that finds one in its output folder goes on from it."""
    tensorboard: bool = False
    """Also write TensorBoard events beside metrics.jsonl (needs the tensorboard package)."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        if self.patience is not None and self.evaluate_every is None:
            raise ValueError("patience counts evaluations: set evaluate_every too")
        return self


class TrainedStage(Settings):
    """What the three training stages share."""

    out: str
    """Folder that the bundle is written to, with metrics.jsonl and the resolved config."""
    model: ModelConfig
    text: TextConfig = TextConfig()
    optim: OptimConfig
    training: TrainingConfig


class RankerStage(TrainedStage):
    """What the two stages share that train a ranker."""

    judged_dev: list[InputPath] = []
    """Judged pairs to measure on while training."""
    docs_per_query: Annotated[int, Field(ge=2)] = 16
    """Documents of a group at most; larger groups are sampled anew in every epoch."""
    dev_measure: str = "nDCG@10"
    """The measure, in ir-measures' syntax or PNR, by which the best bundle is chosen."""

    @model_validator(mode="after")
    def _something_to_evaluate_on(self) -> Self:
        if self.training.evaluate_every is not None and not self.judged_dev:
            raise ValueError("training.evaluate_every measures on judged_dev: give it, or set evaluate_every to null")
        return self
