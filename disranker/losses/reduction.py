"""The last steps of every ranking loss: from documents to the loss of one query, from queries to that of a batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum"]


def mean_over_documents(values_QD: Tensor, mask_QD: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Values of documents, averaged over the documents of a query, then over queries; 0 for a query without any."""
    values_QD = torch.where(mask_QD, values_QD.float(), 0.0)
    return over_queries(values_QD.sum(dim=1) / mask_QD.sum(dim=1).clamp(min=1), reduction)


def over_queries(loss_Q: Tensor, reduction: Reduction) -> Tensor:
    """The losses of single queries as one: their mean, or their sum."""
    return loss_Q.sum() if reduction == "sum" else loss_Q.mean()
