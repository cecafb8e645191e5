"""What stage 3 trains: a ranker, and the projections by which its states are compared with a teacher's.

The projections are trained and kept in checkpoints like any weight; a bundle is made of the ranker alone.

Shapes: B sequences, T tokens in all, H hidden width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn

from disranker.models.packed import Packed
from disranker.models.ranker import Float32Linear, Ranker
from disranker.models.states import Outputs

POOLED, HIDDEN = "pooled", "hidden"
"""Names of the projections: of pooled states, and of hidden states, one for all layers."""


class Student(nn.Module):
    """A ranker in training: one forward gives all that any term of the loss reads."""

    def __init__(
        self,
        ranker: Ranker,
        projections: Mapping[str, nn.Module] | None = None,
        *,
        hidden_layers: Collection[int] = (),
        attention_layers: Collection[int] = (),
    ) -> None:
        """`projections` are by name, `POOLED` and `HIDDEN`; layers are numbered as in `Ranker.read`."""
        super().__init__()
        self.ranker = ranker
        self.projections = nn.ModuleDict(projections or {})
        self._hidden_layers, self._attention_layers = frozenset(hidden_layers), frozenset(attention_layers)

    def forward(self, packed: Packed) -> Outputs:
        """Scores, pooled states and layers of one pass; pooled and hidden states projected where there is one for them.

        Projections are used in here alone, so ZeRO-3 has their weights at hand.
        """
        outputs = self.ranker.read(packed, hidden_layers=self._hidden_layers, attention_layers=self._attention_layers)
        if POOLED in self.projections:
            outputs = outputs._replace(projected_BH=self.projections[POOLED](outputs.pooled_BH))
        if HIDDEN in self.projections and outputs.layers is not None:
            projected = {layer: self.projections[HIDDEN](state) for layer, state in outputs.layers.hidden_TH.items()}
            outputs = outputs._replace(layers=outputs.layers._replace(hidden_TH=projected))
        return outputs


def projection(width: int, teacher_width: int, *, seed: int) -> nn.Module:
    """A linear map, with a bias and in fp32, from the student's width to the teacher's, drawn from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        return Float32Linear(width, teacher_width)
