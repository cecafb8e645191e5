"""Bundles that have proved themselves: written aside, opened anew, rescored, and only then moved into place.

Whoever saves a ranker for others to use saves it here; `models.bundle` knows the files alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from disranker import dist
from disranker.models.bundle import FACTS_NAME, save_bundle
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.schema import Pair
from disranker.text.encode import PairEncoder

NUM_PROBES = 16
"""Pairs on which a saved bundle is rescored."""
UNCHECKED_FOLDER = "unchecked"
"""Where a bundle lies in its folder until it has been rescored; without `disranker.json` if it was found wanting."""

# A merged adapter, and a sum in another order, differ by rounding; wrong weights differ by far more.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


def save_verified(
    out: str | Path,
    ranker: Ranker,
    encoder: PairEncoder,
    facts: Mapping[str, Any],
    pairs: Sequence[Pair],
    *,
    dtype: str,
) -> float:
    """Write the bundle, rescore up to 16 of the pairs with it, and move it to `out`; the largest difference of a score.

    Every rank calls this.  A bundle that is there already stays until the new one has proved itself.

    Raises:
        ValueError: the bundle does not open, or scores differently; `out` is as it was.
    """
    folder, unchecked = Path(out), Path(out, UNCHECKED_FOLDER)
    if dist.is_main():
        shutil.rmtree(unchecked, ignore_errors=True)
    save_bundle(unchecked, ranker.model, encoder, facts)
    try:
        difference = check_reload(unchecked, ranker, encoder, pairs, dtype)
    except ValueError as error:
        if dist.is_main():
            (unchecked / FACTS_NAME).unlink()  # without it nothing here opens the folder
        raise ValueError(f"{error}; it was not moved to {folder}, and lies there for a look at its weights") from error
    if dist.is_main():
        _publish(unchecked, folder)
    dist.barrier()
    return difference


def check_reload(path: str | Path, ranker: Ranker, encoder: PairEncoder, pairs: Sequence[Pair], dtype: str) -> float:
    """Open the bundle anew and score the first pairs with it; the largest difference from the model in memory.

    Every rank calls this: under ZeRO-3 the model in memory scores on all of them or on none.

    Raises:
        ValueError: the bundle does not open or scores differently, so it must not be used.
    """
    pairs = list(pairs[:NUM_PROBES])
    was_training = ranker.training
    ranker.eval()
    here = Scorer(ranker, encoder).score(pairs)
    ranker.train(was_training)
    difference, fault = dist.broadcast_object(_compare(path, here, pairs, dtype) if dist.is_main() else None)
    if fault is not None:
        raise ValueError(f"the bundle {path} {fault}; it must not be used")
    return float(difference)


def _compare(path: str | Path, here: np.ndarray, pairs: Sequence[Pair], dtype: str) -> tuple[float, str | None]:
    """(largest difference, what is wrong or None); faults are returned, for the other ranks wait for an answer."""
    try:
        there = Scorer.load(path, dtype=dtype).score(pairs)
    except (ValueError, RuntimeError, OSError) as error:
        return float("nan"), f"cannot be opened again: {error}"
    difference = float(np.abs(here - there).max())
    if difference <= _TOLERANCE[dtype] * max(1.0, float(np.abs(here).max())):
        return difference, None
    fault = f"does not score as the model in memory does: largest difference {difference:.3g} on {len(pairs)} pairs"
    return difference, fault


def _publish(unchecked: Path, folder: Path) -> None:
    """Move the files into place; until the last one, `disranker.json`, is there, the folder is no bundle."""
    (folder / FACTS_NAME).unlink(missing_ok=True)
    for old in folder.glob("*.safetensors*"):  # weights in another number of files would be read, too
        old.unlink()
    for file in sorted(unchecked.iterdir(), key=lambda path: path.name == FACTS_NAME):
        os.replace(file, folder / file.name)
    unchecked.rmdir()
