"""Paths: their steps, and the table of what each ranker keeps of its teacher against figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disranker.config.path import PathConfig
from disranker.evaluation.measures import Measured, measure_run
from disranker.evaluation.runs import Efficiency, System, write_system
from disranker.settings import SettingsError, dump
from disranker.shards import write_json, write_manifest
from disranker.sweep.path_table import Hop, assemble_path, write_path
from disranker.sweep.plan import make_plan
from disranker.sweep.runner import command_line, run_plan
from tests.sweep.test_runner import run, world

TRAIN = {"optim.learning_rate": 0.001, "training.steps": 3, "candidates": ["c.jsonl"]}
STEPS = [
    {"stage": "distill", "name": "assistant", "set": {**TRAIN, "store": "given", "model.name": "some/bert"}},
    {"stage": "score", "name": "store", "set": {"teacher": "{dir}/assistant", "candidates": ["c.jsonl"]}},
    {"stage": "shrink", "set": {"model": "{dir}/assistant", "layers": [0, 2]}},
    {"stage": "distill", "name": "student", "set": {**TRAIN, "store": "{dir}/store", "model.name": "{dir}/shrink"}},
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("given", "teacher"):
        Path(name).mkdir()
    for name in ("c.jsonl", "judged.jsonl"):
        Path(name).write_text("")


def config(**changed: Any) -> PathConfig:
    references = {"teacher": {"kind": "bundle", "path": "teacher"}, "bm25": {"kind": "bm25"}}
    given = {"out": "p", "steps": STEPS, "references": references, "evaluate": {"judged": ["judged.jsonl"]}}
    return PathConfig.model_validate(given | changed)


# --- steps ---


def test_the_steps_and_what_they_need() -> None:
    plan = {step.name: step for step in make_plan(config())}
    assert {name: set(step.needs) for name, step in plan.items()} == {
        "seed-0/assistant": set(),
        "seed-0/store": {"seed-0/assistant"},
        "seed-0/shrink": {"seed-0/assistant"},
        "seed-0/student": {"seed-0/store", "seed-0/shrink"},
        "seed-0/eval": {"seed-0/assistant", "seed-0/student"},
    }
    # Each stage has its seed under its own name, and none where there is nothing to draw.
    assert command_line(plan["seed-0/store"]) == (
        "disranker score --out p/seed-0/store --teacher p/seed-0/assistant --candidates '[\"c.jsonl\"]'"
    )
    assert command_line(plan["seed-0/shrink"]) == (
        "disranker shrink --out p/seed-0/shrink --model p/seed-0/assistant --layers '[0, 2]'"
    )
    assert command_line(plan["seed-0/student"]).startswith(
        "disranker distill --out p/seed-0/student --training.seed 0 "
    )
    assert {step.name for step in make_plan(config(seeds=[3, 5]))} == {
        name.replace("-0", f"-{seed}") for name in plan for seed in (3, 5)
    }


def test_what_builds_on_a_changed_step_is_done_anew() -> None:
    def keys(steps: list[dict[str, Any]]) -> dict[str, str]:
        return {step.name.removeprefix("seed-0/"): step.key for step in make_plan(config(steps=steps))}

    before = keys(STEPS)
    changed = [*STEPS[:2], {**STEPS[2], "set": {**STEPS[2]["set"], "layers": [0, 1]}}, STEPS[3]]
    after = keys(changed)
    assert {name for name in before if before[name] != after[name]} == {"shrink", "student", "eval"}


def test_a_wrong_path_is_named() -> None:
    steps = [*STEPS[:3], {**STEPS[3], "set": {**STEPS[3]["set"], "store": "{dir}/stoer"}}]
    with pytest.raises(SettingsError) as caught:
        make_plan(config(steps=steps))
    (fault,) = caught.value.faults
    assert str(fault).startswith("steps.student: store = p/seed-0/stoer: no earlier step")


@pytest.mark.parametrize("name", ["assistant", "born_again", "warm"])
def test_the_shipped_paths_lack_nothing_but_the_demo(
    name: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    shipped = ["--config", f"distill/configs/path_{name}.yaml", "--out", "no/such/path"]
    try:
        make_plan(PathConfig.parse(shipped))
    except SettingsError as error:
        assert {fault.message for fault in error.faults} == {"there is no such file or folder"}
        assert all((fault.value or "").startswith("demo/") for fault in error.faults)


def test_the_settings_refuse_what_cannot_be() -> None:
    refused = {
        "steps make no ranker: one of them must be rank or distill": {"steps": STEPS[1:3]},
        "steps: several steps write to assistant": {"steps": [STEPS[0], STEPS[0]]},
        "assistant: each name belongs to one step or one reference": {"references": {"assistant": {"kind": "bm25"}}},
        "seeds holds one seed twice": {"seeds": [1, 1]},
        "the path gives out, systems itself": {"evaluate": {"out": "x", "systems": {}}},
    }
    for words, changed in refused.items():
        with pytest.raises(ValueError, match=words):
            config(**changed)


def test_the_settings_come_back_from_a_dump() -> None:
    settings = config(seeds=[1, 2], threads=3)
    Path("c.yaml").write_text(dump(settings))
    assert PathConfig.parse(["--config", "c.yaml"]) == settings


def test_a_path_stops_at_the_first_failure(tmp_path: Path) -> None:
    """Also steps that do not need the one that failed are not begun; the next call begins with that one."""
    out = tmp_path / "stopping"
    bad, other = world(out, "bad", rows="none"), world(out, "other")
    out.mkdir()
    (out / "lock").touch()
    with (out / "lock").open() as lock:
        outcome = run_plan([bad, other], jobs=1, threads=None, lock=lock.fileno(), stop_at_failure=True)
    assert list(outcome.failed) == ["seed-0/bad"] and outcome.blocked == {"seed-0/other": "seed-0/bad"}
    assert not other.made.exists()
    assert run(out, other).done == {"seed-0/other"}


# --- the table ---

LABELS = {f"q{query}": {"a": 0, "b": 1, "c": 2, "d": 3} for query in range(9)}
NOISE = {"teacher": 0.5, "bm25": 9.0, "assistant": 2.0, "student": 4.0}


def scores(name: str, seed: int) -> dict[str, dict[str, float]]:
    random = np.random.default_rng([seed, len(name)])
    return {
        query: {doc: label + NOISE[name] * random.normal() for doc, label in docs.items()}
        for query, docs in LABELS.items()
    }


def measured(name: str, seed: int) -> Measured:
    return measure_run(LABELS, scores(name, seed), ["nDCG@3", "PNR"])


def write_evaluated(settings: PathConfig) -> None:
    """What a finished path leaves: bundles, stores, evaluated systems, markers."""
    write_manifest("given", {"teacher": {"fingerprint": "f-teacher"}})
    for seed in settings.seeds:
        folder = Path("p", f"seed-{seed}")
        (folder / "store").mkdir(parents=True)
        write_manifest(folder / "store", {"teacher": {"fingerprint": f"f-assistant-{seed}"}})
        stores = {"assistant": "given", "student": str(folder / "store")}
        for name in NOISE:
            made = name in stores
            path = folder / name if made else Path(name)
            about: dict[str, Any] = {"judged": {"path": "p", "hash": "same"}, "training": {}}
            if name != "bm25":
                path.mkdir(exist_ok=True)
                write_json(path / "disranker.json", {"config": {"store": stores[name]} if made else {}})
                fingerprint = f"f-{name}-{seed}" if made else f"f-{name}"
                about |= {"path": str(path), "fingerprint": fingerprint}
                about["training"] = {"seconds": 10.0 + seed} if made else {}
            kind = "bm25" if name == "bm25" else "bundle"
            efficiency = Efficiency(parameters=1000 * len(name), pairs_per_second=123.4)
            run_of = scores(name, seed)
            rows = [(query, doc, score) for query, docs in run_of.items() for doc, score in docs.items()]
            system = System(name, kind, measured(name, seed), efficiency, about)
            write_system(folder / "evaluated", system, *zip(*rows, strict=True))


def hops(settings: PathConfig) -> dict[str, Hop]:
    write_evaluated(settings)
    return {hop.name: hop for hop in assemble_path(settings)}


def test_each_ranker_beside_its_teacher() -> None:
    found = hops(config())
    assert list(found) == ["teacher", "bm25", "assistant", "student"]
    assert {name: hop.teacher for name, hop in found.items()} == {
        "teacher": None,
        "bm25": None,
        "assistant": "teacher",
        "student": "assistant",
    }
    value = {name: measured(name, 0).aggregate["nDCG@3"] for name in NOISE}
    assert {name: hop.values["nDCG@3"] for name, hop in found.items()} == pytest.approx(value)
    assert found["student"].kept == pytest.approx(value["student"] / value["assistant"])
    assert found["student"].kept_of_first == pytest.approx(value["student"] / value["teacher"])
    assert found["assistant"].kept == found["assistant"].kept_of_first
    assert found["teacher"].kept is found["teacher"].kept_of_first is found["bm25"].kept is None
    assert found["student"].interval[0] <= value["student"] <= found["student"].interval[1]
    assert (found["assistant"].seconds, found["teacher"].seconds) == (10.0, None)


def test_a_teacher_that_was_not_measured() -> None:
    only = {"bm25": {"kind": "bm25"}}
    settings = config(references=only)
    found = hops(settings)
    assert (found["assistant"].teacher, found["student"].teacher) == (None, "assistant")
    value = {name: measured(name, 0).aggregate["nDCG@3"] for name in NOISE}
    assert found["student"].kept_of_first == pytest.approx(value["student"] / value["assistant"])


def test_several_seeds_are_pooled() -> None:
    found = hops(config(seeds=[0, 1]))
    both = [measured("student", seed).aggregate["nDCG@3"] for seed in (0, 1)]
    assert found["student"].values["nDCG@3"] == pytest.approx(np.mean(both))
    assert (found["student"].seconds, found["student"].teacher) == (10.5, "assistant")


def test_what_is_written() -> None:
    settings = config(title="Two hops")
    found = hops(settings)
    plan = make_plan(settings)
    for step in plan:
        step.marker.parent.mkdir(parents=True, exist_ok=True)
        step.marker.write_text(json.dumps({"state": "done", "seconds": 2.0}))
    text = write_path(settings, list(found.values()), plan)
    assert Path("p/path.md").read_text() == text
    lines = text.splitlines()
    assert lines[0] == "# Two hops"
    head = "|  | taught by | nDCG@3 (95%) | of its teacher | of the first | PNR | parameters | pairs/s | training |"
    assert lines[2] == head
    value, kept = found["student"].values["nDCG@3"], found["student"].kept
    assert kept is not None
    (student,) = [line for line in lines if line.startswith("| student |")]
    assert student.startswith(f"| student | assistant | {value:.4f} (")
    assert f" | {round(kept, 4) * 100:g}% | " in student and student.endswith(" | 7 k | 123 | 0:10 |")
    (teacher,) = [line for line in lines if line.startswith("| *teacher* |")]
    assert teacher.endswith("| 7 k | 123 | – |") and " | – | – | " in teacher
    content = json.loads(Path("p/path.json").read_text())
    assert [hop["name"] for hop in content["hops"]] == list(found)
    assert content["steps"][0] == {
        "step": "seed-0/assistant",
        "command": command_line(plan[0]),
        "seconds": 2.0,
    }
    assert content["config"]["out"] == "p" and content["format"] == 1
