"""Penalties that keep a language model near its starting weights: L2-SP and EWC.

Each is half a sum of squared moves of the weights, which the objective multiplies with the settings' weight.  The start
is kept in the type of the weights, the Fisher information in fp32, both whole on every rank; ZeRO-3, which has no whole
weights, is refused by the settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from disranker import dist
from disranker.models.packed import pack
from disranker.schema import stable_seed

if TYPE_CHECKING:
    from disranker.config.pretrain import PenaltyConfig
    from disranker.data.tokens import TokenTable
    from disranker.models.language import LanguageModel

_ADAPTER = "default"


class Penalty:
    """½ Σ (w - w₀)² over the weights (L2-SP), or ½ Σ F (w - w₀)² (EWC)."""

    def __init__(self, moves: Sequence[Move], weight: float) -> None:
        self._moves = moves
        self.weight = weight
        """factor in the loss"""

    def __call__(self) -> Tensor:
        """The penalty of the weights as they are, an fp32 scalar before the factor."""
        return torch.stack([move.penalty() for move in self._moves]).sum()


def make_penalty(
    config: PenaltyConfig | None, model: LanguageModel, general: TokenTable | None, *, seed: int
) -> Penalty | None:
    """The penalty of the settings; the weights as they are now are the start.  None without settings.

    L2-SP (Li, Grandvalet, Davoine 2018, arXiv 1802.01483) pulls all weights that are trained alike; with LoRA it is
    the squared norm of the update s·BA, a weight decay of what the adapters come to.  EWC (Kirkpatrick et al. 2017,
    arXiv 1612.00796) weighs each weight by the diagonal of its Fisher information on `general`; with LoRA that of the
    weight that an adapter moves.
    """
    if config is None:
        return None
    model.to(dist.device())
    moves = _find_moves(model)
    if config.kind == "ewc":
        assert general is not None, "the settings ask for replay with ewc"
        for move, fisher in zip(moves, _fisher(model, moves, general, config.fisher_texts, seed), strict=True):
            move.fisher = fisher
    return Penalty(moves, config.weight)


class Move(Protocol):
    """How far training has moved one weight from its start."""

    weight: Tensor
    """whose Fisher information counts"""
    fisher: Tensor | None
    """fp32, of the shape of the weight; None: 1 everywhere"""

    def penalty(self) -> Tensor:
        """½ Σ (F) move², with a gradient for what is trained."""


class _WeightMove:
    """The move of a weight that is trained itself."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.weight: Tensor = parameter
        self.fisher: Tensor | None = None
        self._start = parameter.detach().clone()

    def penalty(self) -> Tensor:
        squares: Tensor = _HalfSquares.apply(self.weight, self._start, self.fisher)
        return squares


class _AdapterMove:
    """The move s·BA that a LoRA adapter makes of a weight that stands still."""

    def __init__(self, layer: Any) -> None:
        self.weight: Tensor = layer.get_base_layer().weight
        self.fisher: Tensor | None = None
        self._down: Tensor = layer.lora_A[_ADAPTER].weight
        self._up: Tensor = layer.lora_B[_ADAPTER].weight
        self._scale = float(layer.scaling[_ADAPTER])

    def penalty(self) -> Tensor:
        down, up = self._down.float(), self._up.float()
        if self.fisher is None:
            # |BA|² = <BᵀB, AAᵀ>: matrices of r x r, where BA is as large as the weight
            return 0.5 * self._scale**2 * torch.sum((up.T @ up) * (down @ down.T))
        return 0.5 * torch.sum(self.fisher * torch.square(self._scale * (up @ down)))


class _HalfSquares(torch.autograd.Function):
    """½ Σ F (w - w₀)² that keeps nothing for the backward pass but its inputs, which are there anyway."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, start: Tensor, fisher: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, start, fisher)
        squares = torch.square(weight.float() - start.float())
        return 0.5 * torch.sum(squares if fisher is None else squares * fisher)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight, start, fisher = ctx.saved_tensors
        pull = gradients[0] * (weight.float() - start.float())
        return (pull if fisher is None else pull * fisher).to(weight.dtype), None, None


def _find_moves(model: LanguageModel) -> list[Move]:
    """A move for every weight that training changes."""
    adapted = [module for module in model.modules() if hasattr(module, "get_delta_weight")]
    if adapted:
        return [_AdapterMove(layer) for layer in adapted]
    return [_WeightMove(parameter) for parameter in model.parameters() if parameter.requires_grad]


def _fisher(
    model: LanguageModel, moves: Sequence[Move], general: TokenTable, num_texts: int, seed: int
) -> list[Tensor]:
    """The diagonal of the empirical Fisher information of a predicted token, for the weight of each move.

    One gradient of the summed log-likelihood for each of `num_texts` pieces, which the seed draws; the sum of their
    squares is divided by the predicted tokens.  So ½ Σ F (w - w₀)² estimates how many nats a token of general text
    loses.  Every rank computes the same.
    """
    weights = [move.weight for move in moves]
    trained = [weight.requires_grad for weight in weights]
    squares = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    drawn = np.random.default_rng(stable_seed(seed, "fisher")).permutation(len(general))[:num_texts]
    num_predicted, was_training = 0, model.training
    model.eval()  # without dropout
    for weight in weights:
        weight.requires_grad_(True)
    for row in drawn.tolist():
        packed = pack([general[row]]).to(dist.device())
        predict_T = packed.token_type_ids[0].bool()
        gradients = torch.autograd.grad(model(packed, predict_T).sum(), weights, allow_unused=True)
        for square, gradient in zip(squares, gradients, strict=True):
            if gradient is not None:
                square += torch.square(gradient.float())
        num_predicted += int(predict_T.sum())
    for weight, requires_grad in zip(weights, trained, strict=True):
        weight.requires_grad_(requires_grad)
    model.train(was_training)
    return [square / num_predicted for square in squares]
