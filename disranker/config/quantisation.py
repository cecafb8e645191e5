"""Settings that let a student learn under the rounding of an int8 export, so that the export scores as well as it does.

What is rounded, and how, is in `disranker.models.rounding`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from disranker.config.parts import ModelConfig, TrainingConfig
from disranker.settings import Settings


class QuantisationConfig(Settings):
    """The last steps compute with weights and activations rounded as in an int8 export (arXiv 1712.05877)."""

    begin: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.8
    """Share of the steps after which rounding begins; before it only the dev set is scored with rounding."""


def check_quantisation(quantisation: QuantisationConfig | None, model: ModelConfig, training: TrainingConfig) -> None:
    """Refuse rounding of weights that are not those of the export, and a run that may end before it begins.

    Raises:
        ValueError: the student is in bfloat16, has adapters or an end that is not known.
    """
    if quantisation is None:
        return
    if model.dtype != "float32":
        raise ValueError(f"quantisation rounds float32 weights, and model.dtype is {model.dtype}: set it to float32")
    if model.lora is not None:
        raise ValueError(
            "quantisation rounds the weights that are exported, and those of model.lora are merged only then: train "
            "all weights, or distill once more from the merged bundle"
        )
    if training.patience is not None and quantisation.begin > 0.0:
        raise ValueError(
            "training.patience may end the run before quantisation begins: leave it out, or set quantisation.begin to 0"
        )
