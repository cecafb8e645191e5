"""The settings of the stages: every impossible pair is a fault, and what is possible passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from disranker.config.distill import DistillConfig
from disranker.config.evaluation import EvalConfig, ReportConfig
from disranker.config.export import ExportConfig
from disranker.config.pretrain import PretrainConfig
from disranker.config.rank import RankConfig
from disranker.config.score import ScoreConfig
from disranker.settings import Settings, SettingsError, dump

# What a call needs at least; `here` is a file that exists.
_TRAINED = {"out": "x", "model.name": "m", "optim.learning_rate": "1e-3", "training.steps": "1"}
LEAST: dict[type[Settings], dict[str, str]] = {
    PretrainConfig: {**_TRAINED, "clicks": "[here]"},
    RankConfig: {**_TRAINED, "judged": "[here]"},
    ScoreConfig: {"out": "x", "candidates": "[here]", "teacher": "t"},
    DistillConfig: {**_TRAINED, "store": "here", "candidates": "[here]"},
    EvalConfig: {"out": "x", "judged": "[here]", "systems": "{a: {kind: random}}"},
    ReportConfig: {"out": "x", "evaluated": "[here]"},
    ExportConfig: {"out": "x", "bundle": "here", "judged": "[here]"},
}
STAGES = pytest.mark.parametrize("config", list(LEAST), ids=lambda config: config.__name__)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").write_text("")


def parse(config: type[Settings], changed: dict[str, str | None]) -> Settings:
    """The settings of the least call with some of its words changed; None takes a word out."""
    words = {**LEAST[config], **changed}
    return config.parse([part for name, text in words.items() if text is not None for part in (f"--{name}", text)])


def faults(config: type[Settings], changed: dict[str, str | None]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse(config, changed)
    return [str(fault) for fault in caught.value.faults]


@STAGES
def test_the_least_call_passes_and_comes_back_from_its_dump(config: type[Settings], tmp_path: Path) -> None:
    settings = parse(config, {})
    (tmp_path / "c.yaml").write_text(dump(settings))
    assert config.parse(["--config", "c.yaml"]) == settings


@STAGES
def test_every_word_of_the_least_call_is_needed(config: type[Settings]) -> None:
    for name in LEAST[config]:
        assert faults(config, {name: None}), name


@STAGES
def test_an_input_that_is_not_there_is_named(config: type[Settings]) -> None:
    for name, text in LEAST[config].items():
        if "here" in text:
            (fault,) = faults(config, {name: text.replace("here", "gone")})
            assert fault.startswith(name) and "gone" in fault and "no such file or folder" in fault


ONE_OF_TWO = "training: give exactly one of steps and epochs"
IMPOSSIBLE = [
    # (settings, what is changed, the one fault)
    (RankConfig, {"training.epochs": "2"}, ONE_OF_TWO),
    (PretrainConfig, {"training.epochs": "2"}, ONE_OF_TWO),
    (DistillConfig, {"training.steps": "null"}, ONE_OF_TWO),
    (RankConfig, {"training.patience": "2"}, "training: patience counts evaluations: set evaluate_every too"),
    (
        DistillConfig,
        {"training.evaluate_every": "5"},
        "training.evaluate_every measures on judged_dev: give it, or set evaluate_every to null",
    ),
    (RankConfig, {"loss": "ranknet", "margin": "0.5"}, "margin belongs to the hinge loss; ranknet has none"),
    (RankConfig, {"model.name": "null"}, "model: give exactly one of name and architecture"),
    (
        RankConfig,
        {"model.architecture": "{model_type: bert}", "model.tokenizer": "t"},
        "model: give exactly one of name and architecture",
    ),
    (
        RankConfig,
        {"model.name": "null", "model.tokenizer": "t", "model.architecture": "{hidden_size: 8}"},
        "model: architecture needs a model_type, such as llama or bert",
    ),
    (
        RankConfig,
        {"model.name": "null", "model.architecture": "{model_type: bert}"},
        "model: architecture needs a tokenizer",
    ),
    (ScoreConfig, {"teacher": None}, "give exactly one of teacher and run"),
    (ScoreConfig, {"run": "here"}, "give exactly one of teacher and run"),
    (
        DistillConfig,
        {"point_weight": "0", "margin_weight": "0"},
        "point_weight and margin_weight are both 0: nothing would be learned",
    ),
    (EvalConfig, {"systems": "{a: {kind: bundle}}"}, "systems.a: kind bundle needs a path"),
    (EvalConfig, {"systems": "{a: {kind: onnx}}"}, "systems.a: kind onnx needs a path"),
    (EvalConfig, {"systems": "{a: {kind: run}}"}, "systems.a: kind run needs a path"),
    (EvalConfig, {"systems": "{a: {kind: bm25, path: here}}"}, "systems.a: kind bm25 takes no path"),
    (EvalConfig, {"systems": "{a: {kind: random, path: here}}"}, "systems.a: kind random takes no path"),
    (EvalConfig, {"judged": None}, "give judged, or qrels together with candidates"),
    (EvalConfig, {"qrels": "here"}, "qrels hold no texts: give the candidates to rank"),
    (EvalConfig, {"judged": None, "qrels": "here"}, "qrels hold no texts: give the candidates to rank"),
]


@pytest.mark.parametrize(("config", "changed", "expected"), IMPOSSIBLE)
def test_an_impossible_call_has_one_fault_that_says_what_to_do(
    config: type[Settings], changed: dict[str, str | None], expected: str
) -> None:
    assert faults(config, changed) == [expected]


@pytest.mark.parametrize(
    ("config", "changed"),
    [
        (RankConfig, {"training.steps": "null", "training.epochs": "2"}),
        (RankConfig, {"training.patience": "2", "training.evaluate_every": "5", "judged_dev": "[here]"}),
        (RankConfig, {"loss": "hinge", "margin": "0.5"}),
        (RankConfig, {"model.name": "null", "model.tokenizer": "t", "model.architecture": "{model_type: bert}"}),
        (ScoreConfig, {"teacher": None, "run": "here"}),
        (DistillConfig, {"point_weight": "0"}),
        (DistillConfig, {"margin_weight": "0"}),
        (EvalConfig, {"systems": "{a: {kind: bundle, path: here}, b: {kind: bm25}}"}),
        (EvalConfig, {"qrels": "here", "candidates": "[here]"}),
        (EvalConfig, {"judged": None, "qrels": "here", "candidates": "[here]"}),
    ],
)
def test_the_possible_neighbours_of_impossible_calls_pass(
    config: type[Settings], changed: dict[str, str | None]
) -> None:
    parse(config, changed)


@pytest.mark.parametrize(
    ("config", "name", "text"),
    [
        (RankConfig, "optim.learning_rate", "0"),
        (RankConfig, "optim.learning_rate", ".inf"),
        (RankConfig, "optim.weight_decay", "-0.1"),
        (RankConfig, "optim.warmup_share", "1.1"),
        (RankConfig, "optim.schedule", "exponential"),
        (RankConfig, "optim.clip_norm", "0"),
        (RankConfig, "training.steps", "0"),
        (RankConfig, "training.accumulation", "0"),
        (RankConfig, "training.zero_stage", "4"),
        (RankConfig, "training.tokens_per_step", "1.5"),
        (RankConfig, "text.max_tokens", "7"),
        (RankConfig, "docs_per_query", "1"),
        (RankConfig, "margin", "0"),
        (RankConfig, "loss", "mse"),
        (RankConfig, "model.dtype", "float16"),
        (RankConfig, "model.lora.r", "0"),
        (PretrainConfig, "dev_share", "1.0"),
        (PretrainConfig, "max_clicks", "0"),
        (ScoreConfig, "pairs_per_shard", "0"),
        (DistillConfig, "point_weight", "-1"),
        (EvalConfig, "systems.a.kind", "bert"),
        (ExportConfig, "max_difference", "0"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_path(config: type[Settings], name: str, text: str) -> None:
    found = faults(config, {name: text})
    assert len(found) == 1 and found[0].startswith(f"{name} = ")


def test_all_faults_come_at_once() -> None:
    changed = {"training.epochs": "2", "model.name": "null", "point_weight": "0", "margin_weight": "0"}
    found = faults(DistillConfig, {**changed, "optim.learning_rate": "-1", "store": "gone", "lerning_rate": "1"})
    starts = ("training: give", "model: give", "point_weight and", "optim.learning_rate", "store", "lerning_rate")
    assert [sum(fault.startswith(start) for fault in found) for start in starts] == [1] * len(starts)
    assert len(found) == len(starts)
    assert "did you mean optim.learning_rate?" in " ".join(found)


def test_the_tokenizer_is_with_the_model_unless_it_is_named() -> None:
    alone, named = parse(RankConfig, {}), parse(RankConfig, {"model.tokenizer": "t"})
    assert isinstance(alone, RankConfig) and isinstance(named, RankConfig)
    assert (alone.model.tokenizer_name, named.model.tokenizer_name) == ("m", "t")
