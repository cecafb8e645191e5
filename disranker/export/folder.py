"""The export of a student: one folder that other software opens, with proof of what it scores.

config.json, model.safetensors, tokenizer…   the folder stays a bundle; the weights are fp32
tokenizer.json                               cuts pairs at max_tokens by itself
onnx/model.onnx                              input_ids, attention_mask, token_type_ids [batch, sequence] int64 ->
                                             logits [batch, 1] float32
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from disranker.export.check_golden import find_differences
from disranker.export.drift import (
    MAX_NDCG_LOSS,
    THREADS,
    Drift,
    DriftError,
    PairScorer,
    find_fault,
    first_queries,
    measure_drift,
    pairs_per_second,
    torch_threads,
)
from disranker.export.golden import choose_pairs, write_golden
from disranker.export.layouts import write_layouts
from disranker.export.manifest import GOLDEN_NAME, LAYOUTS, MANIFEST_NAME, ONNX_MODEL, PAIR_FORMAT, Exported
from disranker.export.onnx import write_onnx
from disranker.export.padded import PaddedScorer
from disranker.export.readme import write_readme
from disranker.export.scorer import import_onnxruntime, onnx_forward
from disranker.export.torchscript import torchscript_forward
from disranker.models.bundle import FACTS_NAME, load_bundle, read_facts, save_bundle
from disranker.models.scorer import Scorer
from disranker.schema import Judgment, Pair
from disranker.shards import write_json

Load = Callable[[], PairScorer]
"""Opens an exported file for scoring, with as many threads as torch has."""

PRECISION = "float32"
"""Of every variant that is written today."""

_MAX_FILE_BYTES = 2**31 - 2**20
"""A protobuf file ends at 2 GiB; larger models need a second file, which half of the consumers cannot read."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One exported file that scores pairs."""

    name: str
    """Its path in the export."""
    precision: str
    bytes: int
    drift: Drift
    speeds: dict[str, float]
    """Threads -> pairs a second."""
    fault: str | None
    """Why it is beyond the limit of drift, which was accepted."""

    def __str__(self) -> str:
        accepted = f"; accepted: {self.fault}" if self.fault else ""
        return f"{self.name}: {describe_cost(self.bytes, self.speeds)}, {self.drift}{accepted}"


@dataclass(frozen=True, slots=True)
class Export:
    """What was written."""

    bundle_bytes: int
    bundle_speeds: dict[str, float]
    """Of the bundle in torch, threads -> pairs a second."""
    variants: list[Variant]


def export_student(
    bundle: str | Path,
    out: str | Path,
    judgments: Sequence[Judgment],
    *,
    opset: int,
    max_pairs: int,
    max_difference: float,
    accept_drift: bool,
    layouts: Sequence[str],
    facts: Mapping[str, Any],
) -> Export:
    """Write the export folder of an encoder bundle, once its drift on the judged pairs is known to be small enough.

    Drift is measured on the first queries, up to `max_pairs` pairs.  `facts` (resolved settings, provenance) go into
    `export.json`.  An earlier export in `out` is replaced; when anything fails, `out` is left as it was.

    Raises:
        ValueError: the bundle is a decoder's, `out` holds a bundle, there are no pairs, the operator set or the size of
            the model is out of range, a layout cannot hold the model; `DriftError` when the drift is beyond its limit
            and not accepted.
        ImportError: onnx or onnxruntime is not installed.
    """
    target = Path(out)
    if (target / FACTS_NAME).exists() and not (target / MANIFEST_NAME).exists():
        raise ValueError(f"{target} holds a bundle, which an export would overwrite; choose another folder")
    measured = first_queries(judgments, max_pairs)
    is_new = not target.exists()
    # Inside the target, so that moving a file into place is a rename even where the target is a mounted volume.
    staged = target / f".export-{os.getpid()}"
    try:
        reference = _load_reference(bundle)
        manifest, loaders = _write_files(bundle, staged, reference, measured, opset=opset, layouts=layouts)
        export = _measure(reference, bundle, staged, loaders, measured, max_difference, accept_drift)
        manifest |= {
            "bundle": {"bytes": export.bundle_bytes, "pairs_per_second": export.bundle_speeds},
            "variants": {variant.name: _as_json(variant) for variant in export.variants},
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


def describe_cost(size: int, speeds: Mapping[str, float]) -> str:
    """Size and speed for a reader."""
    rates = " / ".join(f"{rate:,.0f}" for rate in speeds.values())
    return f"{size / 1e6:.1f} MB, {rates} pairs/s at {' / '.join(speeds)} threads"


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


def _write_files(
    bundle: str | Path,
    folder: Path,
    reference: Scorer,
    judgments: Sequence[Judgment],
    *,
    opset: int,
    layouts: Sequence[str],
) -> tuple[dict[str, Any], dict[Path, Load]]:
    """Everything but the manifest, into a new folder; the manifest so far, and file -> what loads it."""
    import_onnxruntime()  # before minutes of work
    model, encoder, facts = load_bundle(bundle, dtype="float32")
    # In fp32 whatever the bundle is in, so that every consumer of the folder computes the same number.
    save_bundle(folder, model, encoder, facts)
    _bake_truncation(folder / "tokenizer.json", encoder.max_tokens)
    onnx_file = folder / ONNX_MODEL
    input_names = write_onnx(model, encoder, onnx_file, opset=opset)
    golden = choose_pairs([judgment.pair for judgment in judgments], encoder)
    write_golden(folder, golden, reference, encoder, token_types="token_type_ids" in input_names)
    _check_token_ids(folder)
    loaders: dict[Path, Load] = {ONNX_MODEL: lambda: PaddedScorer(onnx_forward(onnx_file), encoder)}
    exported = Exported(folder, encoder, input_names, _shortest_golden(folder))
    torchscript = write_layouts(exported, model, layouts)
    if torchscript is not None:
        loaders[torchscript.relative_to(folder)] = lambda: PaddedScorer(torchscript_forward(torchscript), encoder)
    return {
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
        "layouts": list(layouts),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "onnx")},
    }, loaders


def _measure(
    reference: Scorer,
    bundle: str | Path,
    folder: Path,
    loaders: Mapping[Path, Load],
    judgments: Sequence[Judgment],
    max_difference: float,
    accept_drift: bool,
) -> Export:
    """Drift and speed of every variant.

    Raises:
        DriftError: a variant is beyond its limit, and that is not accepted.
    """
    pairs = [judgment.pair for judgment in judgments]
    expected = reference.score(pairs)
    variants = []
    for name, load in loaders.items():
        drift = measure_drift(judgments, expected, load().score(pairs))
        fault = find_fault(drift, precision=PRECISION, max_difference=max_difference, max_ndcg_loss=MAX_NDCG_LOSS)
        if fault and not accept_drift:
            raise DriftError(name.as_posix(), fault, drift)
        size = (folder / name).stat().st_size
        variants.append(Variant(name.as_posix(), PRECISION, size, drift, _speeds(load, pairs), fault))
    bundle_bytes = sum(file.stat().st_size for file in Path(bundle).glob("*.safetensors"))
    return Export(bundle_bytes, _speeds(lambda: reference, pairs), variants)


def _speeds(load: Load, pairs: Sequence[Pair]) -> dict[str, float]:
    """Threads -> pairs a second."""
    speeds = {}
    for threads in THREADS:
        with torch_threads(threads):
            speeds[str(threads)] = pairs_per_second(load(), pairs)
    return speeds


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


def _as_json(variant: Variant) -> dict[str, Any]:
    return {
        "precision": variant.precision,
        "bytes": variant.bytes,
        "drift": asdict(variant.drift),
        "pairs_per_second": variant.speeds,
        "accepted_fault": variant.fault,
    }


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
    shutil.rmtree(target / ONNX_MODEL.parent, ignore_errors=True)
    shutil.rmtree(target / LAYOUTS, ignore_errors=True)
    files = [path.relative_to(staged) for path in staged.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda path: (path.name == FACTS_NAME, path)):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged / file, target / file)
