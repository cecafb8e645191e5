"""Checkpoints of a run: weights, optimizer, and how far it had come; the newest one is kept.

The order of the data and the dropout of a step are functions of the seed and the step, and the learning rate is too,
so neither random state nor scheduler needs saving.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from disranker import dist

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class Progress(TypedDict):
    """How far a run has come."""

    step: int
    """Optimizer steps done."""
    tokens: float
    """Tokens seen, over all ranks."""
    best_step: int
    """Step of the best evaluation; 0 before the first."""
    best_value: float
    """Value of the best evaluation; minus infinity before the first."""
    config: str
    """The resolved settings of the run."""


def save_checkpoint(engine: DeepSpeedEngine, folder: Path, progress: Progress) -> None:
    """Save and then remove the checkpoint before this one: a kill at any moment leaves a whole one."""
    tag = f"step-{progress['step']:08}"
    engine.save_checkpoint(str(folder), tag=tag, client_state=dict(progress), exclude_frozen_parameters=True)
    dist.barrier()
    if dist.is_main():
        for old in folder.glob("step-*"):
            if old.name != tag:
                shutil.rmtree(old)


def load_checkpoint(engine: DeepSpeedEngine, folder: Path, config: str) -> Progress | None:
    """Load the newest checkpoint into the engine; None when there is none.

    Raises:
        ValueError: the checkpoint belongs to a run with other settings.
    """
    if not (folder / "latest").exists():
        return None
    _, state = engine.load_checkpoint(str(folder), load_module_strict=False)
    if state["config"] != config:
        raise ValueError(
            f"{folder} holds a checkpoint of a run with other settings; go on with those, "
            "or remove the folder, or choose another out"
        )
    return Progress(
        step=state["step"],
        tokens=state["tokens"],
        best_step=state["best_step"],
        best_value=state["best_value"],
        config=config,
    )


def remove_checkpoints(folder: Path) -> None:
    """Remove what a finished run no longer needs."""
    dist.barrier()
    if dist.is_main() and folder.exists():
        shutil.rmtree(folder)
