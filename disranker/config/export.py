"""The settings of the export."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from disranker.config.parts import Positive
from disranker.settings import InputPath, OutputFolder, Settings


class ExportConfig(Settings):
    """Export of a student, with proof that it scores as before."""

    bundle: InputPath
    """Bundle of the student."""
    out: OutputFolder
    """Folder of the export."""
    judged: list[InputPath]
    """Judged pairs, best those of development: on them the drift is measured, and golden pairs are chosen of them."""
    max_pairs: Positive = 1000
    """Judged pairs that are scored: those of the first queries, each query as a whole."""
    max_difference: Annotated[float, Field(gt=0.0)] = 1e-4
    """Largest difference of a float32 score from torch's that is accepted; other types may lose 0.002 of nDCG@10."""
    variants: list[Literal["onnx-int8-static", "onnx-int8-dynamic", "openvino", "openvino-bf16", "openvino-int8"]] = []
    """Variants beside onnx, which is float32 and always written; the fastest at each number of threads is named."""
    accept_drift: bool = False
    """Write the export although its drift is beyond the limit; export.json says so."""
    layouts: list[Literal["vespa", "triton", "opensearch", "torchscript", "flashrank"]] = []
    """Layouts for engines that cannot open the export folder itself, written to layouts/; opensearch brings torchscript
    along."""
    opset: Annotated[int, Field(ge=14)] = 17
    """ONNX operator set."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        named: dict[str, list[str]] = {"variants": [*self.variants], "layouts": [*self.layouts]}
        for setting, names in named.items():
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{setting} names {', '.join(twice)} more than once")
        return self
