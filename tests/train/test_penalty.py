"""L2-SP and EWC against their formulas, for all weights and for adapters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from disranker.config.parts import LoraConfig
from disranker.config.pretrain import PenaltyConfig
from disranker.data.tokens import TokenTable, write_tokens
from disranker.models.adapters import merged_weights, wrap_lora
from disranker.models.language import LanguageModel
from disranker.models.packed import pack
from disranker.schema import stable_seed
from disranker.text.encode import PieceEncoder
from disranker.train.penalty import Penalty, make_penalty
from tests import tiny

TEXTS = ["red shoes for running", "blue boots", "warm and waterproof boots, made for snow and rain", "a bike", "tyres"]


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> TokenTable:
    path = tmp_path_factory.mktemp("general") / "g.arrow"
    write_tokens(path, PieceEncoder(tiny.prompt_tokenizer(), max_tokens=16), TEXTS)
    return TokenTable(path)


def make_model(lora: str | None = None) -> LanguageModel:
    stock: Any = tiny.spread(tiny.causal_model("llama", vocab_size=400), 0.1)
    if lora is not None:
        torch.manual_seed(0)
        stock = wrap_lora(stock, LoraConfig(r=4, alpha=8, variant=lora))
    return LanguageModel(stock).train()


def penalty_of(config: dict[str, Any], model: LanguageModel, general: TokenTable) -> Penalty:
    made = make_penalty(PenaltyConfig(**{"weight": 1.0, **config}), model, general, seed=0)
    assert made is not None
    return made


def move(model: LanguageModel, seed: int = 5) -> None:
    """Every trained weight moves by something of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def fisher_by_hand(model: LanguageModel, general: TokenTable, num_texts: int) -> dict[str, torch.Tensor]:
    """Σ of the squared gradients of texts, one backward pass each, over the predicted tokens; by stock names."""
    for parameter in model.stock.parameters():
        parameter.requires_grad_(True)
    names = dict(model.stock.named_parameters())
    squares = {name: torch.zeros_like(parameter) for name, parameter in names.items()}
    rows = np.random.default_rng(stable_seed(0, "fisher")).permutation(len(general))[:num_texts]
    count = 0
    for row in rows:
        tokens = general[int(row)]
        model.stock.zero_grad()
        model(pack([tokens]), torch.arange(len(tokens.ids)) >= 1).sum().backward()
        count += len(tokens.ids) - 1
        for name, parameter in names.items():
            if parameter.grad is not None:
                squares[name] += parameter.grad**2
    return {name: square / count for name, square in squares.items()}


def test_without_settings_there_is_none(general: TokenTable) -> None:
    assert make_penalty(None, make_model(), general, seed=0) is None


@pytest.mark.parametrize("kind", ["l2-sp", "ewc"])
def test_the_penalty_of_all_weights_by_the_formula(kind: str, general: TokenTable) -> None:
    model = make_model()
    start = {name: parameter.detach().clone() for name, parameter in model.stock.named_parameters()}
    fisher = fisher_by_hand(make_model().eval(), general, 3)
    penalty = penalty_of({"kind": kind, **({"fisher_texts": 3} if kind == "ewc" else {})}, model, general)
    assert penalty().item() == 0.0
    move(model)
    expected, gradients = 0.0, {}
    for name, parameter in model.stock.named_parameters():
        weights = fisher[name] if kind == "ewc" else torch.ones_like(parameter)
        moved = parameter.detach() - start[name]
        expected += 0.5 * float((weights * moved**2).sum())
        gradients[name] = weights * moved
    found = penalty()
    assert found.item() == pytest.approx(expected, rel=1e-4) and expected > 1e-4
    found.backward()
    for name, parameter in model.stock.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("variant", ["lora", "rslora"])
@pytest.mark.parametrize("kind", ["l2-sp", "ewc"])
def test_the_penalty_of_adapters_is_that_of_the_weights_they_come_to(
    kind: str, variant: str, general: TokenTable
) -> None:
    model = make_model(variant)
    start = merged_weights(model.model)
    fisher = fisher_by_hand(make_model().eval(), general, 3)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    penalty = penalty_of({"kind": kind, **({"fisher_texts": 3} if kind == "ewc" else {})}, model, general)
    assert penalty().item() == 0.0
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == frozen
    move(model)
    expected = 0.0
    for name, weight in merged_weights(model.model).items():
        moved = weight - start[name]
        expected += 0.5 * float(((fisher[name] if kind == "ewc" else 1.0) * moved**2).sum())
    found = penalty()
    assert found.item() == pytest.approx(expected, rel=1e-4) and expected > 1e-5
    found.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in trained)
    assert not any(parameter.grad is not None for parameter in model.parameters() if not parameter.requires_grad)


def test_the_fisher_information_tells_how_likelihood_falls(general: TokenTable) -> None:
    """Near a minimum ½ F (w - w₀)² is the loss of likelihood of a token, up to the terms off the diagonal."""
    model = make_model().eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch = pack([general[row] for row in range(len(general))])
    predict_T = batch.token_type_ids[0].bool()
    for _ in range(40):  # EWC's premise: the start is where general text was learnt
        optimizer.zero_grad()
        model(batch, predict_T).mean().backward()
        optimizer.step()
    penalty = penalty_of({"kind": "ewc", "fisher_texts": len(general)}, model, general)
    with torch.no_grad():
        before = model(batch, predict_T).mean().item()
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    told, lost = [], []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(
                    start[name] + 0.003 * (1 + seed % 4) * torch.randn(parameter.shape, generator=generator)
                )
            told.append(penalty().item())
            lost.append(model(batch, predict_T).mean().item() - before)
    assert np.corrcoef(told, lost)[0, 1] > 0.8


def test_estimating_leaves_the_model_as_it_was(general: TokenTable) -> None:
    model = make_model()
    was_training = model.training
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    penalty_of({"kind": "ewc", "fisher_texts": 2}, model, general)
    assert model.training is was_training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
