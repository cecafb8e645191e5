"""Evaluation and report by their command lines: latency, price and rules, and a report with every analysis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from disranker.launch import run_stage
from tests import tiny_runs
from tests.stages.conftest import Pipeline


@pytest.fixture(scope="module")
def evaluated(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher, the student and BM25, with latency, prices and rules of their own."""
    out = tmp_path_factory.mktemp("evaluated")
    bundles = {name: {"kind": "bundle", "path": str(pipeline.folder / name)} for name in ("teacher", "student")}
    settings = {
        "judged": pipeline.judged("test"),
        "systems": {**bundles, "bm25": {"kind": "bm25", "price_per_hour": 0.25}},
        "systems.student.price_per_hour": 0.5,
        "currency": "EUR",
        "latency": {"documents": [1, 3], "seconds": 0.001},
        "rules.no_relevant": "skip",
    }
    assert run_stage("eval", tiny_runs.arguments(out, settings)) == 0
    return out


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def test_latency_price_and_rules_are_recorded(evaluated: Path) -> None:
    student, bm25 = (read(evaluated / f"{name}.metrics.json") for name in ("student", "bm25"))
    cells = student["efficiency"]["latency"]["cells"]
    assert [(cell["documents"], cell["length"]) for cell in cells] == [
        (documents, length) for length in ("short", "middle", "long") for documents in (1, 3)
    ]
    assert all(0 < cell["p50_ms"] <= cell["p95_ms"] <= cell["p99_ms"] for cell in cells)
    assert (student["efficiency"]["price_per_hour"], student["efficiency"]["currency"]) == (0.5, "EUR")
    assert (bm25["efficiency"]["price_per_hour"], bm25["efficiency"]["latency"]) == (0.25, None)
    assert student["rules"]["no_relevant"] == bm25["rules"]["no_relevant"] == "skip"


def test_a_report_with_every_analysis(pipeline: Pipeline, evaluated: Path, tmp_path: Path) -> None:
    config = {
        "evaluated": [str(evaluated)],
        "judged": pipeline.judged("test"),
        "teacher": "teacher",
        "student": "student",
        "samples": 50,
        "slices": {"by": ["length"]},
        "cascade": {"rules": ["depth"]},
        "cutoffs": {"relevant": 2},
        "interleaving": {"sessions": 2},
    }
    (tmp_path / "report.yaml").write_text(yaml.safe_dump(config))
    argv = ["--config", str(tmp_path / "report.yaml"), "--out", str(tmp_path / "out"), "--baseline", "bm25"]
    assert run_stage("report", argv) == 0
    content = read(tmp_path / "out" / "report.json")
    assert content["focus"] == ["student", "bm25"]
    assert content["agreement"]["num_documents"] == 30
    assert content["cascade"][0]["points"][0]["measures"] == content["systems"]["student"]
    assert content["settings"]["samples"] == 50 and "out" not in content["settings"]
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "3 middle" in page and "0.5 EUR an hour" in page


def test_a_name_that_is_no_system_gives_1_before_anything_is_computed(
    pipeline: Pipeline,
    evaluated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("disranker.evaluation.standings.compare", lambda *_, **__: pytest.fail("computed"))
    settings = {
        "evaluated": [str(evaluated)],
        "judged": pipeline.judged("test"),
        "teacher": "techer",
        "student": "student",
    }
    assert run_stage("report", tiny_runs.arguments(tmp_path / "out", settings)) == 1
    assert "error: teacher 'techer' is not among the systems: bm25, student, teacher" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
