"""Rounded linear layers against the formula in numpy, and against what onnxruntime computes of an int8 export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from disranker.models.packed import pack
from disranker.models.ranker import Ranker
from disranker.models.rounding import (
    RoundedLinear,
    Rounding,
    round_activations,
    round_linear_layers,
    round_weights,
)
from tests.tiny import PAIRS, classifier, encoder, sequences

LENGTHS = [9, 4, 13, 4]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def weights_by_formula(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    rounded = np.zeros_like(weight)
    for row, values in enumerate(weight):
        neighbours = [values[at : at + 2] for at in range(0, len(values), 2)]
        sums = [abs(two.sum()) for two in neighbours if len(two) == 2 and two[0] * two[1] > 0.0]
        reach = max([*np.abs(values), *sums])
        if reach > 0.0:
            rounded[row] = np.rint(values / (reach / 127)) * (reach / 127)
    return rounded


def activations_by_formula(states: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = min(states.min(), 0.0), max(states.max(), 0.0)
    scale = (high - low) / 255 or 1.0
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(states / scale) + zero, 0, 255) - zero) * scale


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- rounding ---


@pytest.mark.parametrize("inputs", [50, 51, 1])
def test_weights_are_those_of_the_formula(inputs: int) -> None:
    weight = drawn(6, inputs) * torch.logspace(-3, 3, 6)[:, None]
    weight[2] = 0.0
    weight[4] = -weight[4].abs()
    found = round_weights(weight)
    expected = weights_by_formula(weight.numpy())
    for row in range(6):  # each with a scale of its own
        np.testing.assert_allclose(found[row], expected[row], rtol=1e-6, atol=0.0)
        assert found[row].unique().numel() <= 255
    assert torch.equal(found[2], torch.zeros(inputs))
    torch.testing.assert_close(round_weights(found), found, rtol=0.02, atol=0.0)


def test_hand_values() -> None:
    # a scale of 1 in all three: halves go to the even neighbour
    alone = torch.tensor([[127.0, -127.0, 0.5, 1.5, -2.5, 3.4]])
    assert round_weights(alone).tolist() == [[127.0, -127.0, 0.0, 2.0, -2.0, 3.0]]
    together = torch.tensor([[-100.0, -27.0, 0.5, 1.5, -2.5, 3.4, 126.6]])
    assert round_weights(together).tolist() == [[-100.0, -27.0, 0.0, 2.0, -2.0, 3.0, 127.0]]
    states = torch.tensor([-55.0, 200.0, 0.5, 1.5, -2.5, 3.4])
    assert round_activations(states).tolist() == [-55.0, 200.0, 0.0, 2.0, -2.0, 3.0]


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0, 100.0])
def test_activations_are_those_of_the_formula(shift: float) -> None:
    states = drawn(1, 20, 30) + shift
    found = round_activations(states)
    np.testing.assert_allclose(found, activations_by_formula(states.numpy()), rtol=1e-5, atol=1e-6)
    assert found.unique().numel() <= 256
    step = (max(float(states.max()), 0.0) - min(float(states.min()), 0.0)) / 255
    assert (found - states).abs().max() <= 1.001 * step  # a full step where the zero point was rounded, too


@pytest.mark.parametrize("value", [0.0, 2.0, -2.0])
def test_one_value_everywhere_is_kept(value: float) -> None:
    states = torch.full((2, 3), value)
    torch.testing.assert_close(round_activations(states), states)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so(value: float) -> None:
    states = drawn(3, 4)
    states[1, 2] = value
    assert not round_activations(states).isfinite().any()
    assert not round_weights(states)[1].isfinite().any()


def test_the_gradient_is_that_of_the_exact_product() -> None:
    """Of the rounded numbers: each factor's gradient is the other factor as rounded; none is lost at the extremes."""
    states, weight = drawn(5, 8).requires_grad_(), drawn(3, 8, seed=1).requires_grad_()
    slope = drawn(5, 3, seed=2)
    rounded_states, rounded_weight = round_activations(states), round_weights(weight)
    (rounded_states @ rounded_weight.T * slope).sum().backward()
    assert states.grad is not None and weight.grad is not None
    torch.testing.assert_close(states.grad, slope @ rounded_weight.detach())
    torch.testing.assert_close(weight.grad, slope.T @ rounded_states.detach())


# --- beside the export ---


def test_weights_are_those_of_the_export() -> None:
    int8 = pytest.importorskip("disranker.export.int8")
    for inputs in (64, 33):
        weight = drawn(24, inputs) * torch.logspace(-2, 0, 24)[:, None]
        integers_IO, scale_O = int8.round_weight(weight.T.numpy())
        theirs = torch.from_numpy((integers_IO * scale_O).T)
        torch.testing.assert_close(round_weights(weight), theirs, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("shift", [0.0, 2.0, -2.0])
def test_products_are_onnxruntimes(shift: float, tmp_path: Path) -> None:
    """Far from 0, where sums in 16 bits would overflow, too."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from disranker.export.int8 import write_dynamic
    from disranker.export.onnxruntime import onnx_forward
    from disranker.export.products import Range, find_sites

    layer, states = RoundedLinear(64, 24).eval(), drawn(3, 17, 64) + shift
    layer.rounding = Rounding()
    with torch.no_grad():
        layer.weight.copy_(drawn(24, 64) * torch.logspace(-2, 0, 24)[:, None])
        exact = layer(states)
        files = tmp_path / "layer.onnx", tmp_path / "int8.onnx"
        axes = {"x": {0: "batch", 1: "sequence"}}
        torch.onnx.export(layer, (states,), str(files[0]), input_names=["x"], dynamic_axes=axes, dynamo=False)
        with layer.rounding.measured():
            ours = layer(states)
    plain = Range(0.0, 0.0, np.ones(64, np.float32))  # no channel is far outside
    assert len(write_dynamic(*files, dict.fromkeys(find_sites(onnx.load(files[0])), plain))) == 1
    theirs = torch.from_numpy(onnx_forward(files[1], 1)({"x": states.numpy()}))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)
    assert (exact - ours).abs().max() > 5e-3  # which is no small thing beside it


@pytest.mark.parametrize("family", ["bert", "electra", "distilbert"])
def test_an_int8_export_scores_as_the_rounded_student(family: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from disranker.export.onnx import write_onnx
    from disranker.export.onnxruntime import onnx_forward
    from disranker.export.padded import pad as padded
    from disranker.export.products import Range
    from disranker.export.rounding import Rounder

    model, reader = classifier(family, vocab_size=200), encoder()
    ranker = Ranker(model)
    rounding = round_linear_layers(ranker)
    tokens = sequences([12] * 24)  # of one length: the export's ranges have padding in them, ours have none
    with torch.no_grad():
        exact = ranker(pack(tokens))
        with rounding.measured():
            rounded = ranker(pack(tokens))
    file = tmp_path / "onnx" / "model.onnx"
    write_onnx(model, reader, file, opset=17)
    rounder = Rounder(file, reader, PAIRS)
    # Channels far outside are scaled before they are rounded; training knows nothing of that.
    rounder.ranges = {site: Range(0.0, 0.0, np.ones_like(one.divisor_K)) for site, one in rounder.ranges.items()}
    assert len(rounder.write("onnx-int8-dynamic", tmp_path)) == rounding.num_layers
    logits_B1 = onnx_forward(tmp_path / "onnx" / "model_int8.onnx", 1)(padded(tokens, 1))
    theirs = torch.from_numpy(logits_B1[:, 0])
    drift, beside = (float((scores - theirs).abs().max()) for scores in (exact, rounded))
    # A number within float32's rounding of a half may go the other way; nothing else differs.
    assert beside < 0.02 * drift and drift > 0.01


# --- in a ranker ---


@pytest.mark.parametrize(
    ("family", "layers"),
    [("bert", 14), ("roberta", 14), ("electra", 15), ("distilbert", 18), ("albert", 7), ("modernbert", 12)],
)
def test_every_linear_layer_over_tokens_is_rounded_and_no_other(family: str, layers: int) -> None:
    """Of three layers; where the last one reads on at the pooled row alone, it has but key and value."""
    ranker, packed = Ranker(classifier(family)), pack(sequences(LENGTHS))
    names, before = list(ranker.state_dict()), ranker(packed).detach()
    rounding = round_linear_layers(ranker)
    assert rounding.num_layers == layers
    rounded = [name for name, module in ranker.stock.named_modules() if isinstance(module, RoundedLinear)]
    assert len(rounded) == layers and not any("pooler" in name or "classifier" in name for name in rounded)
    assert list(ranker.state_dict()) == names
    assert torch.equal(ranker(packed), before)  # off
    with rounding.measured():
        inside = ranker(packed)
    assert (inside - before).abs().max() > 1e-4
    assert torch.equal(ranker(packed), before)


def test_training_and_measuring_have_switches_of_their_own() -> None:
    ranker = Ranker(classifier("bert", **NO_DROPOUT))
    packed = pack(sequences(LENGTHS))
    exact = ranker(packed).detach()
    rounding = round_linear_layers(ranker)
    rounding.learning = True
    assert torch.equal(ranker.eval()(packed), exact)
    learned = ranker.train()(packed)
    assert not torch.equal(learned, exact)
    rounding.learning = False
    with rounding.measured():
        assert torch.equal(ranker(packed), exact)
        assert torch.equal(ranker.eval()(packed), learned)
    with pytest.raises(RuntimeError), rounding.measured():
        raise RuntimeError
    assert not rounding.measuring


def test_layers_that_are_run_once_more_for_the_backward_round_again() -> None:
    def gradients(checkpointing: bool) -> list[Tensor]:
        stock = classifier("bert", **NO_DROPOUT)
        if checkpointing:
            stock.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        ranker = Ranker(stock.train())
        round_linear_layers(ranker).learning = True
        ranker(pack(sequences([7, 7, 7]))).square().sum().backward()
        return [weight.grad for weight in ranker.parameters() if weight.grad is not None]

    plain, recomputed = gradients(False), gradients(True)
    assert len(plain) == len(recomputed) > 30
    for one, other in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="quantisation is for encoders, which are exported in int8, and a llama is a"):
        round_linear_layers(Ranker(classifier("llama")))


def test_an_encoder_of_convolutions_is_refused() -> None:
    small = {"vocab_size": 50, "hidden_size": 16, "embedding_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    config = AutoConfig.for_model("squeezebert", **small, num_attention_heads=4, num_labels=1)
    ranker = Ranker(AutoModelForSequenceClassification.from_config(config))
    with pytest.raises(ValueError, match="rounds linear layers, and the encoder of a squeezebert has none"):
        round_linear_layers(ranker)
