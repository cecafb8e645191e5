"""The settings of the stages: every impossible pair is a fault, and what is possible passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from disranker.config.distill import DistillConfig
from disranker.config.distill_terms import describe_sum
from disranker.config.evaluation import EvalConfig, ReportConfig
from disranker.config.export import ExportConfig
from disranker.config.losses import check_labels, describe_terms
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


@pytest.mark.parametrize(
    ("config", "changed"),
    [
        (PretrainConfig, {"evidence.position": "{propensities: [1, 0.5]}", "evidence.dwell": "{min_seconds: 3}"}),
        (ScoreConfig, {"teacher": None, "run": "here"}),
        (ReportConfig, {"judged": "[here]", "clicks": "{log: [here], propensities: [1, 0.5]}"}),
    ],
)
def test_what_only_one_choice_has_comes_back_from_the_dump_of_another(
    config: type[Settings], changed: dict[str, str | None]
) -> None:
    """A dump names every field: at its default it is not asked for."""
    settings = parse(config, changed)
    Path("c.yaml").write_text(dump(settings))
    assert config.parse(["--config", "c.yaml"]) == settings


def test_losses_and_quotas_come_back_from_a_dump() -> None:
    losses = "[hinge, {name: lambda, k: 10, weight: 0.5}, {name: bce, max_label: 4}]"
    settings = parse(RankConfig, {"loss": losses, "sampling.quotas": "{0: 8, 3: 1}"})
    Path("c.yaml").write_text(dump(settings))
    again = RankConfig.parse(["--config", "c.yaml"])
    assert again == settings
    assert again.sampling.quotas == {0: 8, 3: 1}
    (fault,) = faults(RankConfig, {"sampling.quotas": "{3: 0}"})
    assert fault.startswith("sampling.quotas.3 = 0: must be greater than 0")
    assert [term.parameters for term in again.loss] == [{"margin": 1.0}, {"k": 10, "mu": 10.0}, {"max_label": 4}]
    shown = "hinge (margin 1) + 0.5 x lambda (k 10, mu 10) + bce (max_label 4)"
    assert describe_terms(again.loss) == shown
    check_labels(again.loss, 4.0)
    with pytest.raises(ValueError, match="the labels go up to 5, but max_label of bce is 4"):
        check_labels(again.loss, 5.0)


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


def test_a_dry_run_is_a_flag_with_fields_and_may_lack_its_inputs() -> None:
    least = [f"--{name}={text}" for name, text in LEAST[RankConfig].items() if name != "judged"]
    gone = [*least, "--judged=[gone]"]
    for flags in (["--dry-run"], ["--dry_run"], ["--dry-run.world_size", "8", "--dry-run"]):
        settings = RankConfig.parse([*gone, *flags])
        assert settings.dry_run is not None and settings.dry_run.world_size == (8 if len(flags) > 1 else None)
        assert "dry_run" not in dump(settings)
    for words in (gone, [*gone, "--dry-run", "--training.steps", "x"]):  # all faults, as ever
        with pytest.raises(SettingsError) as caught:
            RankConfig.parse(words)
        assert ["judged" in str(fault) for fault in caught.value.faults].count(True) == 1
        assert len(caught.value.faults) == (1 if words is gone else 2)
    with pytest.raises(SettingsError, match=r"dry_run\.memory_gb = 0: must be greater than 0"):
        RankConfig.parse([*least, "--judged=[here]", "--dry-run.memory_gb=0"])


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
    (
        RankConfig,
        {"loss": "[{name: ranknet, margin: 1}]"},
        "loss.0: margin belongs to hinge and gap-hinge; ranknet has none",
    ),
    (RankConfig, {"loss": "[hinge, {name: mse, k: 5}]"}, "loss.1: k belongs to lambda; mse has none"),
    (
        RankConfig,
        {"loss": "[{name: lambda, temperature: 1}]"},
        "loss.0: temperature belongs to approx-ndcg; lambda has none",
    ),
    (
        RankConfig,
        {"loss": "bce"},
        "loss.0: bce needs max_label, the highest grade that labels can have: write {name: bce, max_label: 4}",
    ),
    (RankConfig, {"loss": "[]"}, "loss is an empty list: name at least one"),
    (
        RankConfig,
        {"loss": "[hinge, hinge]"},
        "loss has hinge twice: give each loss once, with the weight that it is to have",
    ),
    (RankConfig, {"loss": "[{name: hinge, weight: 0}]"}, "every weight of loss is 0: nothing would be learned"),
    (
        RankConfig,
        {"sampling.guard": "{scores: here, margin: 1}"},
        "sampling: guard checks negatives, and there are none: set hard_negatives or random_negatives",
    ),
    (
        RankConfig,
        {
            "sampling.hard_negatives": "{runs: [here], candidates: [here], num_per_query: 6}",
            "docs_per_query": "8",
            "sampling.random_negatives": "2",
        },
        "sampling gives a group 8 negatives, and docs_per_query is 8: no place is left for a judged document",
    ),
    (
        RankConfig,
        {"sampling.hard_negatives": "{runs: [here], candidates: [here], num_per_query: 1, first_position: 101}"},
        "sampling.hard_negatives: first_position 101 is behind last_position 100",
    ),
    (
        RankConfig,
        {"sampling.hard_negatives": "{runs: [here], candidates: [here], num_per_query: 5, last_position: 4}"},
        "sampling.hard_negatives: num_per_query is 5, more documents than positions 1 to 4 have in a run",
    ),
    (RankConfig, {"model.name": "null"}, "model: give a name, or an architecture to build a fresh model from"),
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
    (ScoreConfig, {"teacher": None}, "give exactly one of teacher, run, scores and ordering"),
    (ScoreConfig, {"run": "here"}, "give exactly one of teacher, run, scores and ordering"),
    (
        DistillConfig,
        {"distill": "[{name: kl, weight: 0}]"},
        "every weight of distill and supervised is 0: nothing would be learned",
    ),
    (
        DistillConfig,
        {"distill": "[]"},
        "distill is an empty list: name a term, or train on labels alone with rank/train.py",
    ),
    (
        DistillConfig,
        {"distill": "[kl, {name: kl, temperature: 2}]"},
        "distill has kl twice: give each term once, with the weight that it is to have",
    ),
    (
        DistillConfig,
        {"distill": "[{name: point-mse, temperature: 2}]"},
        "distill.0: temperature belongs to kl and cross-entropy and weighted-kl and adr-mse; point-mse has none",
    ),
    (
        DistillConfig,
        {"distill": "[{name: kl, against: first}]"},
        "distill.0: against belongs to margin-mse; kl has none",
    ),
    (
        DistillConfig,
        {"distill": "[hidden-mse]", "teacher": "here"},
        "distill.0: hidden-mse needs layers, the student's layer -> the teacher's: write {name: hidden-mse, layers: "
        "{3: 6, 6: 12}}",
    ),
    (
        DistillConfig,
        {"distill": "[{name: kl, start: 5, end: 5}]", "training.steps": "9"},
        "distill.0: start 5 is not before end 5: the term would never count",
    ),
    (
        DistillConfig,
        {"distill": "[point-mse, {name: kl, start: 9}]", "training.steps": "9"},
        "kl of distill starts at step 9, and the run has 9 steps, 0 to 8: it would never count",
    ),
    (
        DistillConfig,
        {"distill": "[{name: kl, end: 3}, {name: ranknet, start: 4}]", "training.steps": "9"},
        "no term with a weight counts in step 3: close the gap between start and end",
    ),
    (
        DistillConfig,
        {"distill": "[{name: kl, start: 2}]", "training.steps": "9"},
        "no term with a weight counts in step 0: close the gap between start and end",
    ),
    (DistillConfig, {"supervised": "[ranknet]"}, "supervised learns from labels: give judged"),
    (
        DistillConfig,
        {"judged": "[here]"},
        "judged is read by supervised terms only: name one, as in supervised: [ranknet]",
    ),
    (
        DistillConfig,
        {"judged": "[here]", "supervised": "[{name: mse, k: 3}]"},
        "supervised.0: k belongs to lambda; mse has none",
    ),
    (
        DistillConfig,
        {"distill": "[attention-relation]"},
        "attention-relation runs the teacher beside the student: give its bundle as teacher",
    ),
    (
        DistillConfig,
        {"teacher": "here"},
        "teacher is run for attention-relation and hidden-mse only: leave it out",
    ),
    (
        DistillConfig,
        {"distill": "[rkd-angle]", "docs_per_query": "2"},
        "rkd-angle compares 3 documents of a query, and docs_per_query is 2: raise it",
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
        (RankConfig, {"loss": "[{name: hinge, margin: 0.5}]"}),
        (RankConfig, {"sampling.quotas": "{0: 8, 3: 1}"}),
        (RankConfig, {"sampling.random_negatives": "15", "sampling.guard": "{scores: here, margin: 0}"}),
        (RankConfig, {"loss": "[{name: hinge, weight: 0}, {name: ordinal, max_label: 3}]"}),
        (RankConfig, {"model.name": "null", "model.tokenizer": "t", "model.architecture": "{model_type: bert}"}),
        (ScoreConfig, {"teacher": None, "run": "here"}),
        (DistillConfig, {"distill": "kl"}),
        (DistillConfig, {"distill": "[{name: kl, weight: 0}, {name: margin-mse, against: first}]"}),
        (DistillConfig, {"distill": "[{name: kl, weight: 0}]", "judged": "[here]", "supervised": "hinge"}),
        (DistillConfig, {"distill": "[{name: kl, end: 3}, {name: adr-mse, start: 3}]", "training.steps": "4"}),
        (DistillConfig, {"distill": "[{name: kl, end: 9}]", "training.steps": "9"}),
        # how many steps two epochs are is known later
        (DistillConfig, {"distill": "[{name: kl, end: 9}]", "training.steps": "null", "training.epochs": "2"}),
        (DistillConfig, {"distill": "[{name: hidden-mse, layers: {1: 2, 2: 4}}]", "teacher": "here"}),
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
        (RankConfig, "loss.0.name", "nll"),
        (RankConfig, "sampling.random_negatives", "-1"),
        (RankConfig, "model.dtype", "float16"),
        (RankConfig, "model.lora.r", "0"),
        (PretrainConfig, "dev_share", "1.0"),
        (PretrainConfig, "max_clicks", "0"),
        (ScoreConfig, "pairs_per_shard", "0"),
        (DistillConfig, "distill.0.name", "mse"),
        (DistillConfig, "supervised.0.name", "kl"),
        (EvalConfig, "systems.a.kind", "bert"),
        (ExportConfig, "max_difference", "0"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_path(config: type[Settings], name: str, text: str) -> None:
    found = faults(config, {name: text})
    assert len(found) == 1 and found[0].startswith(f"{name} = ")


@pytest.mark.parametrize(
    ("field", "text"), [("weight", "-1"), ("temperature", "0"), ("start", "-1"), ("end", "0"), ("against", "best")]
)
def test_a_parameter_of_a_term_out_of_range_is_named_with_its_path(field: str, text: str) -> None:
    term = f"{{name: {'margin-mse' if field == 'against' else 'kl'}, {field}: {text}}}"
    (fault,) = faults(DistillConfig, {"distill": f"[point-mse, {term}]"})
    assert fault.startswith(f"distill.1.{field} = {text}: must be ")


def test_terms_of_a_teacher_and_of_labels_come_back_from_a_dump() -> None:
    terms = "[kl, {name: margin-mse, against: first, weight: 0.5, end: 1}, {name: hidden-mse, layers: {1: 2}}]"
    words: dict[str, str | None] = {"distill": terms, "teacher": "here", "judged": "[here]", "training.steps": "3"}
    settings = parse(DistillConfig, {**words, "supervised": "[hinge, {name: bce, max_label: 4, start: 1}]"})
    Path("c.yaml").write_text(dump(settings))
    again = DistillConfig.parse(["--config", "c.yaml"])
    assert again == settings
    assert [term.parameters for term in again.distill] == [
        {"temperature": 1.0},
        {"against": "first"},
        {"layers": {1: 2}},
    ]
    assert describe_sum(again.distill, again.supervised) == (
        "kl (temperature 1) + 0.5 x margin-mse (against first) before step 1 + hidden-mse (layers {1: 2}); "
        "labels: hinge (margin 1) + bce (max_label 4) from step 1"
    )


def test_all_faults_come_at_once() -> None:
    changed = {"training.epochs": "2", "model.name": "null", "distill": "[{name: kl, weight: 0}]"}
    found = faults(DistillConfig, {**changed, "optim.learning_rate": "-1", "store": "gone", "lerning_rate": "1"})
    starts = (
        "training: give",
        "model: give",
        "every weight of distill",
        "optim.learning_rate",
        "store",
        "lerning_rate",
    )
    assert [sum(fault.startswith(start) for fault in found) for start in starts] == [1] * len(starts)
    assert len(found) == len(starts)
    assert "did you mean optim.learning_rate?" in " ".join(found)


def test_the_tokenizer_is_with_the_model_unless_it_is_named() -> None:
    alone, named = parse(RankConfig, {}), parse(RankConfig, {"model.tokenizer": "t"})
    assert isinstance(alone, RankConfig) and isinstance(named, RankConfig)
    assert (alone.model.tokenizer_name, named.model.tokenizer_name) == ("m", "t")
