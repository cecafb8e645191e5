"""Dropout from raw bits: what torch's dropout promises, from torch's own generator."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from disranker.models.dropout import BitDropout, drop, use_bit_dropout
from disranker.models.packed import pack, packed_attention
from tests.tiny import sequences


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_share_is_dropped_and_the_mean_stays(share: float) -> None:
    torch.manual_seed(0)
    size = 1_000_003  # no multiple of the four that one draw decides on
    dropped = drop(torch.ones(size), share)
    zeros = float((dropped == 0).float().mean())
    assert abs(zeros - share) < 5 * math.sqrt(share * (1 - share) / size)
    assert torch.allclose(dropped[dropped != 0].unique(), torch.tensor([1 / (1 - share)]), rtol=1e-3)


def test_every_place_of_a_draw_is_as_likely() -> None:
    torch.manual_seed(0)
    kept = drop(torch.ones(400_000, 4), 0.25) != 0
    assert (kept.float().mean(0) - 0.75).abs().max() < 5 * math.sqrt(0.1875 / 400_000)
    # Neighbours are dropped independently of each other.
    assert (torch.corrcoef(kept.T.float()) - torch.eye(4)).abs().max() < 5 / math.sqrt(400_000)


def test_a_seed_gives_one_mask_and_the_next_call_another() -> None:
    torch.manual_seed(3)
    first, second = drop(torch.ones(64), 0.5), drop(torch.ones(64), 0.5)
    torch.manual_seed(3)
    assert torch.equal(drop(torch.ones(64), 0.5), first)
    assert not torch.equal(first, second)


def test_the_gradient_goes_where_the_values_went() -> None:
    values = torch.randn(7, 11, requires_grad=True)
    dropped = drop(values, 0.5)
    dropped.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad * values.detach(), dropped.detach())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_and_everything(share: float) -> None:
    assert torch.equal(drop(torch.ones(5), share), torch.full((5,), 1.0 - share))


def test_the_modules_of_a_model_are_replaced_and_rest_in_evaluation() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ModuleList([nn.Dropout(0.3), nn.Dropout1d(0.3)]))
    use_bit_dropout(model)
    first, second = model[1]
    assert type(first) is BitDropout
    assert first.p == 0.3
    assert type(second) is nn.Dropout1d
    assert torch.equal(first.eval()(torch.ones(9)), torch.ones(9))


def test_attention_with_dropout_is_attention_in_the_mean() -> None:
    torch.manual_seed(0)
    packed = pack(sequences([2, 3, 3]))
    query, key, value = torch.randn(3, 1, 2, 8, 4)  # [1, heads, tokens, width] each

    def attended(dropout: float) -> torch.Tensor:
        return packed_attention(nn.Module(), query, key, value, None, packed=packed, is_causal=False, dropout=dropout)[
            0
        ]

    draws = 2000
    drawn = torch.stack([attended(0.2) for _ in range(draws)])
    assert drawn.std(0).min() > 1e-3
    assert ((drawn.mean(0) - attended(0.0)).abs() / drawn.std(0)).max() < 5 / math.sqrt(draws)
