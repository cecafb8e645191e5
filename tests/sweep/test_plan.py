"""Steps, needs and keys of a sweep; every fault of every step is found before one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from disranker.config.sweep import StepConfig, SweepConfig
from disranker.launch import STAGES
from disranker.settings import SettingsError
from disranker.sweep.plan import Step, make_plan, stage_config
from disranker.sweep.runner import command_line

RANK = {
    "judged": ["{seed_dir}/world/judged.train.parquet"],
    "model.name": "{seed_dir}/pretrain",
    "optim.learning_rate": 0.001,
    "training.steps": 3,
}
PRETRAIN = {"clicks": ["{seed_dir}/world/clicks.parquet"], "model.name": "some/llm"} | {
    "optim.learning_rate": 0.001,
    "training.steps": 5,
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(**changed: Any) -> SweepConfig:
    given = {
        "out": "s",
        "seeds": [0, 1],
        "prepare": [{"stage": "world", "set": {"rows": 50}}, {"stage": "pretrain", "set": PRETRAIN}],
        "each": [{"stage": "rank", "set": RANK}],
        "vary": {"hinge": {"loss": "hinge"}, "ranknet": {"loss": "ranknet"}},
        "references": {"bm25": {"kind": "bm25"}},
        "evaluate": {"judged": ["{seed_dir}/world/judged.test.parquet"]},
        "baseline": "hinge",
    }
    return SweepConfig.model_validate(given | changed)


def steps(**changed: Any) -> dict[str, Step]:
    return {step.name: step for step in make_plan(config(**changed))}


def faults(**changed: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        make_plan(config(**changed))
    return [str(fault) for fault in caught.value.faults]


def keys(**changed: Any) -> dict[str, str]:
    return {name: step.key for name, step in steps(**changed).items()}


def changed_steps(**changed: Any) -> set[str]:
    before, after = keys(), keys(**changed)
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def rank(**more: Any) -> list[dict[str, Any]]:
    return [{"stage": "rank", "set": RANK | more}]


def test_the_steps_and_what_they_need() -> None:
    of = {name: set(step.needs) for name, step in steps(seeds=[3]).items()}
    assert of == {
        "seed-3/world": set(),
        "seed-3/pretrain": {"seed-3/world"},
        "seed-3/eval": {"seed-3/world"},
        "seed-3/hinge.rank": {"seed-3/world", "seed-3/pretrain"},
        "seed-3/hinge.eval": {"seed-3/world", "seed-3/hinge.rank"},
        "seed-3/ranknet.rank": {"seed-3/world", "seed-3/pretrain"},
        "seed-3/ranknet.eval": {"seed-3/world", "seed-3/ranknet.rank"},
    }
    assert [name for name in steps() if name.startswith("seed-1")] == [name.replace("3", "1", 1) for name in of]


def test_a_command_is_what_a_user_would_type() -> None:
    found = steps()
    assert command_line(found["seed-1/world"]) == "disranker world --out s/seed-1/world --seed 1 --rows 50"
    assert command_line(found["seed-1/ranknet.rank"]) == (
        "disranker rank --out s/seed-1/variants/ranknet/rank --training.seed 1 "
        "--judged '[\"s/seed-1/world/judged.train.parquet\"]' --model.name s/seed-1/pretrain "
        "--optim.learning_rate 0.001 --training.steps 3 --loss ranknet"
    )
    assert found["seed-1/ranknet.eval"].made == Path("s/seed-1/evaluated/ranknet.metrics.json")


def test_a_given_seed_wins() -> None:
    fixed = [{"stage": "world", "set": {"rows": 50, "seed": 7}}, {"stage": "pretrain", "set": PRETRAIN}]
    world = steps(prepare=fixed)["seed-1/world"]
    assert world.arguments == ("--out", "s/seed-1/world", "--seed", "7", "--rows", "50")


def test_variants_with_steps_of_their_own() -> None:
    own = [
        {"stage": "pretrain", "name": "more", "set": PRETRAIN},
        {"stage": "rank", "set": RANK | {"model.name": "{dir}/more"}},
    ]
    found = steps(seeds=[0], variants={"longer": own})
    assert set(found["seed-0/longer.rank"].needs) == {"seed-0/world", "seed-0/longer.more"}
    assert "s/seed-0/variants/longer/more" in found["seed-0/longer.rank"].arguments


def test_vary_step_names_the_step_that_differs() -> None:
    each = [
        {"stage": "pretrain", "name": "more", "set": PRETRAIN},
        {"stage": "rank", "set": RANK | {"model.name": "{dir}/more"}},
    ]
    vary = {"hinge": {}, "long": {"training.steps": 9}}
    found = steps(seeds=[0], each=each, vary=vary, vary_step="more")
    assert found["seed-0/long.more"].arguments[-1] == "9" and found["seed-0/hinge.more"].arguments[-1] == "5"
    assert found["seed-0/long.rank"].arguments[2:] == tuple(
        word.replace("hinge", "long") for word in found["seed-0/hinge.rank"].arguments[2:]
    )


# --- keys: what has to be done anew ---


def test_the_same_settings_have_the_same_keys() -> None:
    assert changed_steps() == set()
    # Said another way, or in other words of the sweep's own, nothing has changed.
    assert changed_steps(each=rank(loss="hinge"), jobs=1, title="T", baseline="ranknet") == set()
    assert changed_steps(each=[{"stage": "rank", "set": dict(reversed(RANK.items()))}]) == set()


def test_a_changed_variant_is_done_anew_alone() -> None:
    vary = {"hinge": {"loss": "hinge"}, "ranknet": {"loss": "ranknet", "docs_per_query": 5}}
    assert changed_steps(vary=vary) == {f"seed-{s}/ranknet.{kind}" for s in (0, 1) for kind in ("rank", "eval")}


def test_what_builds_on_a_changed_step_is_done_anew() -> None:
    prepare = [{"stage": "world", "set": {"rows": 50}}, {"stage": "pretrain", "set": PRETRAIN | {"training.steps": 6}}]
    assert changed_steps(prepare=prepare) == {
        name for name in keys() if not name.endswith("/world") and not name.endswith("/eval")
    }
    world = [{"stage": "world", "set": {"rows": 51}}, {"stage": "pretrain", "set": PRETRAIN}]
    assert changed_steps(prepare=world) == set(keys())


def test_the_content_of_files_counts(tmp_path: Path) -> None:
    judged, stage_file = tmp_path / "judged.jsonl", tmp_path / "rank.yaml"
    judged.write_text("one")
    stage_file.write_text("text: {max_tokens: 40}")
    each = [{"stage": "rank", "config": stage_file, "set": RANK | {"judged_dev": [str(judged)]}}]
    first = keys(each=each)
    judged.write_text("two")
    second = keys(each=each)
    stage_file.write_text("text: {max_tokens: 41}")
    third = keys(each=each)
    stage_file.write_text("# the same\ntext: {max_tokens: 41}")
    assert keys(each=each) == third
    for before, after in ((first, second), (second, third)):
        assert {name for name in before if before[name] != after[name]} == {
            f"seed-{s}/{v}.{kind}" for s in (0, 1) for v in ("hinge", "ranknet") for kind in ("rank", "eval")
        }


# --- faults ---


def test_faults_of_all_steps_are_told_at_once_and_once() -> None:
    found = faults(
        each=rank(los="hinge"),
        vary={"hinge": {}, "ranknet": {"loss": "rank-net"}},
        references={"bm25": {"kind": "bm52"}},
        evaluate={"judged": ["{seed_dir}/world/judged.test.parquet"], "measure": "nDCG"},
    )
    assert [fault.split(" = ")[0] for fault in found] == [
        "references.eval: systems.bm25.kind",
        "references.eval: measure",
        "hinge.rank: los",
        "ranknet.rank: loss.0.name",
    ]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (
            {"each": rank(**{"model.name": "{seed_dir}/pretrained"})},
            "hinge.rank: model.name = s/seed-0/pretrained: no earlier step of this seed or variant writes this",
        ),
        (
            {"each": rank(judged=["no/such"])},
            "hinge.rank: judged.0 = no/such: there is no such file or folder",
        ),
        (
            {"each": rank(**{"model.name": "{sed_dir}/pretrain"})},
            "hinge.rank: model.name = {sed_dir}/pretrain: there is no {sed_dir} here; "
            "there are {seed}, {seed_dir}, {dir}",
        ),
        (
            {"variants": {"other": rank(**{"model.name": "{seed_dir}/variants/hinge/rank"})}},
            "other.rank: model.name = s/seed-0/variants/hinge/rank: "
            "no earlier step of this seed or variant writes this",
        ),
    ],
)
def test_a_wrong_path_is_named(changed: dict[str, Any], fault: str) -> None:
    assert faults(**changed) == [fault]


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_the_settings_class_of_every_stage_is_found(stage: str) -> None:
    assert "out" in stage_config(stage).model_fields


def test_the_stages_of_a_step_are_commands() -> None:
    assert set(get_args(StepConfig.model_fields["stage"].annotation)) - {"world"} < STAGES.keys()


def test_the_settings_refuse_what_cannot_be() -> None:
    refused = {
        "each name belongs to one variant": {"references": {"hinge": {"kind": "bm25"}}},
        "'a b': a variant is named with": {"vary": {"hinge": {}, "a b": {}}},
        "there is nothing to sweep": {"each": [], "vary": {}, "baseline": "bm25"},
        "baseline 'x' is no variant and no reference": {"baseline": "x"},
        "retention_of 'x' is no variant and no reference": {"retention_of": "x"},
        "each and vary go together": {"each": [], "variants": {"own": rank()}},
        "vary_step 'x' is no step of each": {"vary_step": "x"},
        "prepare: 'steps': a step is named with": {"prepare": [{"stage": "world", "name": "steps"}]},
        "prepare: several steps write to world": {"prepare": [{"stage": "world"}, {"stage": "world"}]},
        "the last step must make a ranker": {"each": [{"stage": "pretrain", "set": PRETRAIN}]},
        "variants: own has no step": {"variants": {"own": []}},
        "seeds holds one seed twice": {"seeds": [1, 1]},
        "the sweep gives out, systems itself": {"evaluate": {"out": "x", "systems": {}}},
    }
    for words, changed in refused.items():
        with pytest.raises(ValueError, match=words.replace("(", r"\(")):
            config(**changed)
