"""The settings of stage 3, distillation."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from disranker.config.parts import RankerStage, Weight
from disranker.settings import InputPath


class DistillConfig(RankerStage):
    """Stage 3: a student learns the teacher's scores with point-MSE + margin-MSE."""

    store: InputPath
    """Store with the teacher's scores."""
    candidates: list[InputPath]
    """The pairs that were scored."""
    point_weight: Weight = 1.0
    """Weight of point-MSE: the student's score against the teacher's standardised score."""
    margin_weight: Weight = 1.0
    """Weight of margin-MSE: every difference within a group against the teacher's."""

    @model_validator(mode="after")
    def _some_signal(self) -> Self:
        if self.point_weight + self.margin_weight == 0.0:
            raise ValueError("point_weight and margin_weight are both 0: nothing would be learned")
        return self
