"""Second passes of the student: with its word embeddings moved to where the loss rises, or with another dropout mask.

Each pass is one more forward and backward of the student over the same texts; what is compared with the teacher, and
with which targets, is the objective's own business, on every pass alike.

The passes but the last go around the engine, straight to the student: DeepSpeed hangs hooks on what its own forward
returns, each to run once a backward pass, and a gradient at the embeddings would set them off too early.

Shapes: B sequences, T tokens in all, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from disranker.losses.states import score_consistency
from disranker.train.objectives import scores_by_query

if TYPE_CHECKING:
    from disranker.config.distill import DistillConfig
    from disranker.config.robustness import ConsistencyConfig, PerturbationConfig
    from disranker.data.batches import DistillBatch
    from disranker.models.packed import Packed
    from disranker.models.states import Outputs
    from disranker.models.student import Student


class ReadsOutputs(Protocol):
    """An objective that can say what any forward of a batch costs."""

    unit: str

    def count(self, batch: DistillBatch) -> float:
        """Units of the batch, by which the loss is normalised."""

    def loss(self, model: Any, batch: DistillBatch, step: int) -> dict[str, Tensor]:
        """The loss of one forward, and its parts."""

    def parts(self, outputs: Outputs, batch: DistillBatch, step: int) -> dict[str, Tensor]:
        """The loss of these outputs under `loss`, and its parts, each summed over the units of the batch."""


class RobustObjective:
    """An objective on two or three passes of the student.

    With perturbation and consistency the loss is

        ½ (L(pass) + L(other dropout)) + consistency.weight x squared difference of the two passes' scores
        + perturbation.weight x L(moved embeddings)

    The mean of the two passes is half of R-Drop's sum, so that a learning rate and the weights of other terms stay
    right when it is switched on.  `consistency` and `perturbed` are logged as they are before their weights; the
    parts of the objective are those of the first pass.

    FGM (Miyato et al. 2017, arXiv 1605.07725) and FGSM (Goodfellow et al. 2015, arXiv 1412.6572): with g the gradient
    of the loss at a text's word embeddings E, the move is size · |E| · d / |d| with d = g (fgm) or d = sign(g) (fgsm),
    so both are of one length.  The first paper normalises all embeddings, so that one size suits any model; measuring
    by |E| does that, and leaves the weights be.
    """

    def __init__(
        self,
        objective: ReadsOutputs,
        student: Student,
        perturbation: PerturbationConfig | None,
        consistency: ConsistencyConfig | None,
    ) -> None:
        self.unit = objective.unit
        self._objective, self._student = objective, student
        self._perturbation, self._consistency = perturbation, consistency
        self._embeddings: nn.Module = student.ranker.stock.get_input_embeddings()

    def count(self, batch: DistillBatch) -> float:
        """Units of the batch, as the objective counts them."""
        return self._objective.count(batch)

    def loss(self, model: Callable[[Packed], Outputs], batch: DistillBatch, step: int) -> dict[str, Tensor]:
        """The loss of all passes and its parts, each summed over the units of the batch."""
        perturbation, consistency = self._perturbation, self._consistency
        with _recorded(self._embeddings, wanted=perturbation is not None) as seen:
            outputs = self._student(batch.packed)
        parts = dict(self._objective.parts(outputs, batch, step))
        first = parts["loss"]
        if consistency is not None:
            forward = model if perturbation is None else self._student
            other = forward(batch.packed)
            agreement = batch.weight * _disagreement(outputs, other, batch)
            second = self._objective.parts(other, batch, step)["loss"]
            parts["loss"] = 0.5 * (first + second) + consistency.weight * agreement
            parts["consistency"] = agreement
        if perturbation is not None:
            (gradient,) = torch.autograd.grad(first, seen, retain_graph=True)
            with _moved(self._embeddings, embedding_move(seen[0], gradient, batch.packed, perturbation)):
                moved = model(batch.packed)
            parts["perturbed"] = self._objective.parts(moved, batch, step)["loss"]
            parts["loss"] = parts["loss"] + perturbation.weight * parts["perturbed"]
        return parts


def make_robust(objective: ReadsOutputs, student: Student, config: DistillConfig) -> ReadsOutputs | RobustObjective:
    """The objective with the second passes that the settings want; itself where they want none.

    Raises:
        ValueError: the student has no dropout in which two passes could differ, or does not run packed.
    """
    perturbation, consistency = config.perturbation, config.consistency
    if perturbation is None and consistency is None:
        return objective
    if consistency is not None and not has_dropout(student):
        raise ValueError(
            "consistency compares two passes with different dropout, and this student has none, so that both would be "
            "equal: set model.dropout to 0.1, say"
        )
    if perturbation is not None and not student.ranker.is_packed:
        family = student.ranker.stock.config.model_type
        raise ValueError(f"perturbation needs a student that runs packed, and the family {family} does not")
    return RobustObjective(objective, student, perturbation, consistency)


def has_dropout(model: nn.Module) -> bool:
    """Whether two forwards in training may differ."""
    # The second is of families that hand the share to their attention without a module for it.
    shares = [getattr(module, name, None) for module in model.modules() for name in ("p", "attention_dropout")]
    return any(isinstance(share, float) and share > 0.0 for share in shares)


def embedding_move(embedded: Tensor, gradient: Tensor, packed: Packed, perturbation: PerturbationConfig) -> Tensor:
    """[1, T, H] by which the word embeddings of a packed row are moved; 0 in a text whose gradient is 0."""
    embedded_TH, gradient_TH = embedded[0].detach().float(), gradient[0].float()
    direction_TH = gradient_TH.sign() if perturbation.kind == "fgsm" else gradient_TH
    lengths_T = _text_lengths(direction_TH, packed)
    factor_T = perturbation.size * _text_lengths(embedded_TH, packed) / torch.where(lengths_T > 0.0, lengths_T, 1.0)
    return (direction_TH * factor_T[:, None])[None].to(embedded.dtype)


def _text_lengths(states_TH: Tensor, packed: Packed) -> Tensor:
    """[T] Euclidean length of all states of the text that a token is of, taken as one vector."""
    squares_T = states_TH.square().sum(dim=1)
    runs = zip(squares_T.split([count * length for count, length in packed.runs]), packed.runs, strict=True)
    return torch.cat([run.unflatten(0, shape).sum(dim=1).repeat_interleave(shape[1]) for run, shape in runs]).sqrt()


def _disagreement(outputs: Outputs, other: Outputs, batch: DistillBatch) -> Tensor:
    """Squared difference of the scores of two passes: mean over documents, summed over queries."""
    scores_QD, other_QD = (scores_by_query(one.scores_B, batch.mask_QD) for one in (outputs, other))
    return score_consistency(scores_QD, other_QD, batch.mask_QD, reduction="sum")


@contextmanager
def _recorded(embeddings: nn.Module, *, wanted: bool) -> Iterator[list[Tensor]]:
    """The output of the word embeddings in the forward inside, with a gradient even where they are frozen (LoRA)."""
    seen: list[Tensor] = []
    if not wanted:
        yield seen
        return

    def record(module: nn.Module, inputs: tuple[Any, ...], embedded: Tensor) -> None:
        seen.append(embedded if embedded.requires_grad else embedded.requires_grad_())

    handle = embeddings.register_forward_hook(record)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def _moved(embeddings: nn.Module, move: Tensor) -> Iterator[None]:
    """Let the word embeddings come out moved in the forward inside; the weights stay as they are."""
    handle = embeddings.register_forward_hook(lambda module, inputs, embedded: embedded + move)
    try:
        yield
    finally:
        handle.remove()
