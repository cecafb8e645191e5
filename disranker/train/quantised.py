"""Training under the rounding of an int8 export: when it is on, and what the dev set is scored with.

From some step on every forward in training rounds.  The dev set is scored with rounding from the first evaluation on,
before training rounds, too: so the values of all steps can be compared, and the best of them is the best in int8.
Whatever else the student scores while it learns (examples that are mined, a bundle that is checked) is not rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from disranker.models.rounding import Rounding, round_linear_layers

if TYPE_CHECKING:
    from disranker.config.quantisation import QuantisationConfig
    from disranker.models.ranker import Ranker
    from disranker.train.engine import Objective

Evaluate = Callable[[], dict[str, float]]


class Learned(NamedTuple):
    """What a run minimises and measures."""

    objective: Objective
    evaluate: Evaluate | None
    facts: dict[str, str]
    """Lines for the plan."""


class QuantisedObjective:
    """An objective on a student that rounds from a step on."""

    def __init__(self, objective: Objective, rounding: Rounding, first_step: int) -> None:
        """`first_step`, from 0, is the first one that rounds."""
        self._objective, self._rounding, self._first_step = objective, rounding, first_step

    def count(self, batch: Any) -> float:
        """Units of the batch, as the objective counts them."""
        return self._objective.count(batch)

    def loss(self, model: Any, batch: Any, step: int) -> dict[str, Tensor]:
        """The objective's loss of that step and its parts, of a forward that rounds if the step does."""
        # By the step alone, so that a run that is gone on with rounds where it would have rounded.
        self._rounding.learning = step >= self._first_step
        return self._objective.loss(model, batch, step)


def quantise(
    quantisation: QuantisationConfig | None,
    ranker: Ranker,
    objective: Objective,
    evaluate: Evaluate | None,
    num_steps: int,
) -> Learned:
    """Let the student round as the settings want, in a run of that many steps; all as it is where they want nothing.

    Raises:
        ValueError: the student is a decoder, or has no linear layer that is known.
    """
    if quantisation is None:
        return Learned(objective, evaluate, {})
    rounding = round_linear_layers(ranker)
    first_step = math.floor(quantisation.begin * num_steps)
    measured = "; dev measured so throughout" if evaluate is not None else ""
    facts = {"rounded": f"{rounding.num_layers} linear layers to int8 from step {first_step} of {num_steps}{measured}"}
    rounded_evaluate = None if evaluate is None else _under_rounding(evaluate, rounding)
    return Learned(QuantisedObjective(objective, rounding, first_step), rounded_evaluate, facts)


def _under_rounding(evaluate: Evaluate, rounding: Rounding) -> Evaluate:
    def measure() -> dict[str, float]:
        with rounding.measured():
            return evaluate()

    return measure
