"""Examples for next-token prediction: what an epoch shows of the clicks and of general text, and batches of it.

An epoch shows every click once, in a form drawn by shares, and beside the clicks as many pieces of general text as its
share of the tokens asks for.  All of it is a function of (seed, epoch).

Shapes: T tokens of a batch, N predicted ones among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from disranker.data.tokens import TokenTable
from disranker.models.packed import Packed, pack
from disranker.schema import stable_seed
from disranker.text.encode import Tokens


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Packed examples for next-token prediction; `predict_T` is True where the token is to be predicted."""

    packed: Packed
    predict_T: Tensor
    weight: float = 1.0
    """0 for the stand-in that a rank gets when a step has fewer examples than micro-batches."""
    weights_N: Tensor | None = None
    """fp32 weight of every predicted token, which is that of its example; None: all weigh 1"""

    def to(self, device: torch.device) -> TextBatch:
        """The same batch on another device."""
        weights_N = None if self.weights_N is None else self.weights_N.to(device)
        return TextBatch(self.packed.to(device), self.predict_T.to(device), self.weight, weights_N)


@dataclass(frozen=True, slots=True)
class Replay:
    """General text that is learnt beside the clicks."""

    table: TokenTable
    share: float
    """Of the tokens of an epoch, between 0 and 1."""


@dataclass(frozen=True, slots=True)
class _Epoch:
    """What one epoch shows."""

    number: int
    forms: NDArray[np.int8] | None
    """[clicks] index of the table of each click; None: all are in the first"""
    replayed: NDArray[np.int64]
    """rows of the general text, in the order of their items, which come after those of the clicks"""


class TextItems:
    """The examples of a run; item i is click i up to the number of clicks, and general text from there on.

    The loss of an example is on its tokens from `second` on: not on the query it is conditioned on.
    """

    def __init__(
        self,
        forms: Sequence[TokenTable],
        *,
        shares: Sequence[float] = (1.0,),
        weights: NDArray[np.float32] | None = None,
        replay: Replay | None = None,
        seed: int = 0,
    ) -> None:
        """`forms[k][row]` is click `row` in form k, which an epoch shows with probability `shares[k]` (of their sum).

        `weights[row]` is the weight of a click's loss against general text's 1; they are scaled to a mean of 1.
        """
        assert len(forms) == len(shares) > 0 and len({len(table) for table in forms}) == 1
        self._forms, self._replay, self._seed = forms, replay, seed
        self._shares = np.asarray(shares, dtype=np.float64) / np.sum(shares)
        self._weights = None if weights is None else (weights / weights.mean(dtype=np.float64)).astype(np.float32)
        self.num_clicks = len(forms[0])
        """Clicks of an epoch."""
        self.num_replayed = 0
        """Pieces of general text of an epoch."""
        self._drawn: _Epoch | None = None
        if replay is not None and self.num_clicks:
            # As many pieces in every epoch: the mean length stands for that of those it draws.
            num_tokens = self._mean_over_forms([float(table.lengths.sum()) for table in forms])
            wanted = replay.share / (1.0 - replay.share) * num_tokens / float(replay.table.lengths.mean())
            self.num_replayed = max(1, round(wanted))

    @property
    def num_truncated(self) -> int:
        """Examples of an epoch that did not fit the budget of tokens, on average over epochs."""
        return round(self._mean_over_forms([table.num_truncated for table in self._forms]))

    @property
    def predicted_share(self) -> float:
        """Share of the tokens that are predicted, on average over epochs."""
        predicted = self._mean_over_forms([table.num_second for table in self._forms])
        tokens = self._mean_over_forms([float(table.lengths.sum()) for table in self._forms])
        if self._replay is not None:
            replayed = self.num_replayed / len(self._replay.table)
            predicted += replayed * self._replay.table.num_second
            tokens += replayed * float(self._replay.table.lengths.sum())
        return predicted / tokens

    def lengths(self, epoch: int) -> NDArray[np.int64]:
        """Tokens of every example of that epoch."""
        drawn = self._draw(epoch)
        if drawn.forms is None:
            lengths = self._forms[0].lengths
        else:
            lengths = np.zeros(self.num_clicks, dtype=np.int64)
            for form, table in enumerate(self._forms):
                chosen = drawn.forms == form
                lengths[chosen] = table.lengths[chosen]
        if self._replay is None:
            return lengths
        return np.concatenate([lengths, self._replay.table.lengths[drawn.replayed]])

    def batch(self, items: Sequence[int], epoch: int, weight: float) -> TextBatch:
        """Those examples, packed."""
        drawn = self._draw(epoch)
        sequences = [self._example(item, drawn) for item in items]
        packed = pack(sequences)
        weights_N = None
        if self._weights is not None:
            of_item = [self._weights[item] if item < self.num_clicks else 1.0 for item in items]
            num_predicted = [len(tokens.ids) - tokens.second for tokens in sequences]
            order = packed.order.numpy()
            weights = np.array(of_item, dtype=np.float32)[order]
            weights_N = torch.from_numpy(np.repeat(weights, np.array(num_predicted)[order]))
        return TextBatch(packed, packed.token_type_ids[0].bool(), weight, weights_N)

    def _example(self, item: int, drawn: _Epoch) -> Tokens:
        if item >= self.num_clicks:
            assert self._replay is not None
            return self._replay.table[int(drawn.replayed[item - self.num_clicks])]
        return self._forms[0 if drawn.forms is None else int(drawn.forms[item])][item]

    def _draw(self, epoch: int) -> _Epoch:
        # The last one is kept: batch after batch asks for it.
        if self._drawn is None or self._drawn.number != epoch:
            forms = None
            if len(self._forms) > 1:
                drawn = np.random.default_rng(stable_seed(self._seed, "form", epoch)).random(self.num_clicks)
                forms = np.searchsorted(np.cumsum(self._shares)[:-1], drawn, side="right").astype(np.int8)
            self._drawn = _Epoch(epoch, forms, self._draw_replayed(epoch))
        return self._drawn

    def _draw_replayed(self, epoch: int) -> NDArray[np.int64]:
        """The next pieces of a stream that shows every piece once before it shows one again."""
        if self._replay is None:
            return np.zeros(0, dtype=np.int64)
        num_pieces = len(self._replay.table)
        first, last = epoch * self.num_replayed, (epoch + 1) * self.num_replayed
        passes = [
            np.random.default_rng(stable_seed(self._seed, "replay", number)).permutation(num_pieces)
            for number in range(first // num_pieces, (last - 1) // num_pieces + 1)
        ]
        return np.concatenate(passes)[first % num_pieces :][: self.num_replayed]

    def _mean_over_forms(self, values: Sequence[float]) -> float:
        return float(self._shares @ np.asarray(values, dtype=np.float64))
