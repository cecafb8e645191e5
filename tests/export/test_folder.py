"""The export folder: what is in it, what it says of itself, what replaces it, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification

from disranker.export.drift import DriftError
from disranker.export.manifest import read_manifest
from disranker.export.padded import Forward
from disranker.export.scorer import ExportScorer
from disranker.models.bundle import read_facts, save_bundle
from disranker.text.encode import PairEncoder
from disranker.text.templates import get_template
from disranker.text.vocabulary import train_prompt_tokenizer
from tests.export.students import FOLDER, JUDGED, MAX_TOKENS, PAIRS, WIDTH, document, export, files_of


def shifted(by: float) -> Forward:
    """Logits that are all the same."""
    return lambda inputs: np.full((len(inputs["input_ids"]), 1), by, dtype=np.float32)


def test_folder_holds_the_layout_that_consumers_agree_on(exported: Path) -> None:
    assert files_of(exported) == FOLDER
    assert [name for name in FOLDER if (exported / name).stat().st_mode & 0o777 != 0o644] == []
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "LABEL_0"}
    assert config["dtype"] == "float32"
    assert config["sentence_transformers"]["activation_fn"] == "torch.nn.modules.linear.Identity"
    settings = json.loads((exported / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == MAX_TOKENS
    assert {"max_length", "stride", "truncation_strategy", "is_local"} & set(settings) == set()


def test_tokenizer_file_alone_cuts_as_the_encoder_does(exported: Path) -> None:
    content = json.loads((exported / "tokenizer.json").read_text("utf-8"))
    truncation = {"direction": "Right", "max_length": MAX_TOKENS, "strategy": "LongestFirst", "stride": 0}
    assert content["truncation"] == truncation
    assert content["padding"] is None

    tokenizer = Tokenizer.from_file(str(exported / "tokenizer.json"))
    encoder = ExportScorer.load(exported).encoder
    for pair, tokens in zip(PAIRS, encoder.encode(PAIRS), strict=True):
        raw = tokenizer.encode(pair.query, document(pair))
        assert raw.ids == tokens.ids.tolist()
        assert raw.type_ids == [int(at >= tokens.second) for at in range(len(tokens.ids))]


def test_manifest_says_what_a_consumer_must_know(bundle: Path, exported: Path) -> None:
    assert read_facts(exported) == read_facts(bundle)  # fingerprint, template, training: all as in the bundle
    manifest = read_manifest(exported)
    variants, versions = manifest.pop("variants"), manifest.pop("versions")
    of_bundle = manifest.pop("bundle")
    assert manifest == {
        "format": 1,
        "fingerprint": read_facts(bundle)["fingerprint"],
        "opset": 17,
        "inputs": [
            {"name": name, "shape": ["batch", "sequence"], "type": "int64"}
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ],
        "output": {"name": "logits", "shape": ["batch", 1], "type": "float32", "meaning": "raw score, no activation"},
        "template": {"name": "pair", "version": 1},
        "pair_format": "text pair (query, document); document = title + ' ' + summary, stripped",
        "max_tokens": MAX_TOKENS,
        "truncation": "longest_first",
        "golden_pairs": 20,
        "layouts": [],
        "fastest": {"1": "onnx", "2": "onnx"},
        "limits": {"max_difference": 1e-5, "max_ndcg_loss": 0.002, "accept_drift": False},
    }
    assert versions["onnx"] == onnx.__version__
    assert of_bundle["bytes"] == (bundle / "model.safetensors").stat().st_size
    assert set(variants) == {"onnx"}
    variant = variants["onnx"]
    assert variant["bytes"] == (exported / "onnx/model.onnx").stat().st_size
    about = [variant[key] for key in ("file", "runtime", "precision", "accepted_fault")]
    assert about == ["onnx/model.onnx", "onnxruntime", "float32", None]
    assert set(variant["pairs_per_second"]) == set(of_bundle["pairs_per_second"]) == {"1", "2"}
    assert min(variant["pairs_per_second"].values()) > 0
    drift = variant["drift"]
    assert (drift["num_pairs"], drift["num_queries"]) == (len(JUDGED), 6)
    assert 0 < drift["mean_difference"] <= drift["max_difference"] <= 1e-5
    assert drift["changes"]["nDCG@10"]["delta"] == 0.0


def test_drift_is_measured_on_the_first_queries(bundle: Path, tmp_path: Path) -> None:
    (variant,) = export(bundle, tmp_path / "out", max_pairs=11).variants
    assert (variant.drift.num_pairs, variant.drift.num_queries) == (8, 2)


def test_the_readme_names_what_is_there(laid_out: Path, exported: Path) -> None:
    text = (laid_out / "README.md").read_text("utf-8")
    assert "It reads 40 tokens" in text
    for name in ("vespa", "triton", "opensearch", "torchscript", "flashrank"):
        assert f"- `layouts/{name}/`: " in text
        assert (laid_out / "layouts" / name / "README.md").is_file()
    assert "Layouts for engines" not in (exported / "README.md").read_text("utf-8")


def test_a_new_export_replaces_an_old_one_and_what_was_derived_from_it(bundle: Path, tmp_path: Path) -> None:
    export(bundle, tmp_path / "out", layouts=["flashrank"])
    (tmp_path / "out/onnx/model_quantized.onnx").write_bytes(b"of the earlier student")
    (tmp_path / "out/notes.txt").write_text("the user's own")
    export(bundle, tmp_path / "out", opset=14)
    assert files_of(tmp_path / "out") == FOLDER | {"notes.txt"}
    assert read_manifest(tmp_path / "out")["opset"] == 14


# --- the gate ---


def test_drift_beyond_the_limit_writes_nothing_and_says_how_much(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("disranker.export.gate.open_variant", lambda name, folder: shifted(100.0))
    with pytest.raises(DriftError, match=r"onnx does not score as the bundle: its scores differ by") as caught:
        export(bundle, tmp_path / "out")
    assert caught.value.drift.max_difference > 50
    assert "--accept_drift writes it all the same" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_accepted_drift_is_written_and_stands_in_the_manifest(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("disranker.export.gate.open_variant", lambda name, folder: shifted(100.0))
    (variant,) = export(bundle, tmp_path / "out", accept_drift=True).variants
    assert "; accepted: its scores differ by up to" in str(variant)
    manifest = read_manifest(tmp_path / "out")
    assert manifest["limits"]["accept_drift"] is True
    assert manifest["variants"]["onnx"]["accepted_fault"] == variant.fault


def test_a_tokenizer_file_that_encodes_otherwise_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with a tokenizer whose Python class does more than its file says.
    def cut_shorter(file: Path, max_tokens: int) -> None:
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.enable_truncation(max_tokens - 10, strategy="longest_first")
        tokenizer.save(str(file))

    monkeypatch.setattr("disranker.export.folder._bake_truncation", cut_shorter)
    with pytest.raises(
        ValueError, match=r"tokenizer.json alone does not encode pairs as the bundle does.* pair 1: input_ids"
    ):
        export(bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- what is refused ---


def test_a_decoder_is_refused(tmp_path: Path) -> None:
    tokenizer = train_prompt_tokenizer(["zor bax melu"] * 3, vocab_size=300)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, **WIDTH
    )
    encoder = PairEncoder(tokenizer, get_template("plain"), max_tokens=MAX_TOKENS, max_query_tokens=8)
    save_bundle(tmp_path / "teacher", AutoModelForSequenceClassification.from_config(config), encoder, {})
    with pytest.raises(ValueError, match=r"teacher is a decoder's bundle, and only encoders are exported to ONNX"):
        export(tmp_path / "teacher", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bundle_is_not_overwritten(bundle: Path) -> None:
    before = files_of(bundle)
    with pytest.raises(ValueError, match="holds a bundle, which an export would overwrite"):
        export(bundle, bundle)
    assert files_of(bundle) == before


@pytest.mark.parametrize("opset", [13, 21])
def test_an_operator_set_out_of_range_is_refused(opset: int, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"opset = {opset}: the exporter writes operator sets 14 to 20"):
        export(bundle, tmp_path / "out", opset=opset)


def test_no_pairs_prove_nothing(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="among the judged pairs, and none"):
        export(bundle, tmp_path / "out", [])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    package: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"^{package} is not installed: pip install 'disranker\[export\]'$"):
        export(bundle, tmp_path / "out")


def test_a_bundle_is_no_export(bundle: Path) -> None:
    with pytest.raises(ValueError, match=r"is no export: it has no export.json"):
        ExportScorer.load(bundle)
