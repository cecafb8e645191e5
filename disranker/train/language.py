"""Stage 1's objective: the likelihood of clicked documents, queries and general text, as `data.text_items` shows them.

The count of a step is the sum of the weights of its predicted tokens, so that neither the shape of a micro-batch nor
the mean weight changes the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from disranker import dist

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from disranker.data.text_items import TextBatch
    from disranker.train.penalty import Penalty


class LanguageModelObjective:
    """Next-token loss; the tokens that an example is conditioned on carry none.

    With the bytes of every token the parts tell how many bytes of text a predicted token stands for; with a penalty
    they tell it before its weight, and the likelihood alone as `nll`.
    """

    unit = "tokens"

    def __init__(self, token_bytes: NDArray[np.int64] | None = None, penalty: Penalty | None = None) -> None:
        """`token_bytes` is [V] int64, bytes of text of every token."""
        self._bytes_V = None if token_bytes is None else torch.from_numpy(token_bytes).to(dist.device())
        self._penalty = penalty

    def count(self, batch: TextBatch) -> float:
        """Predicted tokens of the batch, or the sum of their weights."""
        if batch.weights_N is None:
            return batch.weight * int(batch.predict_T.sum())
        return batch.weight * float(batch.weights_N.sum(dtype=torch.float64))

    def loss(self, model: Callable[..., Tensor], batch: TextBatch, step: int) -> dict[str, Tensor]:
        """Negative log-likelihood in nats, summed over predicted tokens by weight; the penalty once for each of them.

        The engine divides by the count of the step: what is logged is a mean over tokens, and the penalty itself.
        """
        losses_N = model(batch.packed, batch.predict_T)
        parts = {"loss": batch.weight * _weighted_sum(losses_N, batch)}
        if self._penalty is not None:
            penalty = self._penalty() * self.count(batch)
            parts = {
                "loss": parts["loss"] + self._penalty.weight * penalty,
                "nll": parts["loss"].detach(),
                "penalty": penalty.detach(),
            }
        if self._bytes_V is not None:
            bytes_N = self._bytes_V[batch.packed.input_ids[0, batch.predict_T]]
            parts["bytes_per_token"] = batch.weight * _weighted_sum(bytes_N.float(), batch)
        return parts


def _weighted_sum(values_N: Tensor, batch: TextBatch) -> Tensor:
    return torch.sum(values_N if batch.weights_N is None else values_N * batch.weights_N)
