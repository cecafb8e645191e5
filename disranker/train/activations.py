"""How much memory a forward and backward pass takes, found by running it on tensors that have a shape and no data.

Every allocation and release on the meta device is counted; the largest sum is what the pass needs.  So the figure
follows whatever the model does: adapters, gradient checkpointing, an output layer over a large vocabulary.  Attention
counts as the fused kernels count that compute it on CUDA: queries, keys, values, the result and one fp32 number for
each token and head (FlashAttention-2, Dao 2023, arXiv 2307.08691).  Weights and gradients are counted elsewhere; of the
latter one at a time is in the figure, as it is made.

It does not know what the allocator leaves between tensors, nor what kernels take for themselves.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface

from disranker.models.language import LanguageModel
from disranker.models.masked import MaskedLanguageModel
from disranker.models.packed import Packed, pack
from disranker.models.ranker import Ranker
from disranker.text.encode import Tokens

_FUSED_ATTENTION = "disranker_fused_attention"


def packed_of_length(num_tokens: int, max_tokens: int) -> Packed:
    """A packed row of `num_tokens` tokens in sequences of `max_tokens`, the document from the second token on."""
    lengths = [max_tokens] * (num_tokens // max_tokens) + [num_tokens % max_tokens] * (num_tokens % max_tokens > 0)
    return pack([Tokens(np.zeros(length, dtype=np.int32), min(1, length - 1), 0) for length in lengths])


def activation_bytes(model: Ranker | LanguageModel | MaskedLanguageModel, packed: Packed) -> int | None:
    """The most bytes that a training pass over a packed row holds, besides the weights and all gradients but one.

    `model` is on the meta device; its attention is replaced, for good.  Language models count as if every token were
    predicted.  None for a ranker that does not run packed.
    """
    if isinstance(model, Ranker) and not model.is_packed:
        return None
    model.stock.set_attn_implementation(_FUSED_ATTENTION)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    handles = [parameter.register_post_accumulate_grad_hook(_drop_gradient) for parameter in trained]
    not_counted = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
    on_meta = packed.to(torch.device("meta"))
    inputs: tuple[Any, ...] = (on_meta,)
    if not isinstance(model, Ranker):
        inputs += (on_meta.token_type_ids[0].bool(),)
    if isinstance(model, MaskedLanguageModel):
        inputs += (on_meta.input_ids[0],)
    with _AllNonzero(), _Allocations(not_counted) as allocations:
        model(*inputs).sum().backward()
    for handle in handles:
        handle.remove()
    return allocations.peak


class _Allocations(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, until they are freed."""

    def __init__(self, not_counted: Sequence[torch.UntypedStorage]) -> None:
        super().__init__()
        self._now, self.peak = 0, 0
        # A storage is known by its address, which is its own while it lives.
        self._sizes: dict[int, int] = {storage._cdata: 0 for storage in not_counted}
        self._not_counted = not_counted

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address not in self._sizes:
            self._sizes[address] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._release, address)

    def _release(self, address: int) -> None:
        self._now -= self._sizes.pop(address)


class _AllNonzero:
    """Lets `nonzero` of a tensor without data find every element."""

    def __enter__(self) -> None:
        from torch.fx.experimental import _config

        self._config, self._before = _config, _config.meta_nonzero_assume_all_nonzero
        _config.meta_nonzero_assume_all_nonzero = True

    def __exit__(self, *error: object) -> None:
        self._config.meta_nonzero_assume_all_nonzero = self._before


class _FusedShape(torch.autograd.Function):
    """Attention that computes nothing and keeps what a fused kernel keeps; shapes [T, A, D]."""

    @staticmethod
    def forward(ctx: Any, query_TAD: Tensor, key_TAD: Tensor, value_TAD: Tensor) -> Tensor:
        attended_TAD = torch.empty_like(query_TAD)
        log_sums_TA = query_TAD.new_empty(query_TAD.shape[:2], dtype=torch.float32)
        ctx.save_for_backward(query_TAD, key_TAD, value_TAD, attended_TAD, log_sums_TA)
        return attended_TAD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _fused_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **others: Any
) -> tuple[Tensor, None]:
    query_TAD, key_TAD, value_TAD = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    return _FusedShape.apply(query_TAD, key_TAD, value_TAD)[None], None


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


AttentionInterface.register(_FUSED_ATTENTION, _fused_attention)
