"""Attention over packed sequences: a batch is one row of tokens, nothing is padded.

Sequences stand one after the other in a row `[1, T]`; position ids restart with each; an attention function registered
with transformers keeps every sequence to itself, so stock model code (BERT, RoBERTa, ModernBERT, Llama, Qwen, …) runs
unchanged.  On CUDA in half precision it is torch's variable-length attention; elsewhere one
`scaled_dot_product_attention` per run of equally long sequences, without a mask.

Sequences of a decoder that begin alike may share that prefix: its tokens then stand once, and what follows it in each
sequence attends to the prefix and to itself (`pack_shared`).

Shapes: B sequences, T tokens in all, A attention heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from disranker.models.dropout import drop
from disranker.text.encode import Tokens

if TYPE_CHECKING:
    from disranker.models.states import AttentionRecorder

PACKED_ATTENTION = "disranker_packed"
# What transformers' models may hand to an attention function that changes its result.
_NOT_PLAIN = ("position_bias", "s_aux", "sinks", "softcap")


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Sequences with one prefix in a row: the tokens of the prefix, then those that follow it in each sequence."""

    prefix: int
    """tokens of the prefix"""
    suffixes: tuple[int, ...]
    """tokens of each sequence after the prefix"""
    padded: Tensor
    """[sequences * longest suffix] int64: the suffixes' rows as a padded batch, row 0 where a suffix is over"""
    kept: Tensor
    """[sum of suffixes] int64: where in that batch the rows are that are no padding"""


@dataclass(frozen=True, slots=True)
class Packed:
    """B sequences in one row of T tokens, sorted by length so that equally long ones stand together."""

    input_ids: Tensor
    """[1, T] int64"""
    position_ids: Tensor
    """[1, T] int64, from 0 in every sequence"""
    token_type_ids: Tensor
    """[1, T] int64, 1 from the document on"""
    cu_seqlens: Tensor
    """[B + 1] int32, where each sequence begins; the last entry is T.  With shared prefixes: where each one ends."""
    order: Tensor
    """[B] int64: sequence i of the row is sequence order[i] of the caller"""
    runs: tuple[tuple[int, int], ...]
    """(number of sequences, their length) for each run of equally long sequences; none with shared prefixes"""
    shared: tuple[SharedPrefix, ...] = ()
    """the prefixes that stand once for several sequences, in the order of the row; empty where nothing is shared"""

    @property
    def num_sequences(self) -> int:
        return self.cu_seqlens.numel() - 1

    @property
    def num_tokens(self) -> int:
        return self.input_ids.numel()

    @property
    def max_length(self) -> int:
        return self.runs[-1][1]

    def to(self, device: torch.device) -> Packed:
        """The same batch on another device."""
        tensors = (self.input_ids, self.position_ids, self.token_type_ids, self.cu_seqlens, self.order)
        input_ids, position_ids, token_type_ids, cu_seqlens, order = (tensor.to(device) for tensor in tensors)
        shared = tuple(replace(one, padded=one.padded.to(device), kept=one.kept.to(device)) for one in self.shared)
        return Packed(input_ids, position_ids, token_type_ids, cu_seqlens, order, self.runs, shared)


def pack(sequences: Sequence[Tokens]) -> Packed:
    """Pack encoded pairs into one row; an empty sequence or an empty list is our own mistake."""
    assert sequences, "a packed batch needs a sequence"
    lengths = np.array([len(tokens.ids) for tokens in sequences], dtype=np.int64)
    assert lengths.min() > 0, "a packed sequence needs a token"
    order = np.argsort(lengths, kind="stable")
    lengths = lengths[order]
    starts = np.concatenate(([0], np.cumsum(lengths)))
    position = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    second = np.array([sequences[index].second for index in order], dtype=np.int64)
    ids = np.concatenate([sequences[index].ids for index in order])
    return Packed(
        input_ids=torch.from_numpy(ids.astype(np.int64))[None],
        position_ids=torch.from_numpy(position)[None],
        token_type_ids=torch.from_numpy((position >= np.repeat(second, lengths)).astype(np.int64))[None],
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        order=torch.from_numpy(order),
        runs=tuple((len(list(run)), length) for length, run in groupby(lengths.tolist())),
    )


def pack_shared(sequences: Sequence[Tokens], groups: Sequence[tuple[int, Sequence[int]]]) -> Packed:
    """Pack sequences so that each prefix stands once; a group is (tokens of its prefix, its sequences by index).

    Every sequence is in one group, and is longer than the prefix.
    """
    ids, positions, types, ends, shared = [], [], [], [0], []
    num_tokens = 0
    for prefix, members in groups:
        suffixes = tuple(len(sequences[index].ids) - prefix for index in members)
        assert min(suffixes) > 0, "a sequence must be longer than the prefix that it shares"
        for at, index in enumerate(members):
            tokens = sequences[index]
            begin = prefix if at else 0
            position = np.arange(begin, len(tokens.ids))
            ids.append(tokens.ids[begin:])
            positions.append(position)
            types.append(position >= tokens.second)
            num_tokens += len(position)
            ends.append(num_tokens)
        shared.append(_share(prefix, suffixes))
    return Packed(
        input_ids=torch.from_numpy(np.concatenate(ids).astype(np.int64))[None],
        position_ids=torch.from_numpy(np.concatenate(positions))[None],
        token_type_ids=torch.from_numpy(np.concatenate(types).astype(np.int64))[None],
        cu_seqlens=torch.tensor(ends, dtype=torch.int32),
        order=torch.tensor([index for _, members in groups for index in members]),
        runs=(),
        shared=tuple(shared),
    )


def _share(prefix: int, suffixes: tuple[int, ...]) -> SharedPrefix:
    lengths = np.array(suffixes)
    column = np.arange(lengths.max())
    real = column < lengths[:, None]
    padded = np.where(real, (np.cumsum(lengths) - lengths)[:, None] + column, 0)
    return SharedPrefix(
        prefix, suffixes, torch.from_numpy(padded.ravel()), torch.from_numpy(np.flatnonzero(real.ravel()))
    )


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Packed,
    recorder: AttentionRecorder | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of every sequence to itself alone, in the shape of transformers' attention interface.

    `query`, `key`, `value` are [1, A, T, D]; the result is [1, T, A, D].  `attention_mask` is None:
    transformers builds no mask for an attention it does not know.  A `sliding_window` of w lets a token see w - 1
    neighbours on each side it may look to.  A `recorder` is shown what every layer attends from and to.

    Raises:
        ValueError: the model wants an attention that is not plain (a mask or bias of its own, sinks, a cap).
    """
    unknown = {"attention_mask": attention_mask, **{name: others.get(name) for name in _NOT_PLAIN}}
    wanted = [name for name, value in unknown.items() if value is not None]
    if wanted:
        raise ValueError(f"{type(module).__name__} wants {', '.join(wanted)}, which packed attention does not have")
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    query_TAD, key_TAD, value_TAD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if recorder is not None:
        recorder.record(query_TAD, key_TAD, value_TAD)
    if packed.shared:
        if sliding_window is not None or dropout or not causal:
            raise ValueError(f"{type(module).__name__} wants more than causal attention: its prefixes cannot be shared")
        attended = _by_prefixes(query_TAD, key_TAD, value_TAD, packed, scaling)
    elif query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and dropout == 0.0:
        attended = _varlen(query_TAD, key_TAD, value_TAD, packed, scaling, causal, sliding_window)
    else:
        attended = _by_runs(query_TAD, key_TAD, value_TAD, packed, scaling, causal, sliding_window, dropout)
    return attended[None], None


def _varlen(
    query_TAD: Tensor,
    key_TAD: Tensor,
    value_TAD: Tensor,
    packed: Packed,
    scaling: float | None,
    causal: bool,
    sliding_window: int | None,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    reach = -1 if sliding_window is None else sliding_window - 1
    attended = varlen_attn(
        query_TAD.contiguous(),
        key_TAD.contiguous(),
        value_TAD.contiguous(),
        packed.cu_seqlens,
        packed.cu_seqlens,
        packed.max_length,
        packed.max_length,
        scale=scaling,
        window_size=(reach, 0 if causal else reach),
        enable_gqa=query_TAD.shape[1] != key_TAD.shape[1],
    )
    assert isinstance(attended, Tensor)
    return attended


def _by_runs(
    query_TAD: Tensor,
    key_TAD: Tensor,
    value_TAD: Tensor,
    packed: Packed,
    scaling: float | None,
    causal: bool,
    sliding_window: int | None,
    dropout: float,
) -> Tensor:
    # split + cat, not slices: the gradient of T slices would allocate T tensors as large as the row.
    sizes = [count * length for count, length in packed.runs]
    parts = zip(query_TAD.split(sizes), key_TAD.split(sizes), value_TAD.split(sizes), packed.runs, strict=True)
    attended = []
    for query_run, key_run, value_run, (count, length) in parts:
        # [count * length, A, D] -> [count, A, length, D]: equally long sequences are one batch
        queries, keys, values = (
            run.unflatten(0, (count, length)).transpose(1, 2) for run in (query_run, key_run, value_run)
        )
        band = _band(length, sliding_window, causal, query_TAD.device)
        grouped = query_TAD.shape[1] != key_TAD.shape[1]
        if dropout and query_TAD.is_cpu and band is None and not (causal or grouped):
            # The plain formula, as torch computes it too: its fused kernels for CPUs have no dropout.
            scores = (queries * (query_TAD.shape[2] ** -0.5 if scaling is None else scaling)) @ keys.transpose(2, 3)
            out = drop(scores.softmax(-1, dtype=torch.float32).to(values.dtype), dropout) @ values
        else:
            out = scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=band,
                dropout_p=dropout,
                is_causal=causal and band is None,
                scale=scaling,
                enable_gqa=grouped,
            )
        attended.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)


def _by_prefixes(
    query_TAD: Tensor, key_TAD: Tensor, value_TAD: Tensor, packed: Packed, scaling: float | None
) -> Tensor:
    """Causal attention where the tokens after a shared prefix see the prefix and, of its sequences, their own."""
    grouped = query_TAD.shape[1] != key_TAD.shape[1]
    sizes = [one.prefix + sum(one.suffixes) for one in packed.shared]
    parts = zip(*(tensor.split(sizes) for tensor in (query_TAD, key_TAD, value_TAD)), packed.shared, strict=True)
    attended = []
    for query, key, value, one in parts:
        count, longest = len(one.suffixes), max(one.suffixes)
        if one.prefix:
            first, keys, values = (part[: one.prefix].transpose(0, 1)[None] for part in (query, key, value))
            out = scaled_dot_product_attention(first, keys, values, is_causal=True, scale=scaling, enable_gqa=grouped)
            attended.append(out[0].transpose(0, 1))
        # [sum of suffixes, A, D] -> [count, A, longest, D], the prefix in front of each for keys and values
        queries = query[one.prefix :][one.padded].unflatten(0, (count, longest)).transpose(1, 2)
        keys, values = (
            torch.cat(
                (
                    part[: one.prefix].expand(count, -1, -1, -1),
                    part[one.prefix :][one.padded].unflatten(0, (count, longest)),
                ),
                dim=1,
            ).transpose(1, 2)
            for part in (key, value)
        )
        # Padding stands behind every real token, so a causal mask hides it from them.
        mask = torch.ones(longest, one.prefix + longest, dtype=torch.bool, device=query.device).tril(one.prefix)
        out = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling, enable_gqa=grouped)
        attended.append(out.transpose(1, 2).flatten(0, 1)[one.kept])
    return torch.cat(attended)


def _band(length: int, sliding_window: int | None, causal: bool, device: torch.device) -> Tensor | None:
    """[length, length] mask of a sliding window, or None where every token is within reach anyway."""
    if sliding_window is None or length <= sliding_window:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    return (distance.abs() < sliding_window) & ((distance >= 0) if causal else torch.ones_like(distance).bool())


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
