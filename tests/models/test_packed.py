"""Packing, and packed attention against the textbook formula with an explicit mask."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from disranker.models.packed import pack, pack_shared, packed_attention
from disranker.text.encode import Tokens
from tests.tiny import sequences


def test_a_row_sorted_by_length_with_a_way_back() -> None:
    given = [
        Tokens(np.array(ids, dtype=np.int32), second, 0) for ids, second in [([7, 8, 9], 1), ([5], 1), ([4, 6], 0)]
    ]
    packed = pack(given)
    assert packed.input_ids.tolist() == [[5, 4, 6, 7, 8, 9]]
    assert packed.position_ids.tolist() == [[0, 0, 1, 0, 1, 2]]
    assert packed.token_type_ids.tolist() == [[0, 1, 1, 0, 1, 1]]
    assert packed.cu_seqlens.tolist() == [0, 1, 3, 6]
    assert packed.order.tolist() == [1, 2, 0]
    assert packed.runs == ((1, 1), (1, 2), (1, 3))
    assert (packed.num_sequences, packed.num_tokens, packed.max_length) == (3, 6, 3)
    types = (packed.input_ids.dtype, packed.position_ids.dtype, packed.token_type_ids.dtype, packed.cu_seqlens.dtype)
    assert types == (torch.int64, torch.int64, torch.int64, torch.int32)


def test_equally_long_sequences_stand_together_in_the_order_given() -> None:
    packed = pack(sequences([3, 5, 3, 5, 3]))
    assert packed.runs == ((3, 3), (2, 5))
    assert packed.order.tolist() == [0, 2, 4, 1, 3]


def test_a_batch_moves_as_a_whole() -> None:
    packed = pack(sequences([3, 5])).to(torch.device("meta"))
    names = ("input_ids", "position_ids", "token_type_ids", "cu_seqlens", "order")
    assert {getattr(packed, name).device.type for name in names} == {"meta"}
    assert packed.runs == ((1, 3), (1, 5))


@pytest.mark.parametrize("given", [[], [Tokens(np.zeros(0, dtype=np.int32), 0, 0)]])
def test_nothing_to_pack_is_our_own_mistake(given: list[Tokens]) -> None:
    with pytest.raises(AssertionError):
        pack(given)


def attend(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], *, causal: bool, window: int | None
) -> Tensor:
    """softmax(q k / sqrt(d)) v over the whole row, all that is forbidden masked; [1, A, T, D] -> [1, T, A, D]."""
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = segment[:, None] == segment[None, :]
    distance = torch.arange(len(segment))[:, None] - torch.arange(len(segment))[None, :]
    if causal:
        allowed &= distance >= 0
    if window is not None:
        allowed &= distance.abs() < window
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    logits = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    return (logits.masked_fill(~allowed, -math.inf).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3, 64])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_attention_is_block_diagonal(causal: bool, window: int | None, key_heads: int) -> None:
    packed = pack(sequences([5, 2, 9, 5, 1]))
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, packed.num_tokens, 8) for heads in (4, key_heads, key_heads)]
    query, key, value = (torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes)
    module = torch.nn.Module()
    module.is_causal = causal
    found, _ = packed_attention(module, query, key, value, None, packed=packed, sliding_window=window)
    expected = attend(query, key, value, [1, 2, 5, 5, 9], causal=causal, window=window)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    by_argument, _ = packed_attention(
        torch.nn.Module(), query, key, value, None, packed=packed, sliding_window=window, is_causal=causal
    )
    assert torch.equal(found, by_argument)
    # The same gradient comes back through both.
    direction = torch.randn(found.shape, generator=generator)
    ours = torch.autograd.grad((found * direction).sum(), (query, key, value))
    theirs = torch.autograd.grad((expected * direction).sum(), (query, key, value))
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_the_scale_of_the_model_counts() -> None:
    packed = pack(sequences([4]))
    row = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    found, _ = packed_attention(torch.nn.Module(), row, row, row, None, packed=packed, scaling=0.0)
    torch.testing.assert_close(found[0], row.mean(dim=2, keepdim=True).expand_as(row)[0].transpose(0, 1))


def test_dropout_on_the_attention_is_done() -> None:
    packed = pack(sequences([4, 4, 6]))
    row = torch.randn(1, 2, 14, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    dropped = [packed_attention(torch.nn.Module(), row, row, row, None, packed=packed, dropout=0.5)[0] for _ in "ab"]
    plain = packed_attention(torch.nn.Module(), row, row, row, None, packed=packed)[0]
    assert not torch.allclose(dropped[0], dropped[1])
    assert not torch.allclose(dropped[0], plain)


@pytest.mark.parametrize("name", ["attention_mask", "s_aux", "softcap", "position_bias"])
def test_what_cannot_be_done_is_refused_and_not_ignored(name: str) -> None:
    packed = pack(sequences([4]))
    row = torch.zeros(1, 2, 4, 8)
    wanted = {"attention_mask": None, name: torch.zeros(4, 4)}
    with pytest.raises(ValueError, match=rf"Module wants {name}, which packed attention does not have"):
        packed_attention(torch.nn.Module(), row, row, row, wanted.pop("attention_mask"), packed=packed, **wanted)


# --- prefixes that stand once ---


def beginning_alike(groups: list[tuple[int, list[int]]], seed: int = 0) -> list[Tokens]:
    """Sequences of (tokens of the prefix, tokens of each sequence after it)."""
    random = np.random.default_rng(seed)
    made = []
    for prefix, suffixes in groups:
        begin = random.integers(4, 100, prefix)
        for suffix in suffixes:
            ids = np.concatenate([begin, random.integers(4, 100, suffix)]).astype(np.int32)
            made.append(Tokens(ids, prefix, 0))
    return made


def test_a_row_whose_prefix_stands_once() -> None:
    given = [Tokens(np.array(ids, dtype=np.int32), 2, 0) for ids in ([7, 8, 1], [5, 6], [7, 8, 2, 3], [7, 8, 4])]
    packed = pack_shared(given, [(2, [0, 3, 2]), (0, [1])])
    assert packed.input_ids.tolist() == [[7, 8, 1, 4, 2, 3, 5, 6]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 2, 2, 3, 0, 1]]
    assert packed.token_type_ids.tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]]
    assert packed.cu_seqlens.tolist() == [0, 3, 4, 6, 8]  # where each ends
    assert packed.order.tolist() == [0, 3, 2, 1]
    assert (packed.num_sequences, packed.num_tokens) == (4, 8)
    first, second = packed.shared
    assert (first.prefix, first.suffixes, second.prefix, second.suffixes) == (2, (1, 1, 2), 0, (2,))
    assert first.padded.tolist() == [0, 0, 1, 0, 2, 3] and first.kept.tolist() == [0, 2, 4, 5]
    assert packed.to(torch.device("meta")).shared[0].padded.device.type == "meta"


def test_a_sequence_that_is_all_prefix_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        pack_shared(sequences([3, 4]), [(3, [0, 1])])


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_what_follows_a_prefix_sees_it_and_itself(key_heads: int) -> None:
    """Against the same tokens written out: every sequence whole, prefixes repeated."""
    groups = [(3, [2, 5, 1]), (0, [4]), (6, [1, 2])]
    members = [(3, [0, 1, 2]), (0, [3]), (6, [4, 5])]
    packed = pack_shared(beginning_alike(groups), members)
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, packed.num_tokens, 8) for heads in (4, key_heads, key_heads)]
    query, key, value = (torch.randn(shape, generator=generator) for shape in shapes)
    module = torch.nn.Module()
    module.is_causal = True
    found, _ = packed_attention(module, query, key, value, None, packed=packed)
    begin = 0
    for prefix, suffixes in groups:
        shared = list(range(begin, begin + prefix))
        begin += prefix
        for suffix in suffixes:
            rows = [*shared, *range(begin, begin + suffix)]
            parts = (tensor[:, :, rows] for tensor in (query, key, value))
            expected = attend(*parts, [len(rows)], causal=True, window=None)
            torch.testing.assert_close(found[:, rows], expected, rtol=1e-5, atol=1e-5)
            begin += suffix
    assert begin == packed.num_tokens


@pytest.mark.parametrize("wanted", [{"sliding_window": 3}, {"dropout": 0.1}, {"is_causal": False}])
def test_prefixes_are_shared_under_causal_attention_alone(wanted: dict) -> None:
    packed = pack_shared(beginning_alike([(3, [2, 2])]), [(3, [0, 1])])
    row = torch.zeros(1, 2, packed.num_tokens, 8)
    with pytest.raises(ValueError, match="its prefixes cannot be shared"):
        packed_attention(torch.nn.Module(), row, row, row, None, packed=packed, **{"is_causal": True, **wanted})
