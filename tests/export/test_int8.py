"""Int8 against its formula in numpy: weights, static and dynamic products, ranges, and which products have a say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper, numpy_helper

from disranker.export.int8 import round_weight, write_dynamic, write_static
from disranker.export.onnxruntime import open_session
from disranker.export.products import Range, Seen, choose_range, find_sites, observe

RNG = np.random.default_rng(5)


def product_model(file: Path, *weights_KN: np.ndarray) -> Path:
    """X [B, T, K] times each weight; outputs y0, y1, …; a weight that is given twice is one constant."""
    constants = {id(weight): numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights_KN)}
    nodes = [
        helper.make_node("MatMul", ["x", constants[id(weight)].name], [f"y{index}"], name=f"product{index}")
        for index, weight in enumerate(weights_KN)
    ]
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", float32, ["batch", "sequence", len(weights_KN[0])])],
        [
            helper.make_tensor_value_info(f"y{i}", float32, ["batch", "sequence", w.shape[1]])
            for i, w in enumerate(weights_KN)
        ],
        list(constants.values()),
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


def run(file: Path, x: np.ndarray) -> list[np.ndarray]:
    return list(open_session(str(file), 1).run(None, {"x": x}))


def rounded(x: np.ndarray, scale: float, zero: int) -> np.ndarray:
    return (np.clip(np.rint(x / np.float32(scale)) + zero, 0, 255) - zero) * np.float32(scale)


# --- weights ---


def test_a_column_is_scaled_by_its_largest_magnitude_or_pair() -> None:
    weight_KN = np.array([[1.0, 3.0, 0.0], [-2.0, 2.0, 0.0], [0.5, -4.0, 0.0]], dtype=np.float32)
    # Columns: largest magnitude 2 (its pair differs in sign); pair 3 + 2 of one sign; zeros.
    rounded_KN, scale_N = round_weight(weight_KN)
    np.testing.assert_allclose(scale_N, [2 / 127, 5 / 127, 1.0], rtol=1e-6)
    assert rounded_KN.dtype == np.int8
    assert rounded_KN.tolist() == [[64, 76, 0], [-127, 51, 0], [32, -102, 0]]


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 4)), elements=st.floats(-100, 100, width=32)))
def test_no_sum_of_two_products_exceeds_16_bits(weight_KN: np.ndarray) -> None:
    rounded_KN, scale_N = round_weight(weight_KN)
    assert np.abs(rounded_KN * scale_N - weight_KN).max() <= scale_N.max() / 2 * 1.001
    wide_KN = np.pad(rounded_KN.astype(np.int64), ((0, len(rounded_KN) % 2), (0, 0)))
    largest = 255 * (np.maximum(wide_KN[::2], 0) + np.maximum(wide_KN[1::2], 0))
    least = 255 * (np.minimum(wide_KN[::2], 0) + np.minimum(wide_KN[1::2], 0))
    assert largest.max() <= 2**15 - 1 and least.min() >= -(2**15)


# --- products ---


def test_a_static_product_is_its_formula(tmp_path: Path) -> None:
    weight_KN = RNG.normal(size=(12, 8)).astype(np.float32)
    source = product_model(tmp_path / "plain.onnx", weight_KN)
    assert write_static(source, tmp_path / "int8.onnx", {"x": Range(-1.0, 3.0, np.ones(12, np.float32))}) == [
        "product0"
    ]
    x = RNG.normal(size=(2, 3, 12)).astype(np.float32) * 2
    rounded_KN, scale_N = round_weight(weight_KN)
    expected = rounded(x, 4 / 255, 64) @ (rounded_KN * scale_N)
    assert np.abs(expected - x @ weight_KN).max() > 0.1  # beyond the range it is clipped
    np.testing.assert_allclose(run(tmp_path / "int8.onnx", x)[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("way", [write_static, write_dynamic])
def test_outliers_are_divided_and_their_rows_multiplied(way: Callable[..., list[str]], tmp_path: Path) -> None:
    weight_KN = RNG.normal(size=(12, 8)).astype(np.float32)
    weight_KN[[3, 7]] /= 10
    source = product_model(tmp_path / "plain.onnx", weight_KN)
    divisor_K = np.ones(12, dtype=np.float32)
    divisor_K[[3, 7]] = [20, 10]
    way(source, tmp_path / "int8.onnx", {"x": Range(-2.0, 2.0, divisor_K)})
    x = RNG.uniform(-1.9, 1.9, size=(2, 3, 12)).astype(np.float32) * divisor_K
    (found,) = run(tmp_path / "int8.onnx", x)
    scale = 4 / 255 if way is write_static else float(np.ptp(x / divisor_K)) / 255
    zero = 128 if way is write_static else round(float(-(x / divisor_K).min() / scale))
    rounded_KN, scale_N = round_weight(weight_KN * divisor_K[:, None])
    expected = rounded(x / divisor_K, scale, zero) @ (rounded_KN * scale_N)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    # Far nearer than with a range that holds all channels.
    whole = Range(-38.0, 38.0, np.ones(12, dtype=np.float32))
    write_static(source, tmp_path / "whole.onnx", {"x": whole})
    plain = x @ weight_KN
    assert np.abs(found - plain).mean() < np.abs(run(tmp_path / "whole.onnx", x)[0] - plain).mean() / 4


def test_a_dynamic_product_is_its_formula(tmp_path: Path) -> None:
    weight_KN = RNG.normal(size=(12, 8)).astype(np.float32)
    source = product_model(tmp_path / "plain.onnx", weight_KN)
    assert write_dynamic(source, tmp_path / "int8.onnx", {"x": Range(0.0, 0.0, np.ones(12, np.float32))}) == [
        "product0"
    ]
    x = RNG.normal(size=(2, 3, 12)).astype(np.float32)
    scale = (x.max() - x.min()) / 255
    rounded_KN, scale_N = round_weight(weight_KN)
    expected = rounded(x, scale, round(float(-x.min() / scale))) @ (rounded_KN * scale_N)
    np.testing.assert_allclose(run(tmp_path / "int8.onnx", x)[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("way", [write_static, write_dynamic])
def test_the_largest_inputs_and_weights_do_not_saturate(way: Callable[..., list[str]], tmp_path: Path) -> None:
    weight_KN = np.ones((64, 16), dtype=np.float32)
    source, file = product_model(tmp_path / "plain.onnx", weight_KN), tmp_path / "int8.onnx"
    way(source, file, {"x": Range(0.0, 1.0, np.ones(64, np.float32))})
    (found,) = run(file, np.ones((1, 2, 64), dtype=np.float32))
    # 127 for two weights of 1 rounds each to 64 of 63.5.
    np.testing.assert_allclose(found, 64 * 64 / 63.5, rtol=1e-5)


def test_products_of_one_site_share_its_rounding_and_layers_may_share_a_weight(tmp_path: Path) -> None:
    first, second = (RNG.normal(size=(6, 4)).astype(np.float32) for _ in range(2))
    source = product_model(tmp_path / "plain.onnx", first, second, first)
    for write in (write_static, write_dynamic):
        sites = {"x": Range(-3.0, 3.0, np.array([1, 2, 1, 1, 1, 1], np.float32))}
        assert write(source, tmp_path / "int8.onnx", sites) == ["product0", "product1", "product2"]
        kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
        assert kinds.count("QuantizeLinear") + kinds.count("DynamicQuantizeLinear") == 1
        x = RNG.uniform(-2, 2, size=(1, 3, 6)).astype(np.float32)
        y0, y1, y2 = run(tmp_path / "int8.onnx", x)
        np.testing.assert_array_equal(y0, y2)
        assert np.abs(y1 - x @ second).max() < 0.1


def test_what_is_not_named_stays_as_it_is(tmp_path: Path) -> None:
    source = product_model(tmp_path / "plain.onnx", np.ones((4, 2), dtype=np.float32))
    assert write_static(source, tmp_path / "int8.onnx", {}) == []
    assert onnx.load(tmp_path / "int8.onnx").graph == onnx.load(source).graph


# --- ranges ---


def seen(*reach: float, low: float = -1.0) -> Seen:
    return Seen(np.full(len(reach), low, np.float32), np.array(reach, np.float32))


def test_a_few_far_channels_are_divided() -> None:
    found = choose_range(seen(*[2.0] * 10, 30.0, *[2.0] * 10, 11.0, *[2.0] * 10))
    assert (found.low, found.high) == (-1.0, 2.0)
    assert np.flatnonzero(found.divisor_K != 1).tolist() == [10, 21]
    assert found.divisor_K[[10, 21]].tolist() == [15.0, 5.5]


def test_a_channel_that_is_far_below_is_divided_too() -> None:
    low_K = np.full(20, -1, np.float32)
    low_K[4] = -8
    found = choose_range(Seen(low_K, np.full(20, 2, np.float32)))
    assert (found.low, found.high, found.divisor_K[4]) == (-2.0, 2.0, 4.0)


def test_channels_of_like_reach_are_left_alone() -> None:
    found = choose_range(seen(*[2.0] * 20, 2.9))
    assert found.high == pytest.approx(2.9) and (found.divisor_K == 1).all()


def test_no_more_than_sixteen_are_divided() -> None:
    found = choose_range(seen(*[2.0] * 10, *[50.0] * 16, *[100.0] * 4))
    assert (found.divisor_K > 1).sum() == 4 and found.high == 50.0


def test_zero_is_in_every_range() -> None:
    assert (choose_range(seen(3.0, 4.0, low=2.0)).low, choose_range(seen(-3.0, -4.0, low=-5.0)).high) == (0.0, 0.0)


def test_extremes_are_those_of_real_tokens_and_of_all_batches(tmp_path: Path) -> None:
    source = product_model(tmp_path / "plain.onnx", np.ones((2, 2), dtype=np.float32))
    model = onnx.load(source)
    # Calibration wants a mask among its inputs; the graph does not read it.
    batches = [
        {"x": np.array([[[1, 2], [9, 9]]], np.float32), "attention_mask": np.array([[1, 0]])},
        {"x": np.array([[[-3, 1]]], np.float32), "attention_mask": np.array([[1]])},
    ]
    found = observe(model, batches)["x"]
    assert (found.low_K.tolist(), found.high_K.tolist()) == ([-3, 1], [1, 2])
    # A tensor of the pooled row is no site: its shape is another.
    pooled = [{"x": np.ones((1, 1, 2), np.float32), "attention_mask": np.ones((1, 5), np.int64)}]
    assert observe(model, pooled) == {}
    assert [node.name for node in find_sites(model)["x"]] == ["product0"]
