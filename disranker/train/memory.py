"""What a training run keeps on a rank's device, from the sizes of the parameters alone: no model, no data, no device.

Weights, gradients and optimizer state follow ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 5) as DeepSpeed
0.19 lays it out.  With P parameters, T of them trained, N ranks, s bytes a weight (2 in bfloat16, 4 in float32) and
AdamW, a rank keeps, padding aside:

    stage   weights        gradients    optimizer: fp32 masters and two moments
    0       s P            s T          12 T; 8 T in float32, where the weights are their own masters
    1       s P            s T          12 T / N
    2       s P            s T / N      12 T / N
    3       s P / N        s T / N      12 T / N

For a while there are, besides: a bucket in which gradients are collected before they are reduced; in stage 3 the whole
weights of the layers at work; and in an optimizer step the rank's gradients in fp32 with the root of the second moment.

The activations are not known here (`train.activations` finds them).  Nothing counts the CUDA context (about 0.5 GB),
what the allocator leaves between tensors, and what kernels and NCCL take for themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

# DeepSpeed's defaults, in elements: reduce_bucket_size, sub_group_size, stage3_max_live_parameters and
# stage3_param_persistence_threshold.
_BUCKET, _SUB_GROUP, _MAX_LIVE, _PERSISTENT = 500_000_000, 1_000_000_000, 1_000_000_000, 100_000
# 4-bit weights with their scales quantised again (arXiv 2305.14314, section 3): 4 bits a weight, 8 for every 64 of
# them, 32 for every 256 of those.
_NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8


@dataclass(frozen=True, slots=True)
class Parameters:
    """Sizes of the parameters of a model, in elements."""

    matrices: tuple[int, ...]
    """Trained, of two dimensions or more: the optimizer's group with weight decay."""
    vectors: tuple[int, ...]
    """Trained, of one dimension: the group without."""
    frozen: tuple[int, ...]
    """Not trained."""
    num_4bit: int = 0
    """Elements of frozen ones that are kept in 4 bits."""

    @property
    def num_trained(self) -> int:
        return sum(self.matrices) + sum(self.vectors)

    @property
    def num_all(self) -> int:
        return self.num_trained + sum(self.frozen)


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes on the device of the rank that has most."""

    weights: int
    gradients: int
    optimizer: int
    """fp32 masters and both moments."""
    bucket: int
    """In the backward pass: where gradients are collected before they are reduced."""
    gathered: int
    """In the forward and backward pass: whole weights that ZeRO-3 has together at a time."""
    step: int
    """In an optimizer step: gradients in fp32, roots of the second moment."""
    start: int
    """All there is while DeepSpeed lays out the weights: ZeRO-3 cuts up a model that is there as a whole."""

    @property
    def kept(self) -> int:
        """What is there from step to step."""
        return self.weights + self.gradients + self.optimizer

    def peak(self, activations: int) -> int:
        """The most at a time: at the start, in a backward pass, or in a step, when the activations are gone."""
        return max(self.start, self.kept + max(activations + self.bucket + self.gathered, self.step))


def read_parameters(model: nn.Module, *, num_4bit: int = 0) -> Parameters:
    """The sizes of a model's parameters, each of them once; `num_4bit` elements of the frozen ones will have 4 bits."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Parameters(
        matrices=tuple(parameter.numel() for parameter in trained if parameter.ndim > 1),
        vectors=tuple(parameter.numel() for parameter in trained if parameter.ndim <= 1),
        frozen=tuple(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad),
        num_4bit=num_4bit,
    )


def state_bytes(parameters: Parameters, *, zero_stage: int, world_size: int, weight_bytes: int) -> StateBytes:
    """What a rank keeps under a ZeRO stage; `weight_bytes` is 2 for bfloat16 and 4 for float32.

    Exact for weights, gradients and optimizer, with the padding that makes shares equal.
    """
    if zero_stage == 3:
        return _partitioned(parameters, world_size, weight_bytes)
    groups = [group for group in (parameters.matrices, parameters.vectors) if group]
    trained, size = parameters.num_trained, weight_bytes
    frozen = math.ceil(parameters.num_4bit * _NF4_BYTES) + (sum(parameters.frozen) - parameters.num_4bit) * size
    if zero_stage == 0:
        masters = 0 if size == 4 else 4 * trained
        return StateBytes(
            weights=size * trained + frozen,
            gradients=size * trained,
            optimizer=8 * trained + masters,
            bucket=0,
            gathered=0,
            step=4 * trained + masters,  # the gradients of the masters are a copy, too
            start=size * trained + frozen,
        )
    # The weights of a group lie in one row whose length is a multiple of twice the ranks, one stretch for each.
    rows = [math.ceil(sum(group) / (2 * world_size)) * 2 * world_size for group in groups]
    shares = [row // world_size for row in rows]
    # A rank keeps the whole gradient of every parameter of which it has a part.
    touched = max(
        sum(_touched(group, share, rank) for group, share in zip(groups, shares, strict=True))
        for rank in range(world_size)
    )
    return StateBytes(
        weights=size * sum(rows) + frozen,
        gradients=size * (trained if zero_stage == 1 else touched),
        optimizer=12 * sum(shares),
        bucket=size * _BUCKET,
        gathered=0,
        # Stage 1 reduces its gradients when the last backward pass is over.
        step=max(8 * max(shares, default=0), size * (_BUCKET + touched) if zero_stage == 1 else 0),
        start=size * (trained + max(rows, default=0)) + frozen,
    )


def _partitioned(parameters: Parameters, world_size: int, size: int) -> StateBytes:
    """ZeRO-3: every parameter on its own is cut into equal shares; small ones stay whole besides."""
    trained = (*parameters.matrices, *parameters.vectors)
    every = (*trained, *parameters.frozen)
    share = sum(math.ceil(number / world_size) for number in trained)
    whole = sum(number for number in every if number <= _PERSISTENT)
    return StateBytes(
        weights=size * (sum(math.ceil(number / world_size) for number in every) + whole),
        gradients=size * share,
        optimizer=12 * share,
        bucket=size * _BUCKET,
        gathered=size * min(sum(every) - whole, _MAX_LIVE),
        step=8 * min(share, _SUB_GROUP),
        start=size * (sum(every) + share),
    )


def _touched(group: Sequence[int], share: int, rank: int) -> int:
    """Elements of those parameters of a row that reach into a rank's stretch."""
    begin, end = rank * share, (rank + 1) * share
    total, at = 0, 0
    for number in group:
        if at < end and at + number > begin:
            total += number
        at += number
    return total
