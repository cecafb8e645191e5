"""Variants of one export: their files and figures, which is chosen, which sites stay in float, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from disranker.config.export import ExportConfig
from disranker.export import gate
from disranker.export.drift import DriftError
from disranker.export.gate import Measured, find_fastest
from disranker.export.manifest import read_manifest
from disranker.export.rounding import Rounder, choose_calibration
from disranker.export.scorer import ExportScorer
from disranker.export.variants import VARIANTS, find_variant
from disranker.models.scorer import Scorer
from disranker.schema import Judgment
from disranker.settings import SettingsError
from tests.export.students import FOLDER, JUDGED, PAIRS, export, files_of

NAMES = ["onnx-int8-static", "onnx-int8-dynamic", "openvino", "openvino-int8"]
FILES = {
    "onnx/model_quantized.onnx",
    "onnx/model_int8.onnx",
    *(f"openvino/openvino_model{kind}.{suffix}" for kind in ("", "_qint8_quantized") for suffix in ("bin", "xml")),
}


@pytest.fixture(scope="module")
def varied(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With every variant that any processor has; a tiny model may change its ranking."""
    out = tmp_path_factory.mktemp("exports") / "varied"
    export(bundle, out, variants=NAMES, accept_drift=True)
    return out


def test_every_variant_is_written_and_measured(varied: Path) -> None:
    assert files_of(varied) == FOLDER | FILES
    manifest = read_manifest(varied)
    assert set(manifest["variants"]) == {"onnx", *NAMES}
    # All pairs are measured, so none is left that could be kept apart.
    assert manifest["calibration"] == {"pairs": len(PAIRS), "apart_from_measured": False}
    for name, said in manifest["variants"].items():
        variant = VARIANTS[name]
        assert (said["file"], said["precision"]) == (variant.file.as_posix(), variant.precision)
        weights = [varied / said["file"]]
        weights += [weights[0].with_suffix(".bin")] if variant.runtime == "openvino" else []
        assert said["bytes"] == sum(file.stat().st_size for file in weights)
        assert set(said["pairs_per_second"]) == {"1", "2"} == set(manifest["fastest"])
        assert ("products_in_8_bits" in said) == (variant.precision == "int8")
    # Query, key, value, output and two of the feed-forward network; of the last layer key and value alone.
    int8 = manifest["variants"]["onnx-int8-static"]
    assert int8["products_in_8_bits"] + len(int8["in_float"]) <= 8
    assert set(manifest["fastest"].values()) <= {"onnx", *NAMES}
    text = (varied / "README.md").read_text("utf-8")
    for name in NAMES:
        assert f"| {name} | `{VARIANTS[name].file.as_posix()}` | " in text


def test_every_variant_scores_as_its_manifest_says(bundle: Path, varied: Path) -> None:
    expected = Scorer.load(bundle).score(PAIRS)
    for name, said in read_manifest(varied)["variants"].items():
        scorer = ExportScorer.load(varied, name, threads=1)
        assert (scorer.variant, scorer.runtime) == (name, said["runtime"])
        difference = np.abs(scorer.score(PAIRS) - expected).max()
        assert difference == pytest.approx(said["drift"]["max_difference"], rel=0.05, abs=1e-5)
        assert difference <= (1e-5 if said["precision"] == "float32" else 0.5)


def test_static_scores_do_not_depend_on_company(varied: Path) -> None:
    for name in ("onnx-int8-static", "openvino-int8"):
        scorer = ExportScorer.load(varied, name, threads=1)
        alone = [scorer.score([pair])[0] for pair in PAIRS]
        np.testing.assert_allclose(alone, scorer.score(PAIRS), rtol=0, atol=1e-4)


def test_the_static_file_has_standard_operators_only(varied: Path) -> None:
    model = onnx.load(varied / "onnx/model_quantized.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    assert [item.domain for item in model.opset_import] == [""]


# --- which one ---


def test_the_default_is_the_fastest_at_so_many_threads(varied: Path, tmp_path: Path) -> None:
    manifest = read_manifest(varied) | {"fastest": {"1": "openvino", "4": "onnx"}}
    (tmp_path / "export.json").write_text(json.dumps(manifest))
    chosen = [find_variant(tmp_path, threads=threads)[0] for threads in (1, 3, 4, 64)]
    assert chosen == ["openvino", "openvino", "onnx", "onnx"]
    manifest["fastest"].pop("1")
    (tmp_path / "export.json").write_text(json.dumps(manifest))
    assert find_variant(tmp_path, threads=2)[0] == "onnx"


def test_a_variant_that_is_not_there_is_named_with_those_that_are(exported: Path) -> None:
    with pytest.raises(ValueError, match=r"variant openvino: .* has onnx; choose one of them, or export the student"):
        ExportScorer.load(exported, "openvino")


def test_the_fastest_is_within_its_limit() -> None:
    def measured(name: str, fault: str | None, one: float, two: float) -> Measured:
        drift: Any = None
        return Measured(name, 1, drift, fault, speeds={"1": one, "2": two})

    slow, quick, wrong = measured("a", None, 9, 10), measured("b", None, 8, 11), measured("c", "far off", 99, 99)
    assert find_fastest([slow, quick, wrong]) == {"1": "a", "2": "b"}
    assert find_fastest([wrong]) == {"1": "c", "2": "c"}


# --- calibration, and what stays in float ---


def test_calibration_pairs_are_of_other_queries_where_there_are_enough() -> None:
    rows = [Judgment(f"q{query}", f"d{at}", "a", f"{query}", f"{at}", 0) for query in range(20) for at in range(20)]
    pairs, apart = choose_calibration(rows, max_measured=45)
    assert apart and len(pairs) == 256 and {pair.title for pair in pairs} == {str(query) for query in range(2, 20)}
    pairs, apart = choose_calibration(rows, max_measured=350)  # 60 are left
    assert not apart and len(pairs) == 256 and len({pair.title for pair in pairs}) == 20


def test_sites_are_left_in_float_until_the_drift_is_within_its_limit(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = iter([None, "far off", "far off", "far off", None])  # onnx; 0, 1, 2 and 4 sites in float
    monkeypatch.setattr(gate, "find_fault", lambda drift, **limits: next(faults))
    _, variant = export(bundle, tmp_path / "out", variants=["onnx-int8-static"]).variants
    said = read_manifest(tmp_path / "out")["variants"]["onnx-int8-static"]
    assert said["in_float"] == variant.in_float and len(variant.in_float) == 4
    assert variant.fault is None and ", 4 sites in float, " in str(variant)
    graph = onnx.load(tmp_path / "out/onnx/model_quantized.onnx").graph
    rounded = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert rounded and rounded & set(said["in_float"]) == set()


def test_what_hurts_is_measured_by_the_scores(exported: Path, tmp_path: Path) -> None:
    encoder = ExportScorer.load(exported).encoder
    source = tmp_path / "model.onnx"
    source.write_bytes((exported / "onnx/model.onnx").read_bytes())
    rounder = Rounder(source, encoder, [pair for pair in PAIRS])
    worst, *_, mildest = rounder.by_harm("onnx-int8-static")
    assert sorted(rounder.by_harm("onnx-int8-static")) == sorted(rounder.ranges)
    expected = ExportScorer.load(exported).score(PAIRS)

    def harm(site: str) -> float:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        rounder.write("onnx-int8-static", folder, rounder.ranges.keys() - {site})
        forward = gate.open_variant("onnx-int8-static", folder, 1)
        return float(np.abs(gate.PaddedScorer(forward, encoder).score(PAIRS) - expected).mean())

    assert harm(worst) > harm(mildest)
    assert not (tmp_path / ".harm.onnx").exists()


# --- what is refused ---


def test_a_variant_that_stays_beyond_its_limit_ends_the_export(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_LEFT_IN_FLOAT", (0, 1))
    monkeypatch.setattr(
        gate, "find_fault", lambda drift, precision, **limits: "far off" if precision == "int8" else None
    )
    with pytest.raises(DriftError, match=r"^onnx-int8-dynamic does not score as the bundle: far off"):
        export(bundle, tmp_path / "out", variants=["onnx-int8-dynamic"])
    assert not (tmp_path / "out").exists()


def test_bfloat16_needs_a_processor_that_has_it(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match=r"variant openvino-bf16: this processor does not compute in bfloat16"):
        export(bundle, tmp_path / "out", variants=["openvino-bf16"])
    assert not (tmp_path / "out").exists()


def test_openvino_is_asked_for_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("disranker.export.folder._load_reference", SimpleNamespace)
    with pytest.raises(ImportError, match=r"^openvino is not installed: pip install 'disranker\[export\]'$"):
        export(tmp_path / "student", tmp_path / "out", JUDGED, variants=["openvino"])


def test_variants_are_named_once(bundle: Path, tmp_path: Path) -> None:
    judged = tmp_path / "judged.parquet"
    judged.write_bytes(b"")
    line = ["--bundle", str(bundle), "--out", str(tmp_path), "--judged", f"[{judged}]"]
    with pytest.raises(SettingsError, match="variants names openvino more than once"):
        ExportConfig.parse([*line, "--variants", "[openvino, onnx-int8-static, openvino]"])
