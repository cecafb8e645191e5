"""The export by its command line: what it prints, what it writes, and what drift beyond the limit leaves behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from disranker.config.export import ExportConfig
from disranker.data.readers import write_records
from disranker.evaluation.runs import read_systems
from disranker.export.manifest import read_manifest
from disranker.export.padded import Forward
from disranker.launch import run_stage
from disranker.models.bundle import save_bundle
from disranker.schema import Judgment
from disranker.settings import SettingsError
from tests.export.students import FOLDER, JUDGED, build, files_of


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Without `--out`."""
    folder = tmp_path_factory.mktemp("inputs")
    save_bundle(folder / "student", *build("bert"), {})
    # Files may hold neither empty queries nor empty documents.
    readable = [row for row in JUDGED if row.query and (row.title or row.summary)]
    texts = {row.query_id: row.query for row in reversed(readable)}
    rows = [Judgment(r.query_id, r.doc_id, texts[r.query_id], r.title, r.summary, r.label) for r in readable]
    write_records(folder / "judged.parquet", Judgment, iter(rows))
    return ["--bundle", str(folder / "student"), "--judged", f"[{folder / 'judged.parquet'}]"]


def wrong(name: str, folder: Path) -> Forward:
    return lambda inputs: np.ones((len(inputs["input_ids"]), 1), dtype=np.float32)


def test_stage_writes_the_folder_and_says_so_quietly(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    out = tmp_path / "out"
    code = run_stage("export", [*arguments, "--out", str(out), "--max_pairs", "9", "--layouts", "[torchscript]"])
    printed, errors = capfd.readouterr()
    assert code == 0, errors
    layout = {f"layouts/torchscript/{name}" for name in ("README.md", "model.pt", "tokenizer.json")}
    assert files_of(out) == FOLDER | layout
    manifest = read_manifest(out)
    assert manifest["config"]["max_pairs"] == 9
    assert manifest["provenance"]["packages"]["torch"]
    lines = printed.splitlines()
    assert lines[0].endswith("onnx, torchscript; 22 judged pairs, up to 9 of them scored")
    assert [line.split(":")[0] for line in lines[1:5]] == [
        "  bundle in torch",
        "  onnx",
        "  torchscript",
        "  fastest by threads",
    ]
    assert "pairs/s at 1 / 2 threads, largest difference" in lines[2]
    assert lines[5].startswith(f"wrote {out}: onnx, torchscript, golden pairs")
    assert "arning" not in printed + errors
    assert [str(warning.message) for warning in recwarn if "trac" in str(warning.category).lower()] == []


def test_stage_fails_with_the_figures_and_leaves_the_earlier_export(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    line = [*arguments, "--out", str(out)]
    assert run_stage("export", line) == 0
    before = {name: (out / name).read_bytes() for name in FOLDER}
    monkeypatch.setattr("disranker.export.gate.open_variant", wrong)
    assert run_stage("export", line) == 1
    errors = capfd.readouterr().err
    assert "error: onnx does not score as the bundle: its scores differ by up to" in errors
    assert "on 22 pairs of 6 queries: largest difference" in errors
    assert {name: (out / name).read_bytes() for name in FOLDER} == before
    assert files_of(out) == FOLDER

    assert run_stage("export", [*line, "--accept_drift"]) == 0
    assert "accepted: its scores differ by up to" in capfd.readouterr().out
    assert read_manifest(out)["variants"]["onnx"]["accepted_fault"]

    shutil.rmtree(out)
    assert run_stage("export", line) == 1
    assert not out.exists()


def test_an_export_is_evaluated_and_its_drift_stands_beside_its_figures(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_stage("export", [*arguments, "--out", str(out)]) == 0
    judged, systems = arguments[arguments.index("--judged") + 1], f"{{exported: {{kind: onnx, path: {out}}}}}"
    evaluated = tmp_path / "evaluated"
    assert run_stage("eval", ["--out", str(evaluated), "--judged", judged, "--systems", systems]) == 0
    found = read_systems(evaluated)["exported"]
    variant = read_manifest(out)["variants"]["onnx"]
    assert found.provenance["drift"] == variant["drift"]
    assert found.efficiency.bytes == variant["bytes"]
    assert found.measured.aggregate["nDCG@10"] == pytest.approx(variant["drift"]["changes"]["nDCG@10"]["variant"])


def test_layouts_are_named_once(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="layouts names vespa more than once"):
        ExportConfig.parse([*arguments, "--out", str(tmp_path), "--layouts", "[vespa, triton, vespa]"])
