"""A sweep by its command line over a tiny world: two variants on two seeds, again, with a change, with a failure."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from disranker.launch import run_stage
from disranker.models.bundle import read_facts
from tests import tiny_runs


def sweep_file(folder: Path, **vary: Any) -> Path:
    tokenizers = "{seed_dir}/world/tokenizers"
    sizes = {"judged_train": 20, "judged_dev": 6, "judged_test": 6, "candidate_queries": 20, "docs_per_query": 5}
    config = {
        "out": str(folder / "out"),
        "seeds": [0, 1],
        "prepare": [{"stage": "world", "set": {"rows": 80, **sizes, "tokenizers": tokenizers, "vocab_size": 400}}],
        "each": [
            {
                "stage": "rank",
                "set": {
                    "judged": ["{seed_dir}/world/judged.train.parquet"],
                    **tiny_runs.fresh(Path(tokenizers) / "encoder", tiny_runs.ENCODER),
                    **tiny_runs.short_run(4),
                },
            }
        ],
        "vary": {"hinge": {"loss": "hinge"}, "ranknet": {"loss": "ranknet"}, **vary},
        "references": {"bm25": {"kind": "bm25"}, "random": {"kind": "random"}},
        "evaluate": {"judged": ["{seed_dir}/world/judged.test.parquet"], "measures": ["nDCG@10", "PNR"]},
        "baseline": "hinge",
        "retention_of": "bm25",
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def steps_run(text: str) -> set[str]:
    return set(re.findall(r"^ +\d+/\d+ +(seed-\S+)", text, re.MULTILINE))


def metrics(out: Path, seed: int, name: str) -> dict[str, Any]:
    return json.loads((out / f"seed-{seed}" / "evaluated" / f"{name}.metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, argv = tmp_path / "out", ["--config", str(sweep_file(tmp_path))]
    assert run_stage("sweep", argv) == 0
    printed = capfd.readouterr().out
    assert len(steps_run(printed)) == 12 and f"wrote {out}: sweep.{{json,md,svg}} and scores.svg" in printed
    content = json.loads((out / "sweep.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert rows.keys() == {"hinge", "ranknet", "bm25", "random"}
    for name, row in rows.items():
        evaluated = [metrics(out, seed, name) for seed in (0, 1)]
        per_query = [[query["nDCG@10"] for query in of["per_query"].values()] for of in evaluated]
        pairs = np.array([query["pairs"] for of in evaluated for query in of["per_query"].values()]).sum(axis=0)
        assert row["values"]["nDCG@10"] == pytest.approx(np.mean(per_query))
        assert row["values"]["PNR"] == pytest.approx((pairs[0] + pairs[2] / 2) / (pairs[1] + pairs[2] / 2))
        assert row["by_seed"]["nDCG@10"] == {str(seed): evaluated[seed]["measures"]["nDCG@10"] for seed in (0, 1)}
        assert row["retention"]["nDCG@10"] == pytest.approx(
            row["values"]["nDCG@10"] / rows["bm25"]["values"]["nDCG@10"]
        )
    assert rows["ranknet"]["training"]["steps"] == 4
    assert rows["ranknet"]["comparisons"]["nDCG@10"]["num_queries"] == 12
    fingerprints = [rows[name]["fingerprints"][seed] for name in ("hinge", "ranknet") for seed in ("0", "1")]
    assert len(set(fingerprints)) == 4
    assert {step["state"] for step in content["steps"]} == {"done"}

    # its evaluated folders are those of the report
    report = [str(out / "seed-0" / "evaluated")]
    assert run_stage("report", ["--evaluated", json.dumps(report), "--out", str(tmp_path / "report")]) == 0

    # the command that is written down gives the same bundle in a process of its own
    (step,) = [step for step in content["steps"] if step["step"] == "seed-1/ranknet.rank"]
    alone = step["command"].removeprefix("disranker ").replace("/variants/ranknet/rank", "/alone")
    code = f"import shlex, sys; from disranker.cli import main; sys.exit(main(shlex.split({alone!r})))"
    subprocess.run([sys.executable, "-c", code], check=True, env=tiny_runs.environment(), capture_output=True)
    assert read_facts(out / "seed-1" / "alone")["fingerprint"] == rows["ranknet"]["fingerprints"]["1"]

    # again: nothing; a changed variant: that one alone
    capfd.readouterr()
    assert run_stage("sweep", argv) == 0
    assert "12 of 12 steps were done before" in (printed := capfd.readouterr().out) and not steps_run(printed)
    sweep_file(tmp_path, ranknet={"loss": "ranknet", "optim.learning_rate": 0.01})
    assert run_stage("sweep", argv) == 0
    assert steps_run(capfd.readouterr().out) == {
        f"seed-{s}/ranknet.{kind}" for s in (0, 1) for kind in ("rank", "eval")
    }

    # a variant that fails is named with its log, the others get their table, and the call ends with 1
    sweep_file(tmp_path, short={"text.max_tokens": 200})
    assert run_stage("sweep", argv) == 1
    printed, errors = capfd.readouterr()
    logs = [out / f"seed-{seed}" / "steps" / "short.rank.log" for seed in (0, 1)]
    assert [log for log in logs if f"see {log}" not in errors or "positions for 64" not in log.read_text()] == []
    content = json.loads((out / "sweep.json").read_text())
    assert len(content["rows"]) == 4 and list(content["missing"]) == ["short"]
    states = {step["step"]: step["state"] for step in content["steps"] if step["variant"] == "short"}
    expected = {"rank": "failed", "eval": "not begun"}
    assert states == {f"seed-{seed}/short.{kind}": state for seed in (0, 1) for kind, state in expected.items()}


def test_faults_of_the_steps_settings_end_with_2_before_anything_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(sweep_file(tmp_path, other={"los": "hinge"}))]
    assert run_stage("sweep", argv) == 2
    assert "other.rank: los = hinge: no such field; did you mean loss?" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
