"""Linear layers that compute with rounded weights and activations, as they will in an int8 export of the model.

Rounded is what the export rounds: every linear layer over the tokens.  Embeddings, norms, the two products inside
attention, and what reads the pooled row alone (of BERT-like families most of the last layer; pooler, head) stay in
float, and so do all weights as they are trained and saved.  Nothing is faster for it: products are those of floats that
8 bits can hold.

    weight      q = round(w / scale),              scale = reach / 127 of its output channel
                reach = the largest of |w|, and of |w_2k + w_2k+1| for neighbours of one sign
    activation  q = round(x / scale) + zero point, scale = (hi - lo) / 255, zero point = round(-lo / scale),
                hi = max(x, 0) and lo = min(x, 0) over the whole tensor

Processors without VNNI add two products in 16 bits, which is why neighbours may reach 127 together only.  The range of
an activation is that of its batch, as in dynamic quantisation; a static export has it calibrated once.  A score
therefore depends, by a rounding, on the texts beside it.  Channels far outside the others, which the export scales down
first, are left here as they are.  Gradients pass as if nothing were rounded (straight through; Jacob et al. 2018, arXiv
1712.05877).

Shapes: O outputs, I inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fake_quantize_per_channel_affine, fake_quantize_per_tensor_affine, nn
from torch.nn.functional import linear, pad

from disranker.models.ranker import ROWS_AFTER_ATTENTION, Ranker

_WEIGHT_LEVELS = 127
_ACTIVATION_LEVELS = 255


@dataclass(slots=True)
class Rounding:
    """The switch that all rounded layers of a model share; off until someone turns it on."""

    num_layers: int = 0
    """Layers that it is of."""
    learning: bool = False
    """Whether forwards in training round; it stays as it is for the backward pass, which may run layers once more."""
    measuring: bool = False
    """Whether other forwards do."""

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Round forwards outside training, too."""
        self.measuring = True
        try:
            yield
        finally:
            self.measuring = False


class RoundedLinear(nn.Linear):
    """A linear layer that rounds its input and its weights while the switch is on."""

    rounding: Rounding

    def forward(self, input: Tensor) -> Tensor:
        if not (self.rounding.learning if self.training else self.rounding.measuring):
            return super().forward(input)
        return linear(round_activations(input), round_weights(self.weight), self.bias)


def round_linear_layers(ranker: Ranker) -> Rounding:
    """Make the linear layers of an encoder that an int8 export rounds rounded ones; their switch, which is off.

    Names of weights, and thus bundles and checkpoints, stay as they are.

    Raises:
        ValueError: the ranker is a decoder, or has no linear layer that is known.
    """
    family = ranker.stock.config.model_type
    if ranker.is_decoder:
        raise ValueError(
            f"quantisation is for encoders, which are exported in int8, and a {family} is a decoder: leave it out"
        )
    rounding = Rounding()
    in_float = _of_the_pooled_row(ranker)
    for module in ranker.stock.base_model.modules():
        if type(module) is nn.Linear and module not in in_float:
            # The class alone changes: parameters, their names and their ZeRO partitions are left as they are.
            module.__class__ = RoundedLinear
            cast(RoundedLinear, module).rounding = rounding
            rounding.num_layers += 1
    if not rounding.num_layers:
        raise ValueError(f"quantisation rounds linear layers, and the encoder of a {family} has none: leave it out")
    return rounding


def _of_the_pooled_row(ranker: Ranker) -> set[nn.Module]:
    """Modules whose products the export makes for the pooled row alone."""
    backbone: Any = ranker.stock.base_model
    pooler = getattr(backbone, "pooler", None)
    parts: list[nn.Module] = [pooler] if isinstance(pooler, nn.Module) else []
    if ranker.stock.config.model_type in ROWS_AFTER_ATTENTION:
        last = backbone.encoder.layer[-1]
        parts += [last.attention.self.query, last.attention.output, last.intermediate, last.output]
    return {module for part in parts for module in part.modules()}


def round_weights(weight_OI: Tensor) -> Tensor:
    """[O, I] weights rounded to 8 bits, symmetric, one scale for each output; a row of zeros stays one."""
    pairs_OI2 = pad(weight_OI.detach(), (0, weight_OI.shape[1] % 2)).unflatten(1, (-1, 2))
    # At least as far as each weight of the two itself: that of the other sign counts 0.
    reach_O = torch.maximum(pairs_OI2.clamp(min=0.0).sum(2).amax(1), pairs_OI2.clamp(max=0.0).sum(2).neg().amax(1))
    scale_O = reach_O / _WEIGHT_LEVELS
    scale_O = torch.where(scale_O == 0.0, 1.0, scale_O)
    zero_O = torch.zeros_like(scale_O, dtype=torch.int32)
    rounded: Tensor = fake_quantize_per_channel_affine(weight_OI, scale_O, zero_O, 0, -_WEIGHT_LEVELS, _WEIGHT_LEVELS)
    return rounded


def round_activations(states: Tensor) -> Tensor:
    """Any tensor rounded to 8 bits, asymmetric, with one scale for all of it, which has 0 among its values."""
    low, high = torch.aminmax(states.detach())
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = (high - low) / _ACTIVATION_LEVELS
    scale = torch.where(scale == 0.0, 1.0, scale)
    zero = (-low / scale).round().clamp(0, _ACTIVATION_LEVELS).to(torch.int32)
    rounded: Tensor = fake_quantize_per_tensor_affine(states, scale, zero, 0, _ACTIVATION_LEVELS)
    return rounded
