"""The names of the files of an export, and `export.json`, which says what a consumer must know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disranker.models.bundle import read_json
from disranker.text.encode import PairEncoder

MANIFEST_NAME = "export.json"
ONNX_MODEL = Path("onnx", "model.onnx")
OPENVINO = Path("openvino")
"""Folder of the variants for OpenVINO."""
GOLDEN_NAME = "golden.jsonl"
LAYOUTS = Path("layouts")
"""Folder of the layouts for search engines, one folder each."""

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs of the model, in order; a model without token types has only the first two."""
PAIR_FORMAT = "text pair (query, document); document = title + ' ' + summary, stripped"


@dataclass(frozen=True, slots=True)
class Exported:
    """An export folder while layouts are made of it."""

    folder: Path
    encoder: PairEncoder
    input_names: Sequence[str]
    """Inputs of the model, in order."""
    example: Mapping[str, Any]
    """A golden pair that nothing is cut of, for the commands of a README."""


def read_manifest(path: str | Path) -> dict[str, Any]:
    """`export.json` of an export folder.

    Raises:
        ValueError: the folder has none.
    """
    file = Path(path, MANIFEST_NAME)
    if not file.exists():
        raise ValueError(f"{path} is no export: it has no {MANIFEST_NAME}; distill/export.py makes one from a bundle")
    return read_json(file)
