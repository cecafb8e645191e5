"""The settings of every stage: one frozen class each, composed of shared parts.

A docstring under a field is its `--help` text.  Values come from a YAML file and dotted overrides on the command line
(`disranker.settings`), from nowhere else.
"""

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


class PretrainConfig(TrainedStage):
    """Stage 1: continued pretraining of a decoder on query → clicked title + summary."""

    clicks: list[InputPath]
    """Click logs: Parquet, JSONL, CSV or TSV."""
    max_clicks: Positive | None = None
    """Read no more rows than this; null reads all."""
    dev_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    """Share of the queries held out to measure the loss; all clicks of a query stay together."""


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


class RankConfig(RankerStage):
    """Stage 2, and the baseline students: a ranker trained on judged pairs."""

    judged: list[InputPath]
    """Judged pairs to train on."""
    loss: Literal["hinge", "ranknet"] = "hinge"
    """Pairwise hinge with margin (the paper's), or RankNet."""
    margin: Annotated[float, Field(gt=0.0)] = 1.0
    """Margin of the hinge, in units of the score."""

    @model_validator(mode="after")
    def _margin_is_the_hinge_s(self) -> Self:
        if self.loss != "hinge" and self.margin != 1.0:
            raise ValueError(f"margin belongs to the hinge loss; {self.loss} has none")
        return self


class ScoreConfig(Settings):
    """Teacher scores of candidates into a store."""

    out: str
    """Folder of the store; a store that was begun is gone on with."""
    candidates: list[InputPath]
    """Pairs to score: query_id, doc_id, query, title, summary (other columns are ignored)."""
    teacher: str | None = None
    """Bundle of the teacher; exactly one of `teacher` and `run`."""
    run: InputPath | None = None
    """TREC run with the scores of someone else's teacher."""
    pairs_per_shard: Positive = 4096
    """Distinct pairs in a shard: what a killed run loses at most."""
    tokens_per_batch: Positive = 8192
    """Tokens scored at once; halved by itself when memory runs out."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the teacher's weights while it scores."""

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if (self.teacher is None) == (self.run is None):
            raise ValueError("give exactly one of teacher and run")
        return self


class DistillConfig(RankerStage):
    """Stage 3: a student learns the teacher's scores with point-MSE + margin-MSE."""

    store: InputPath
    """Store with the teacher's scores."""
    candidates: list[InputPath]
    """The pairs that were scored."""
    point_weight: Weight = 1.0
    """Weight of point-MSE: the student's score against the teacher's standardised score."""
    margin_weight: Weight = 1.0
    """Weight of margin-MSE: every difference within a group against the teacher's."""

    @model_validator(mode="after")
    def _some_signal(self) -> Self:
        if self.point_weight + self.margin_weight == 0.0:
            raise ValueError("point_weight and margin_weight are both 0: nothing would be learned")
        return self


class SystemConfig(Settings):
    """One system to evaluate."""

    kind: Literal["bundle", "onnx", "run", "bm25", "random"]
    """bundle: a ranker; onnx: an export folder; run: a TREC run; bm25 and random need no path."""
    path: InputPath | None = None
    """The bundle, export folder or run."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of a bundle's weights while it scores."""

    @model_validator(mode="after")
    def _path_fits(self) -> Self:
        if (self.path is None) != (self.kind in ("bm25", "random")):
            raise ValueError(f"kind {self.kind} {'takes no' if self.path else 'needs a'} path")
        return self


class EvalConfig(Settings):
    """Evaluation: systems score judged pairs (or rerank candidates) and are measured."""

    out: str
    """Folder for one run file and one metrics file per system."""
    judged: list[InputPath] = []
    """Judged pairs; by default every system ranks the judged documents of each query."""
    candidates: list[InputPath] = []
    """Rank these instead, and measure with the judgments; unjudged documents count as not relevant."""
    qrels: InputPath | None = None
    """TREC qrels that replace the labels of `judged`, for judgments whose text is not at hand."""
    systems: dict[str, SystemConfig]
    """Name → system."""
    measures: list[str] = ["nDCG@5", "nDCG@10", "PNR"]
    """Measures in ir-measures' syntax, and PNR."""
    tokens_per_batch: Positive = 8192
    """Tokens scored at once."""
    seed: int = 0
    """Seed of the random order."""

    @model_validator(mode="after")
    def _some_judgments(self) -> Self:
        if not self.judged and self.qrels is None:
            raise ValueError("give judged, or qrels together with candidates")
        if self.qrels is not None and not self.candidates:
            raise ValueError("qrels hold no texts: give the candidates to rank")
        return self


class ReportConfig(Settings):
    """The report over evaluated systems."""

    evaluated: list[InputPath]
    """Folders that eval/run.py wrote."""
    out: str
    """Folder for report.html, report.md and report.json."""
    judged: list[InputPath] = []
    """The judged pairs that were measured: gives the page its query texts and rankings side by side."""
    baseline: str | None = None
    """System that the others are compared with; null compares each with the next better one."""
    title: str = "Ranker evaluation"
    """Heading of the report."""


class ExportConfig(Settings):
    """Export of a student, with proof that it scores as before."""

    bundle: InputPath
    """Bundle of the student."""
    out: str
    """Folder of the export."""
    judged: list[InputPath]
    """Pairs for the parity check; the first `parity_pairs` are scored both ways."""
    parity_pairs: Positive = 200
    """Pairs in the parity check."""
    max_difference: Annotated[float, Field(gt=0.0)] = 1e-4
    """Largest difference of a score from torch's that is accepted."""
    opset: Annotated[int, Field(ge=14)] = 17
    """ONNX operator set."""
