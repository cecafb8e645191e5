"""The export of a student: one folder that other software opens, with proof of what it scores.

config.json, model.safetensors, tokenizer…   the folder stays a bundle; the weights are fp32
tokenizer.json                               cuts pairs at max_tokens by itself
onnx/model.onnx                              input_ids, attention_mask, token_type_ids [batch, sequence] int64 ->
                                             logits [batch, 1] float32
onnx/, openvino/                             the other variants that were asked for
golden.jsonl, check.py, check.mjs            pairs with their ids and scores, and programs that compare
export.json                                  what a consumer must know, and the measured drift of every variant
layouts/                                     what engines want that cannot open the folder itself
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from disranker.export.check_golden import find_differences
from disranker.export.drift import MAX_NDCG_LOSS, first_queries
from disranker.export.gate import Gate, Measured, find_fastest, time_variants
from disranker.export.golden import choose_pairs, write_golden
from disranker.export.layouts import write_layouts
from disranker.export.manifest import GOLDEN_NAME, LAYOUTS, MANIFEST_NAME, ONNX_MODEL, OPENVINO, PAIR_FORMAT, Exported
from disranker.export.onnx import write_onnx
from disranker.export.onnxruntime import import_onnxruntime
from disranker.export.openvino import import_openvino
from disranker.export.readme import write_readme
from disranker.export.rounding import Rounder, choose_calibration
from disranker.export.variants import VARIANTS
from disranker.models.bundle import FACTS_NAME, load_bundle, read_facts, save_bundle
from disranker.models.scorer import Scorer
from disranker.schema import Judgment
from disranker.shards import write_json

_MAX_FILE_BYTES = 2**31 - 2**20
"""A protobuf file ends at 2 GiB; larger models need a second file, which half of the consumers cannot read."""


@dataclass(frozen=True, slots=True)
class Export:
    """What was written."""

    bundle_bytes: int
    bundle_speeds: dict[str, float]
    """Of the bundle in torch, threads -> pairs a second."""
    variants: list[Measured]
    fastest: dict[str, str]
    """Threads -> the fastest variant within its limit."""


def export_student(
    bundle: str | Path,
    out: str | Path,
    judgments: Sequence[Judgment],
    *,
    opset: int,
    max_pairs: int,
    max_difference: float,
    accept_drift: bool,
    variants: Sequence[str],
    layouts: Sequence[str],
    facts: Mapping[str, Any],
) -> Export:
    """Write the export folder of an encoder bundle, once its drift on the judged pairs is known to be small enough.

    The variant onnx is always written, those named in `variants` besides.  Drift is measured on the first queries, up
    to `max_pairs` pairs; int8 is calibrated on pairs of the others if these are enough.  `facts` (resolved settings,
    provenance) go into `export.json`.  An earlier export in `out` is replaced; when anything fails, `out` is left as it
    was.

    Raises:
        ValueError: the bundle is a decoder's, `out` holds a bundle, there are no pairs, the operator set or the size of
            the model is out of range, a layout cannot hold the model; `DriftError` when the drift is beyond its limit
            and not accepted.
        ImportError: onnx or the runtime of a variant is not installed.
    """
    target = Path(out)
    if (target / FACTS_NAME).exists() and not (target / MANIFEST_NAME).exists():
        raise ValueError(f"{target} holds a bundle, which an export would overwrite; choose another folder")
    measured = first_queries(judgments, max_pairs)
    is_new = not target.exists()
    # Inside the target, so that moving a file into place is a rename even where the target is a mounted volume.
    staged = target / f".export-{os.getpid()}"
    wanted = list(dict.fromkeys(["onnx", *variants]))
    _import_runtimes(wanted)  # before minutes of work
    try:
        reference = _load_reference(bundle)
        exported, model, manifest = _write_files(bundle, staged, reference, measured, opset=opset)
        if write_layouts(exported, model, layouts):
            wanted.append("torchscript")
        rounder, calibration = _calibrate(wanted, exported, judgments, max_pairs)
        gate = Gate(
            staged,
            exported.encoder,
            measured,
            reference.score([judgment.pair for judgment in measured]),
            max_difference=max_difference,
            accept_drift=accept_drift,
            rounder=rounder,
        )
        passed = [gate.pass_variant(name) for name in wanted]
        timed, bundle_speeds = time_variants(passed, gate.open, reference, measured)
        bundle_bytes = sum(file.stat().st_size for file in Path(bundle).glob("*.safetensors"))
        export = Export(bundle_bytes, bundle_speeds, timed, find_fastest(timed))
        manifest |= {
            "layouts": list(layouts),
            "bundle": {"bytes": export.bundle_bytes, "pairs_per_second": export.bundle_speeds},
            "variants": {variant.name: variant.as_json() for variant in export.variants},
            "fastest": export.fastest,
            **calibration,
            "limits": {"max_difference": max_difference, "max_ndcg_loss": MAX_NDCG_LOSS, "accept_drift": accept_drift},
            **facts,
        }
        write_json(staged / MANIFEST_NAME, manifest)
        write_readme(staged, manifest)
        _publish(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if is_new and target.exists() and not any(target.iterdir()):
            target.rmdir()
    return export


def _load_reference(bundle: str | Path) -> Scorer:
    if read_facts(bundle)["head"] != "cls":
        raise ValueError(
            f"{bundle} is a decoder's bundle, and only encoders are exported to ONNX; "
            "distill a student from it, or serve the bundle itself, which stock transformers and vLLM open"
        )
    scorer = Scorer.load(bundle)
    size = 4 * scorer.num_parameters
    if size > _MAX_FILE_BYTES:
        raise ValueError(f"{bundle} has {size:,} bytes of fp32 weights, more than the 2 GiB that one ONNX file holds")
    return scorer


def _import_runtimes(variants: Sequence[str]) -> None:
    import_onnxruntime()
    if any(VARIANTS[name].runtime == "openvino" for name in variants):
        import_openvino()


def _write_files(
    bundle: str | Path, folder: Path, reference: Scorer, judgments: Sequence[Judgment], *, opset: int
) -> tuple[Exported, PreTrainedModel, dict[str, Any]]:
    """Bundle, ONNX file and golden pairs, into a new folder; the model, and the manifest so far."""
    model, encoder, facts = load_bundle(bundle, dtype="float32")
    # In fp32 whatever the bundle is in, so that every consumer of the folder computes the same number.
    save_bundle(folder, model, encoder, facts)
    _bake_truncation(folder / "tokenizer.json", encoder.max_tokens)
    input_names = write_onnx(model, encoder, folder / ONNX_MODEL, opset=opset)
    golden = choose_pairs([judgment.pair for judgment in judgments], encoder)
    write_golden(folder, golden, reference, encoder, token_types="token_type_ids" in input_names)
    _check_token_ids(folder)
    manifest = {
        "format": 1,
        "fingerprint": facts["fingerprint"],
        "opset": opset,
        "inputs": [{"name": name, "shape": ["batch", "sequence"], "type": "int64"} for name in input_names],
        "output": {"name": "logits", "shape": ["batch", 1], "type": "float32", "meaning": "raw score, no activation"},
        "template": facts["template"],
        "pair_format": PAIR_FORMAT,
        "max_tokens": encoder.max_tokens,
        "truncation": "longest_first",
        "golden_pairs": len(golden),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "onnx")},
    }
    return Exported(folder, encoder, input_names, _shortest_golden(folder)), model, manifest


def _calibrate(
    variants: Sequence[str], exported: Exported, judgments: Sequence[Judgment], max_measured: int
) -> tuple[Rounder | None, dict[str, Any]]:
    """What rounds to int8, if a variant wants it, and what the manifest says of its calibration."""
    if all(VARIANTS[name].precision != "int8" for name in variants):
        return None, {}
    pairs, apart = choose_calibration(judgments, max_measured)
    rounder = Rounder(exported.folder / ONNX_MODEL, exported.encoder, pairs)
    return rounder, {"calibration": {"pairs": len(pairs), "apart_from_measured": apart}}


def _check_token_ids(folder: Path) -> None:
    differences = find_differences(folder, tolerance=math.inf)
    if differences:
        raise ValueError(
            f"tokenizer.json alone does not encode pairs as the bundle does, so other software could not: "
            f"{differences[0]}; {len(differences)} differences; nothing was written"
        )


def _shortest_golden(folder: Path) -> dict[str, Any]:
    """The golden pair with the fewest tokens, of which nothing is cut, for the commands of a README."""
    lines = (folder / GOLDEN_NAME).read_text("utf-8").splitlines()
    return min(map(json.loads, lines), key=lambda pair: len(pair["input_ids"]))


def _bake_truncation(file: Path, max_tokens: int) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(max_tokens, stride=0, strategy="longest_first", direction="right")
    tokenizer.no_padding()
    tokenizer.save(str(file))


def _publish(staged: Path, target: Path) -> None:
    """Move the finished files into place; until the last one is there, nothing opens the folder."""
    (target / FACTS_NAME).unlink(missing_ok=True)
    # What was derived from the earlier model, an int8 file for one, goes with it.
    for derived in (ONNX_MODEL.parent, OPENVINO, LAYOUTS):
        shutil.rmtree(target / derived, ignore_errors=True)
    files = [path.relative_to(staged) for path in staged.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda path: (path.name == FACTS_NAME, path)):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged / file, target / file)
