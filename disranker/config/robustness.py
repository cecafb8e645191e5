"""Settings that make a student steady: small changes of a text, or another dropout mask, are not to move its scores.

Either costs one more forward and backward pass of the student a step.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from disranker.settings import Settings


class PerturbationConfig(Settings):
    """Word embeddings are moved to where the loss rises, and the teacher's targets are kept (arXiv 1605.07725)."""

    kind: Literal["fgm", "fgsm"] = "fgm"
    """Which way: fgm along the gradient, fgsm along its sign, by which every number moves equally far."""
    size: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.02
    """Length of the move of a text's embeddings, as a share of their own length; 0.01 to 0.05 is usual."""
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """Factor of the loss of the moved texts beside that of the texts as they are."""


class ConsistencyConfig(Settings):
    """R-Drop: scores of two passes with different dropout are to agree (arXiv 2106.14448)."""

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """Factor of the squared difference of a document's two scores beside the mean loss of the two passes."""


def check_perturbation(perturbation: PerturbationConfig | None, zero_stage: int) -> None:
    """Refuse moved embeddings where weights are partitioned: DeepSpeed has let go of them by the second gradient.

    Raises:
        ValueError: `zero_stage` is 3.
    """
    if perturbation is not None and zero_stage == 3:
        raise ValueError(
            "perturbation takes two gradients through one forward, for which training.zero_stage 3 does not keep the "
            "weights: use 0, 1 or 2"
        )


def describe_robustness(perturbation: PerturbationConfig | None, consistency: ConsistencyConfig | None) -> str | None:
    """What a step costs and does more, in one line; None where nothing is wanted."""
    parts = []
    if consistency is not None:
        parts.append(f"{consistency.weight:g} x (difference of two dropouts)²")
    if perturbation is not None:
        moved = f"embeddings moved by {perturbation.size:.1%} ({perturbation.kind})"
        parts.append(f"{perturbation.weight:g} x the loss with {moved}")
    if not parts:
        return None
    return f"{' + '.join(parts)}; {1 + len(parts)} passes of the student a step"
