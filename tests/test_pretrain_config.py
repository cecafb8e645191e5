"""The settings of stage 1: what goes together and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from disranker.config.pretrain import PretrainConfig
from disranker.settings import SettingsError, dump

LEAST = {
    "out": "x",
    "clicks": "[here]",
    "model.name": "m",
    "optim.learning_rate": "1e-3",
    "training.steps": "1",
}
REPLAY = {"replay": "{texts: [here], share: 0.1}"}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").write_text("")


def parse(changed: dict[str, str | None]) -> PretrainConfig:
    words = {**LEAST, **changed}
    argv = [part for name, text in words.items() if text is not None for part in (f"--{name}", text)]
    return PretrainConfig.parse(argv)


def faults(changed: dict[str, str | None]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse(changed)
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"objectives.document_given_query": "0"}, "every share of objectives is 0: nothing would be learned"),
        (
            {"penalty": "{kind: ewc, weight: 1}"},
            "penalty ewc estimates what general text depends on: set replay too, or choose l2-sp",
        ),
        (
            {"penalty": "{kind: l2-sp, weight: 1, fisher_texts: 5}"},
            "penalty: fisher_texts belongs to ewc; l2-sp has none",
        ),
        (
            {"penalty": "{kind: l2-sp, weight: 1}", "training.zero_stage": "3"},
            "penalty compares whole weights, which training.zero_stage 3 partitions: use 0, 1 or 2",
        ),
        (
            {"penalty": "{kind: l2-sp, weight: 1}", "model.lora": "{variant: dora}"},
            "penalty knows how far lora and rslora move a weight, but not dora: set another variant",
        ),
        (
            {**REPLAY, "penalty": "{kind: ewc, weight: 1}", "model.lora": "{}", "model.quantization": "nf4"},
            "penalty ewc needs gradients of the weights, which 4-bit ones have none of: choose l2-sp",
        ),
        (
            {
                "penalty": "{kind: l2-sp, weight: 1}",
                "model.name": None,
                "model.tokenizer": "t",
                "model.architecture": "{model_type: llama}",
            },
            "penalty keeps a model near its start, and model.architecture starts from random weights",
        ),
        (
            {**REPLAY, "general_dev": "[here]"},
            "general_dev and replay.texts share here: measure on what is not learnt",
        ),
        (
            {"training.evaluate_every": "5", "dev_share": "0"},
            "training.evaluate_every measures on held-out clicks: set dev_share above 0",
        ),
    ],
)
def test_an_impossible_call_has_one_fault_that_says_what_to_do(changed: dict[str, str | None], expected: str) -> None:
    (fault,) = faults(changed)
    assert fault.removeprefix("objectives: ") == expected


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "1.5"])
def test_a_share_of_general_text_lies_between_none_and_all(share: str) -> None:
    (fault,) = faults({"replay": f"{{texts: [here], share: {share}}}"})
    assert fault.startswith(f"replay.share = {share}: ")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"replay": "{texts: [], share: 0.1}"}, "replay.texts = []: "),
        ({"replay": "{texts: [gone], share: 0.1}"}, "replay.texts.0 = gone: "),
        ({"general_dev": "[gone]"}, "general_dev.0 = gone: "),
        ({"penalty": "{kind: ewc2, weight: 1}"}, "penalty.kind = ewc2: "),
        ({"penalty": "{kind: l2-sp, weight: 0}"}, "penalty.weight = 0: "),
        ({"objectives.document": "-1"}, "objectives.document = -1: "),
        ({"objectives.query": "1"}, "objectives.query = 1: no such field; here are document_given_query, query_"),
    ],
)
def test_a_value_at_fault_is_named_with_its_path(changed: dict[str, str | None], named: str) -> None:
    assert faults(changed)[0].startswith(named)


def test_what_goes_together_comes_back_from_its_dump() -> None:
    config = parse(
        {
            **REPLAY,
            "objectives.query_given_document": "0.5",
            "penalty": "{kind: ewc, weight: 2, fisher_texts: 8}",
            "model.lora": "{variant: rslora}",
            "training.zero_stage": "2",
            "training.evaluate_every": "5",
        }
    )
    Path("c.yaml").write_text(dump(config))
    assert PretrainConfig.parse(["--config", "c.yaml"]) == config
    assert config.objectives.shares() == {"document_given_query": 1.0, "query_given_document": 0.5}
    assert config.penalty is not None
    assert config.penalty.describe() == "2 x ewc, Fisher information of 8 pieces at most"
    parse({"penalty": "{kind: l2-sp, weight: 1}", "model.lora": "{}", "model.quantization": "nf4"})
