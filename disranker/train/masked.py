"""Masked-language modelling for the warm-up of an encoder: which tokens are hidden, the loss, and perplexity.

Of every row a share of the tokens is to be predicted; of these 80% are replaced by the mask token, 10% by a random
token, and 10% stand as they are (Devlin et al. 2019, arXiv 1810.04805).  What is drawn is a function of (seed, epoch,
row), so it does not depend on batches, ranks or a resume.

Shapes: T tokens in all, N predicted tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from disranker import dist
from disranker.data.batches import fill_steps
from disranker.data.tokens import TokenTable
from disranker.models.masked import MaskedLanguageModel
from disranker.models.packed import Packed, pack
from disranker.schema import stable_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MASKED, _RANDOM = 0.8, 0.1


@dataclass(frozen=True, slots=True)
class MaskedBatch:
    """Packed rows in which tokens are hidden."""

    packed: Packed
    masked_T: Tensor
    """bool: to be predicted"""
    targets_N: Tensor
    """int64: the tokens that stood there, in the order of the row"""
    weight: float = 1.0

    def to(self, device: torch.device) -> MaskedBatch:
        """The same batch on another device."""
        return MaskedBatch(
            self.packed.to(device), self.masked_T.to(device), self.targets_N.to(device), weight=self.weight
        )


class Masker:
    """Hides tokens of a row."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, share: float, seed: int) -> None:
        """`share` of the tokens of a row are to be predicted, one at least; special tokens and unknown ones never."""
        assert tokenizer.mask_token_id is not None
        self._mask_id, self._share, self._seed = tokenizer.mask_token_id, share, seed
        self._ordinary = np.ones(len(tokenizer), dtype=bool)
        self._ordinary[tokenizer.all_special_ids] = False
        self._drawn_from = np.flatnonzero(self._ordinary)

    def hide(self, ids: NDArray[np.int64], epoch: int, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(the ids as the model sees them, positions that it is to predict) of a row in an epoch."""
        can_hide = np.flatnonzero(self._ordinary[ids])
        if len(can_hide) == 0:
            return ids, can_hide
        random = np.random.default_rng(stable_seed(self._seed, "mask", epoch, row))
        at = random.choice(can_hide, max(1, round(self._share * len(can_hide))), replace=False)
        fate = random.random(len(at))
        seen = ids.copy()
        seen[at[fate < _MASKED]] = self._mask_id
        swapped = at[(fate >= _MASKED) & (fate < _MASKED + _RANDOM)]
        seen[swapped] = random.choice(self._drawn_from, len(swapped))
        return seen, at


class MaskedItems:
    """Rows of a token table, hidden tokens drawn anew in every epoch."""

    def __init__(self, table: TokenTable, masker: Masker) -> None:
        self.table, self._masker = table, masker

    def lengths(self, epoch: int) -> NDArray[np.int64]:
        """Tokens of every row; the same in every epoch."""
        return self.table.lengths

    def batch(self, items: Sequence[int], epoch: int, weight: float) -> MaskedBatch:
        """Those rows, packed.

        Raises:
            ValueError: none of them has a token that can be hidden.
        """
        packed = pack([self.table[int(item)] for item in items])
        ids, starts = packed.input_ids[0].numpy(), packed.cu_seqlens.tolist()
        seen, masked = ids.copy(), np.zeros(len(ids), dtype=bool)
        for place, index in enumerate(packed.order.tolist()):
            begin, end = starts[place], starts[place + 1]
            seen[begin:end], at = self._masker.hide(ids[begin:end], epoch, int(items[index]))
            masked[begin + at] = True
        if weight and not masked.any():
            raise ValueError(
                f"{len(items)} rows that came together have no token to hide: all of theirs are unknown to the "
                "tokenizer; is it for another language?"
            )
        shown = replace(packed, input_ids=torch.from_numpy(seen)[None])
        return MaskedBatch(shown, torch.from_numpy(masked), torch.from_numpy(ids[masked]), weight)


class MaskedObjective:
    """The warm-up: negative log-likelihood of the hidden tokens."""

    unit = "tokens"

    def count(self, batch: MaskedBatch) -> float:
        """Hidden tokens of the batch."""
        return batch.weight * len(batch.targets_N)

    def loss(self, model: nn.Module, batch: MaskedBatch, step: int) -> dict[str, Tensor]:
        """Nats, summed over the hidden tokens."""
        losses_N = model(batch.packed, batch.masked_T, batch.targets_N)
        return {"loss": batch.weight * torch.sum(losses_N)}


def masked_likelihood(
    model: MaskedLanguageModel, items: MaskedItems, tokens_per_batch: int
) -> Callable[[], dict[str, float]] | None:
    """A function that gives the mean log-likelihood in nats of a held-out hidden token, and the perplexity.

    The same tokens are hidden at every call.  None where nothing is held out.
    """
    lengths = items.lengths(0)
    if len(lengths) == 0:
        return None
    batches = fill_steps(np.arange(len(lengths)), lengths, tokens_per_batch)

    # Not inference_mode: what ZeRO-3 gathers in it before the first step stays, and cannot be trained with.
    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        losses, num_tokens = 0.0, 0
        for rows in batches:
            batch = items.batch(rows.tolist(), 0, 1.0).to(dist.device())
            losses += float(model(batch.packed, batch.masked_T, batch.targets_N).sum())
            num_tokens += len(batch.targets_N)
        return {"log_likelihood": -losses / num_tokens, "perplexity": math.exp(losses / num_tokens)}

    return evaluate
