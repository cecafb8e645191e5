"""From documents to queries, from queries to a batch."""

from __future__ import annotations

import math

import pytest
import torch

from disranker.losses.reduction import mean_over_documents, over_queries


def test_values_of_documents_are_averaged_by_query() -> None:
    values = torch.tensor([[1.0, 3.0, math.nan], [5.0, math.nan, math.nan], [math.nan] * 3])
    mask = torch.tensor([[True, True, False], [True, False, False], [False] * 3])
    assert mean_over_documents(values, mask, reduction="sum").item() == 7.0
    assert mean_over_documents(values, mask).item() == pytest.approx(7.0 / 3)


def test_a_mean_and_a_sum_over_queries() -> None:
    losses = torch.tensor([1.0, 2.0, 6.0])
    assert over_queries(losses, "mean").item() == 3.0
    assert over_queries(losses, "sum").item() == 9.0
