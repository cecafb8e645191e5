"""The products of an ONNX model that int8 may compute: tokens times a weight; and what their inputs look like.

A site is one tensor with every product that reads it, as a layer's attention reads one for query, key and value.  What
reads the pooled row alone (the head, most of the last layer) is no site: there is no time to win there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from disranker.export.onnxruntime import open_session
from disranker.export.padded import Inputs

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MAX_OUTLIERS = 16
"""Channels of a site that may be outliers."""
_WORTH_IT = 1.5
"""So much narrower must the range be without the outliers."""
_NEARLY = 1.25


@dataclass(frozen=True, slots=True)
class Seen:
    """What calibration saw of a site with K channels, over all tokens that are no padding."""

    low_K: NDArray[np.float32]
    high_K: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Range:
    """What 8 bits hold of a site, once its channels are divided by `divisor_K`."""

    low: float
    high: float
    divisor_K: NDArray[np.float32]
    """1, but for the channels that go beyond"""


def find_sites(model: ModelProto) -> dict[str, list[NodeProto]]:
    """Tensor -> the MatMul nodes that multiply it by a constant [K, N]."""
    constants = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    sites: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            sites.setdefault(node.input[0], []).append(node)
    return sites


def observe(model: ModelProto, batches: Iterable[Inputs]) -> dict[str, Seen]:
    """The extremes of every site's channels over `batches`; sites of the pooled row are left out.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
    """
    import onnx

    sites = list(find_sites(model))
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(site, onnx.TensorProto.FLOAT, None) for site in sites
    )
    session = open_session(watched.SerializeToString())
    names = [node.name for node in session.get_inputs()]
    seen: dict[str, Seen] = {}
    for inputs in batches:
        real_BT = inputs["attention_mask"].astype(bool)
        values = session.run(sites, {name: inputs[name] for name in names})
        for site, value in zip(sites, values, strict=True):
            if value.shape[:-1] != real_BT.shape:
                continue
            rows = value[real_BT]
            before = seen.get(site)
            low_K, high_K = rows.min(axis=0), rows.max(axis=0)
            if before is not None:
                low_K, high_K = np.minimum(low_K, before.low_K), np.maximum(high_K, before.high_K)
            seen[site] = Seen(low_K, high_K)
    return seen


def choose_ranges(seen: Mapping[str, Seen]) -> dict[str, Range]:
    """The range of every site.

    A few channels of a transformer reach many times as far as the others; a range that holds them leaves the others
    few of the 256 steps (https://arxiv.org/abs/2208.07339).  Dividing a channel, and multiplying its row of the weight,
    changes no product (https://arxiv.org/abs/2211.10438); here it is done to the outliers alone.
    """
    return {site: choose_range(one) for site, one in seen.items()}


def choose_range(seen: Seen) -> Range:
    """The range of one site: as few channels divided as make it nearly as narrow as `MAX_OUTLIERS` of them would."""
    reach_K = np.maximum(-seen.low_K, seen.high_K)
    order = np.argsort(-reach_K, kind="stable")
    reach_M = reach_K[order]
    narrow = float(reach_M[min(MAX_OUTLIERS, len(order) - 1)])
    divisor_K = np.ones(len(order), dtype=np.float32)
    if 0 < _WORTH_IT * narrow < reach_M[0]:
        num_far = int(np.argmax(reach_M <= _NEARLY * narrow))
        far = order[:num_far]
        divisor_K[far] = reach_K[far] / reach_M[num_far]
    # Zero is a number of every range: padding and masks are zeros.
    low, high = (seen.low_K / divisor_K).min(), (seen.high_K / divisor_K).max()
    return Range(min(0.0, float(low)), max(0.0, float(high)), divisor_K)
