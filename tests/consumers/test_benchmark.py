"""The benchmark beside other software runs to its end and sees that all rank by one model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from disranker.export.manifest import read_manifest
from tests.consumers.benchmark import main


def test_benchmark_reports_everybody(
    export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = str(export.parent / "judged.dev.parquet")
    sizes = ["--requests", "3", "--docs", "6", "--rounds", "3", "--threads", "1"]
    monkeypatch.setattr("sys.argv", ["benchmark", "--export", str(export), "--judged", judged, *sizes])
    assert main() == 0
    said = capsys.readouterr().out
    rows = re.findall(r"^(.+?) +[\d.]+ \([\d.]+ to [\d.]+\) +[\d.]+ +\d+ +([\d.]+) ([+-][\d.]+)", said, re.MULTILINE)
    names = [name for name, _, _ in rows]
    assert names[0] == "sentence-transformers torch"
    assert {"FlashRank int8", "infinity torch", "sentence-transformers OpenVINO int8"} <= set(names)
    assert {f"disranker {name}" for name in read_manifest(export)["variants"]} <= set(names)
    assert {change for name, _, change in rows if not re.search("int8|quantized", name)} == {"+0.0000"}
