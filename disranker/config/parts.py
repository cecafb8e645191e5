"""The parts that the stages' settings are composed of: model, text, optimizer, training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from disranker.settings import InputPath, OutputFolder, Settings, SettingsError

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]

# Keys of a transformers config that the tokenizer has an answer to.
_FROM_TOKENIZER = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


class LoraConfig(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) instead of training every weight."""

    variant: Literal["lora", "dora", "rslora"] = "lora"
    """dora trains the length of each row beside its direction: often better at a small r, and slower; rslora
    scales by alpha / sqrt(r), so that a large r still learns."""
    r: Positive = 16
    """Rank of the adapters."""
    alpha: Positive = 32
    """Adapters are scaled by alpha / r (rslora: alpha / sqrt(r))."""
    dropout: Share = 0.0
    """Dropout on the adapters' input."""
    target_modules: list[str] | None = None
    """Names of the linear layers that get an adapter; null means all of them but the head."""


class ModelConfig(Settings):
    """Which weights to start from: those of a `name`, or fresh ones of an `architecture`."""

    name: str | None = None
    """A folder, a hub name, or `package:PACKAGE/FOLDER` for weights that a Python package ships."""
    architecture: dict[str, Any] | None = None
    """A transformers config (with `model_type`) to build a fresh, randomly initialised model from; beside a `name`, the
    shape that its weights must have, so that a dry run needs no file of theirs."""
    tokenizer: str | None = None
    """Where the tokenizer is, if not with the model; needed with `architecture` alone."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in the forward and backward pass; the optimizer keeps fp32 masters either way."""
    head: Literal["last-token", "expected-label", "yes-no"] = "last-token"
    """How a decoder's score is read at the last token: by a layer of its own (the paper's), as the mean label under the
    probabilities of `label_tokens`, or as logit of yes minus logit of no.  Encoders have their own head at [CLS]."""
    label_tokens: list[str] = ["0", "1", "2", "3", "4"]
    """Labels from the worst to the best, each one token: what the model is to say next (head expected-label)."""
    yes_no_tokens: tuple[str, str] = ("yes", "no")
    """The tokens for relevant and not relevant (head yes-no)."""
    lora: LoraConfig | None = None
    """Train adapters instead of all weights; they are merged when the bundle is saved."""
    quantization: Literal["nf4"] | None = None
    """Keep the frozen weights in 4 bits while adapters train (QLoRA, arXiv 2305.14314): an eighth of fp32's memory.
    Needs CUDA; the bundle has them as tensors of `dtype` again."""
    dropout: Share | None = None
    """Dropout of every layer; null keeps the model's own."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, far less memory."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.name is None and self.architecture is None:
            raise ValueError("give a name, or an architecture to build a fresh model from")
        if self.architecture is not None and "model_type" not in self.architecture:
            raise ValueError("architecture needs a model_type, such as llama or bert")
        if self.name is None and self.tokenizer is None:
            raise ValueError("architecture needs a tokenizer")
        return self

    @model_validator(mode="after")
    def _architecture_is_a_shape(self) -> Self:
        named = sorted({*_FROM_TOKENIZER, "num_labels"} & set(self.architecture or ()))
        if named:
            raise ValueError(f"architecture takes {', '.join(named)} from the tokenizer and the head: leave it out")
        return self

    @model_validator(mode="after")
    def _quantized_weights_stand_still(self) -> Self:
        if self.quantization is not None and self.lora is None:
            raise ValueError("quantization keeps the weights as they are: set lora too, which trains adapters")
        if self.quantization is not None and (self.name is None or self.name.endswith(".gguf")):
            raise ValueError("quantization needs a name with weights in safetensors")
        return self

    @model_validator(mode="after")
    def _tokens_belong_to_a_head(self) -> Self:
        defaults = ModelConfig.model_fields
        if self.head != "expected-label" and self.label_tokens != defaults["label_tokens"].default:
            raise ValueError(f"label_tokens belongs to the head expected-label; {self.head} has none")
        if self.head != "yes-no" and self.yes_no_tokens != defaults["yes_no_tokens"].default:
            raise ValueError(f"yes_no_tokens belongs to the head yes-no; {self.head} has none")
        if len(self.label_tokens) < 2:
            raise ValueError("label_tokens needs two labels at least, the worst first")
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
    """`plain`, `prompt-en`, `prompt-zh` (ending in the end token), `label-en`, `label-zh` or `qwen3-reranker` (ending
    where the answer begins) for decoders, `pair` for encoders; null means pair, or plain, label-en or qwen3-reranker as
    the head is last-token, expected-label or yes-no."""
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


class DryRunConfig(Settings):
    """A run on paper: the plan and the bytes per rank, from tensors without data; nothing is trained or written."""

    world_size: Positive | None = None
    """Ranks (devices) to compute for; null: as many as the launcher started."""
    memory_gb: Annotated[float, Field(gt=0.0)] | None = None
    """Memory of a rank's device in GB (10^9 bytes), less what the CUDA context takes; a plan above it ends with 1."""


class TrainedStage(Settings):
    """What the three training stages share."""

    out: OutputFolder
    """Folder that the bundle is written to, with metrics.jsonl and the resolved config."""
    model: ModelConfig
    text: TextConfig = TextConfig()
    optim: OptimConfig
    training: TrainingConfig
    dry_run: DryRunConfig | None = Field(default=None, exclude=True)
    """Print the plan with the bytes per rank, and stop; also `--dry-run`.  Inputs and weights need not be there."""

    @classmethod
    def parse(cls, argv: Sequence[str], *, look_at_inputs: bool = True) -> Self:
        """As every config's; a dry run may lack its inputs."""
        try:
            return super().parse(argv, look_at_inputs=look_at_inputs)
        except SettingsError as error:
            with suppress(SettingsError):
                without_inputs = super().parse(argv, look_at_inputs=False)
                if without_inputs.dry_run is not None:
                    return without_inputs
            raise error

    @model_validator(mode="after")
    def _quantized_weights_stay_whole(self) -> Self:
        if self.model.quantization is not None and self.training.zero_stage == 3:
            raise ValueError("training.zero_stage 3 cannot partition 4-bit weights (model.quantization): use 0, 1 or 2")
        return self


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
