"""The variants of an export: one ranker in several types, for several runtimes; their files, and what opens them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from disranker.export.manifest import LAYOUTS, ONNX_MODEL, OPENVINO, read_manifest
from disranker.export.onnxruntime import onnx_forward
from disranker.export.openvino import openvino_forward
from disranker.export.padded import Forward
from disranker.export.torchscript import torchscript_forward

Precision = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True, slots=True)
class Variant:
    """A file of an export that scores pairs."""

    file: Path
    """in the export folder"""
    runtime: Literal["onnxruntime", "openvino", "torch"]
    precision: Precision


_OPENVINO_MODEL = OPENVINO / "openvino_model.xml"
VARIANTS = {
    "onnx": Variant(ONNX_MODEL, "onnxruntime", "float32"),
    # The names that transformers.js opens for dtype q8 and int8; the first is what other libraries look for as well.
    "onnx-int8-static": Variant(Path("onnx", "model_quantized.onnx"), "onnxruntime", "int8"),
    "onnx-int8-dynamic": Variant(Path("onnx", "model_int8.onnx"), "onnxruntime", "int8"),
    "openvino": Variant(_OPENVINO_MODEL, "openvino", "float32"),
    "openvino-bf16": Variant(_OPENVINO_MODEL, "openvino", "bfloat16"),
    "openvino-int8": Variant(OPENVINO / "openvino_model_qint8_quantized.xml", "openvino", "int8"),
    "torchscript": Variant(LAYOUTS / "torchscript" / "model.pt", "torch", "float32"),
}


def open_variant(name: str, folder: Path, threads: int | None = None) -> Forward:
    """What computes the logits with a variant, on the CPU; `threads` of one pass, by default as many as torch has.

    Raises:
        ImportError: its runtime is not installed.
    """
    variant = VARIANTS[name]
    file = folder / variant.file
    if variant.runtime == "onnxruntime":
        return onnx_forward(file, threads)
    if variant.runtime == "openvino":
        return openvino_forward(file, threads, bfloat16=variant.precision == "bfloat16")
    return torchscript_forward(file)


def bytes_of(name: str, folder: Path) -> int:
    """Size of a variant; OpenVINO keeps the weights beside the graph."""
    file = folder / VARIANTS[name].file
    weights = [file.with_suffix(".bin")] if file.suffix == ".xml" else []
    return sum(one.stat().st_size for one in (file, *weights))


def find_variant(path: str | Path, name: str | None = None, threads: int | None = None) -> tuple[str, dict[str, Any]]:
    """A variant of an export folder and what the manifest says of it; by default the fastest at so many threads.

    Of a number of threads that was not measured it is the fastest at the nearest number below; `threads` is by default
    what torch has.

    Raises:
        ValueError: the folder is no export, or has no such variant.
    """
    manifest = read_manifest(path)
    variants: dict[str, dict[str, Any]] = manifest["variants"]
    if name is None:
        fastest = {int(number): str(one) for number, one in manifest["fastest"].items()}
        wanted = threads or torch.get_num_threads()
        name = fastest[max((number for number in fastest if number <= wanted), default=min(fastest))]
    if name not in variants:
        raise ValueError(
            f"variant {name}: {path} has {', '.join(variants)}; choose one of them, or export the student again with "
            "that name in variants"
        )
    return name, variants[name]
