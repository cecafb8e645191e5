"""Settings with every kind of field, and a file of them, for the tests of the mechanism."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from disranker.settings import InputPath, Settings


class Lora(Settings):
    r: Annotated[int, Field(gt=0)] = 16
    """Rank of the update."""
    alpha: float = 32.0
    """Scale of the update."""

    @model_validator(mode="after")
    def _not_too_large(self) -> Self:
        if self.alpha > 10 * self.r:
            raise ValueError("alpha is more than ten times r")
        return self


class Model(Settings):
    name: str
    """Folder or hub name."""
    kind: Literal["decoder", "encoder"] = "decoder"
    """Family of the model."""
    lora: Lora | None = None
    """Low-rank adapters; null trains all weights."""

    @model_validator(mode="after")
    def _no_lora_on_encoders(self) -> Self:
        if self.kind == "encoder" and self.lora is not None:
            raise ValueError("kind encoder takes no lora")
        return self


class Optim(Settings):
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Steps to take; null takes all."""
    fused: bool = False
    """Use the fused kernel."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the moments."""


class Teacher(Settings):
    path: InputPath
    """Folder of the teacher."""
    weight: float = 1.0
    """Share in the mixture."""


class Constant(Settings):
    shape: Literal["constant"]
    """Keeps the rate."""


class Cosine(Settings):
    shape: Literal["cosine"]
    """Follows half a cosine."""
    final_share: float = 0.0
    """Share of the peak at the end."""


class Config(Settings):
    out: str
    """Folder that is written."""
    model: Model
    """The network."""
    optim: Optim = Optim()
    """The optimizer."""
    teachers: list[Teacher] = []
    """Teachers to mix."""
    inputs: list[InputPath] = []
    """Files to read."""
    systems: dict[str, Teacher] = {}
    """Named teachers."""
    extra: dict[str, Any] = {}
    """Anything."""
    schedule: Annotated[Constant | Cosine, Field(discriminator="shape")] = Constant(shape="constant")
    """Shape of the learning rate."""
    limit: Literal["all"] | int = "all"
    """Rows to read."""
    seed: int = 0
    """Root of all randomness."""

    @model_validator(mode="after")
    def _seed_is_usable(self) -> Self:
        if self.seed == 13:
            raise ValueError("seed 13 is not used")
        return self

    @model_validator(mode="after")
    def _seed_fits_steps(self) -> Self:
        if self.optim.steps is not None and self.seed > self.optim.steps:
            raise ValueError("seed is greater than optim.steps")
        return self


REQUIRED = ["--out", "runs/x", "--model.name", "some/model"]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def write_config(folder: Path) -> str:
    return write(
        folder / "c.yaml",
        "# a comment\nout: runs/file\nmodel:\n  name: from/file\noptim:\n  learning_rate: 1e-4\n  steps: 7\n",
    )
