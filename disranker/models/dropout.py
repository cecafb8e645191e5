"""Dropout that does not hold up a CPU.

torch draws a Bernoulli number for every element on one thread, which takes longer than the matrix product before it.
Here 64 random bits decide on four elements.  Random numbers still come from torch's own generator, so a seed, a
checkpoint and a recomputed forward mean what they did.  On other devices torch's dropout stays.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 2**16
"""Values of the 16 bits that decide on an element: a share is met to 1 / 131,072."""


class BitDropout(nn.Dropout):
    """`nn.Dropout`, drawn from raw bits on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        return drop(input, self.p) if self.training else input


def drop(input: Tensor, share: float) -> Tensor:
    """Set a share of the elements to 0, drawn anew at each call, and divide the others by the share that is left.

    Source: Srivastava et al., Dropout, JMLR 15 (2014).
    """
    dropped = round(share * _LEVELS)
    if not input.is_cpu or not 0 < dropped < _LEVELS:
        return functional.dropout(input, share)
    size = input.numel()
    bits = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = bits.view(torch.int16)[:size].view(input.shape) >= dropped - _LEVELS // 2
    return input * kept.to(input.dtype).mul_(_LEVELS / (_LEVELS - dropped))


def use_bit_dropout(model: nn.Module) -> None:
    """Replace every `nn.Dropout` of a model, in place."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, BitDropout(child.p))
