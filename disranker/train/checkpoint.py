"""Checkpoints of a run: weights, optimizer, and how far it had come; the newest one is kept.

The order of the data and the dropout of a step are functions of the seed and the step, and the learning rate is too,
so neither random state nor scheduler needs saving.
"""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from disranker import dist
from disranker.shards import write_atomic

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

CHECKPOINT_FOLDER = "checkpoint"
"""Where they are in the output folder of a run."""
_SETTINGS = "config.yaml"


class Progress(TypedDict):
    """How far a run has come."""

    step: int
    """Optimizer steps done."""
    tokens: float
    """Tokens seen, over all ranks."""
    pairs: float
    """Pairs seen, over all ranks, repeats counted."""
    best_step: int
    """Step of the best evaluation; 0 before the first."""
    best_value: float
    """Value of the best evaluation; minus infinity before the first."""


def save_checkpoint(engine: DeepSpeedEngine, folder: Path, progress: Progress, config: str) -> None:
    """Save and then remove the checkpoint before this one: a kill at any moment leaves a whole one."""
    if dist.is_main():
        with write_atomic(folder / _SETTINGS) as temporary:
            temporary.write_text(_with_ranks(config), encoding="utf-8")
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
    check_settings(folder, config)
    _, state = engine.load_checkpoint(str(folder), load_module_strict=False)
    return Progress(
        step=state["step"],
        tokens=state["tokens"],
        pairs=state["pairs"],
        best_step=state["best_step"],
        best_value=state["best_value"],
    )


def check_settings(folder: Path, config: str) -> None:
    """Make sure that a checkpoint, if there is one, is of a run with these settings on as many ranks.

    Raises:
        ValueError: it is not; the lines that differ are named.
    """
    if not (folder / "latest").exists():
        return
    there, here = (folder / _SETTINGS).read_text(encoding="utf-8"), _with_ranks(config)
    if there != here:
        lines = difflib.ndiff(there.splitlines(), here.splitlines())
        words = {"-": "there", "+": "here "}
        differing = "\n".join(f"  {words[line[0]]}  {line[2:].strip()}" for line in lines if line[0] in words)
        raise ValueError(
            f"{folder} holds a checkpoint of a run with other settings:\n{differing}\n"
            "Go on with those, or remove the folder, or choose another out."
        )


def remove_checkpoints(folder: Path) -> None:
    """Remove what a finished run no longer needs."""
    dist.barrier()
    if dist.is_main() and folder.exists():
        shutil.rmtree(folder)


def _with_ranks(config: str) -> str:
    # Every rank has a part of the optimizer's state and a dropout of its own.
    return f"{config.rstrip()}\nranks: {dist.world_size()}\n"
