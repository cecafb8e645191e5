"""The settings of the export."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from disranker.config.parts import Positive
from disranker.settings import InputPath, Settings


class ExportConfig(Settings):
    """Export of a student, with proof that it scores as before."""

    bundle: InputPath
    """Bundle of the student."""
    out: str
    """Folder of the export."""
    judged: list[InputPath]
    """Pairs for the parity check; the first `parity_pairs` are scored both ways."""
    parity_pairs: Positive = 200
    """Pairs in the parity check."""
    max_difference: Annotated[float, Field(gt=0.0)] = 1e-4
    """Largest difference of a score from torch's that is accepted."""
    opset: Annotated[int, Field(ge=14)] = 17
    """ONNX operator set."""
