"""A student's ONNX file with its products in 8 bits: 8-bit weights per output channel, 8-bit activations per tensor.

static: the range of every activation is settled by calibration, so a pair's score does not depend on what it is scored
with.  Standard operators in the form that runtimes look for (QuantizeLinear, DequantizeLinear, MatMul).
dynamic: the range is that of the batch at hand, so a pair's score depends on its batch.
In both, channels that reach far beyond the others are divided before, and their rows of the weight multiplied.

Weights are rounded so that no sum of two products exceeds 16 bits, which processors without VNNI add them in: with
activations up to 255 two neighbouring weights of a column may have 127 together where they have the same sign.

Shapes: K channels in, N channels out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from disranker.export.products import Range, find_sites

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LARGEST = 127


def round_weight(weight_KN: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The weight in 8 bits [K, N] and the scales [N] of its columns: weight = 8 bits * scale.

    scale = max(largest magnitude, largest sum of two neighbours 2k and 2k + 1 of one sign) / 127; a column of zeros has
    the scale 1.
    """
    padded_KN = np.pad(weight_KN, ((0, len(weight_KN) % 2), (0, 0)))
    reach_N = np.abs(weight_KN).max(axis=0)
    for sign in (1, -1):
        one_sign_KN = np.maximum(sign * padded_KN, 0)
        reach_N = np.maximum(reach_N, (one_sign_KN[::2] + one_sign_KN[1::2]).max(axis=0))
    scale_N = np.where(reach_N > 0, reach_N / _LARGEST, 1).astype(np.float32)
    return np.rint(weight_KN / scale_N).astype(np.int8), scale_N


def write_static(source: Path, file: Path, ranges: Mapping[str, Range]) -> list[str]:
    """Write `source` with the sites of `ranges` in 8 bits.

    Returns the names of the products that are in 8 bits now.

    Raises:
        ImportError: onnx is not installed.
    """
    return _write(source, file, ranges, _Surgery.round_statically)


def write_dynamic(source: Path, file: Path, ranges: Mapping[str, Range]) -> list[str]:
    """Write `source` with the sites of `ranges` in 8 bits, whose bounds are found anew in every batch.

    Returns the names of the products that are in 8 bits now.

    Raises:
        ImportError: onnx is not installed.
    """
    return _write(source, file, ranges, _Surgery.round_dynamically)


@dataclass
class _Surgery:
    """A graph, and the nodes that replace a product of it."""

    model: ModelProto
    replaced: dict[str, list[NodeProto]] = field(default_factory=dict)
    """output of a product -> what computes it now, in order"""

    @classmethod
    def open(cls, source: Path) -> _Surgery:
        import onnx

        return cls(onnx.load(source))

    def round_statically(self, site: str, nodes: list[NodeProto], chosen: Range) -> None:
        narrowed, shared = self._narrow(site, chosen)
        scale = (chosen.high - chosen.low) / 255 or 1.0
        inputs = [
            self._constant(f"{site}_scale", np.array(scale, np.float32)),
            self._constant(f"{site}_zero", np.array(round(-chosen.low / scale), np.uint8)),
        ]
        shared += [
            _node("QuantizeLinear", [narrowed, *inputs], f"{site}_8bit"),
            _node("DequantizeLinear", [f"{site}_8bit", *inputs], f"{site}_rounded"),
        ]
        for node in nodes:
            output = node.output[0]
            made = [
                _node("DequantizeLinear", self._round_weight(node, chosen), f"{output}_weight", axis=1),
                _node("MatMul", [f"{site}_rounded", f"{output}_weight"], output),
            ]
            self.replaced[output] = [*shared, *made]
            shared = []

    def round_dynamically(self, site: str, nodes: list[NodeProto], chosen: Range) -> None:
        import onnx

        narrowed, shared = self._narrow(site, chosen)
        range_of_batch = [f"{site}_8bit", f"{site}_scale", f"{site}_zero"]
        shared += [onnx.helper.make_node("DynamicQuantizeLinear", [narrowed], range_of_batch, name=f"{site}_8bit")]
        for node in nodes:
            output = node.output[0]
            rounded, scale, zero = self._round_weight(node, chosen)
            made = [
                _node("MatMulInteger", [f"{site}_8bit", rounded, f"{site}_zero", zero], f"{output}_integer"),
                _node("Cast", [f"{output}_integer"], f"{output}_number", to=onnx.TensorProto.FLOAT),
                _node("Mul", [f"{site}_scale", scale], f"{output}_scale"),
                _node("Mul", [f"{output}_number", f"{output}_scale"], output),
            ]
            self.replaced[output] = [*shared, *made]
            shared = []

    def _narrow(self, site: str, chosen: Range) -> tuple[str, list[NodeProto]]:
        """The tensor whose outliers are divided, and what makes it; the site itself where there are none."""
        if (chosen.divisor_K == 1).all():
            return site, []
        factor = self._constant(f"{site}_factor", 1 / chosen.divisor_K)
        return f"{site}_narrow", [_node("Mul", [site, factor], f"{site}_narrow")]

    def save(self, file: Path) -> list[str]:
        """Write the graph with what was replaced, without constants that nothing reads; the names of the products."""
        import onnx

        graph = self.model.graph
        names = [node.name for node in graph.node if node.output[0] in self.replaced]
        nodes = [made for node in graph.node for made in self.replaced.get(node.output[0], [node])]
        del graph.node[:]
        graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        file.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(self.model, str(file))
        onnx.checker.check_model(str(file), full_check=True)
        return names

    def _round_weight(self, node: NodeProto, chosen: Range) -> list[str]:
        """Constants of a product's weight: 8 bits, scales, zeros."""
        import onnx

        (tensor,) = (one for one in self.model.graph.initializer if one.name == node.input[1])
        weight_KN = onnx.numpy_helper.to_array(tensor) * chosen.divisor_K[:, None]
        rounded_KN, scale_N = round_weight(weight_KN)
        # Named by the product: a weight that layers share may have other outliers in each.
        name = node.output[0]
        return [
            self._constant(f"{name}_weight_8bit", rounded_KN),
            self._constant(f"{name}_weight_scale", scale_N),
            self._constant(f"{name}_weight_zero", np.zeros_like(scale_N, dtype=np.int8)),
        ]

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        import onnx

        self.model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return name


def _write(
    source: Path,
    file: Path,
    ranges: Mapping[str, Range],
    round_site: Callable[[_Surgery, str, list[NodeProto], Range], None],
) -> list[str]:
    surgery = _Surgery.open(source)
    for site, nodes in find_sites(surgery.model).items():
        if site in ranges:
            round_site(surgery, site, nodes, ranges[site])
    return surgery.save(file)


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    import onnx

    return onnx.helper.make_node(kind, inputs, [output], name=output, **attributes)
