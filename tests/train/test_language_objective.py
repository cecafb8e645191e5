"""Stage 1's objective: weights, bytes and the penalty, by hand and however a step is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from disranker import dist
from disranker.config.parts import ModelConfig, OptimConfig, TrainingConfig
from disranker.config.pretrain import PenaltyConfig
from disranker.data.text_items import Replay, TextBatch, TextItems
from disranker.data.tokens import TokenTable, write_tokens
from disranker.models.adapters import merged_weights
from disranker.models.language import LanguageModel
from disranker.models.packed import pack
from disranker.text.encode import FormatEncoder, PieceEncoder
from disranker.text.templates import FORMATS
from disranker.text.token_bytes import token_bytes
from disranker.train.engine import train
from disranker.train.language import LanguageModelObjective
from disranker.train.penalty import Penalty, make_penalty
from disranker.train.run import plan_steps
from tests import tiny, tiny_runs
from tests.train.training import make_model, pairs_in_groups


def batch_of(weight: float = 1.0, weights_N: Tensor | None = None) -> TextBatch:
    """Sequences of 6 and 4 tokens, whose second halves are predicted."""
    packed = pack(tiny.sequences([6, 4]))
    return TextBatch(packed, packed.token_type_ids[0].bool(), weight, weights_N)


def one_to_n(packed: Any, predict_T: Tensor) -> Tensor:
    """A model whose losses are 1, 2, 3, …"""
    return torch.arange(1.0, 1.0 + int(predict_T.sum()), requires_grad=True)


def numbers(parts: dict[str, Tensor]) -> dict[str, float]:
    return {name: part.item() for name, part in parts.items()}


def test_predicted_tokens_are_counted_and_their_losses_summed() -> None:
    objective = LanguageModelObjective()
    assert (objective.count(batch_of()), objective.count(batch_of(0.0))) == (5, 0)
    assert numbers(objective.loss(one_to_n, batch_of(), step=0)) == {"loss": 15.0}
    assert numbers(objective.loss(one_to_n, batch_of(0.0), step=0)) == {"loss": 0.0}


def test_weights_are_in_the_loss_and_in_the_count() -> None:
    weights_N = torch.tensor([2.0, 2.0, 0.5, 0.5, 0.5])
    objective = LanguageModelObjective()
    assert objective.count(batch_of(1.0, weights_N)) == 5.5
    assert objective.count(batch_of(0.0, weights_N)) == 0.0
    assert numbers(objective.loss(one_to_n, batch_of(1.0, weights_N), step=0)) == {"loss": 2 + 4 + 1.5 + 2 + 2.5}
    twice = batch_of(1.0, 2.0 * weights_N)
    # The mean weight changes nothing: the engine divides by the count.
    assert objective.loss(one_to_n, twice, step=0)["loss"].item() / objective.count(twice) == pytest.approx(12 / 5.5)


def test_bytes_are_those_of_the_predicted_tokens() -> None:
    counts = np.arange(tiny.VOCAB_SIZE)
    batch = batch_of()
    parts = numbers(LanguageModelObjective(counts).loss(one_to_n, batch, step=0))
    assert parts["bytes_per_token"] == float(batch.packed.input_ids[0, batch.predict_T].sum())
    weights_N = torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0])
    parts = numbers(LanguageModelObjective(counts).loss(one_to_n, batch_of(1.0, weights_N), step=0))
    assert parts["bytes_per_token"] == 3.0 * float(batch.packed.input_ids[0, batch.predict_T][-1])


def test_the_penalty_counts_once_for_every_unit_of_the_count() -> None:
    class Constant:
        fisher = None
        weight = torch.ones(1)

        def penalty(self) -> Tensor:
            return torch.tensor(0.25)

    objective = LanguageModelObjective(penalty=Penalty([Constant(), Constant()], weight=2.0))
    parts = numbers(objective.loss(one_to_n, batch_of(), step=0))
    # summed over the 5 units: 15 + 2 x 0.5 x 5; the engine divides by 5
    assert parts == {"loss": 20.0, "nll": 15.0, "penalty": 2.5}
    assert numbers(objective.loss(one_to_n, batch_of(0.0), step=0)) == {"loss": 0.0, "nll": 0.0, "penalty": 0.0}


# --- however a step is cut ---


def mixed_items(folder: Path) -> TextItems:
    """Three forms, weights and general text, as a run of everything has them."""
    pairs, _ = pairs_in_groups()
    tokenizer = tiny.prompt_tokenizer()
    formats = [
        FormatEncoder(tokenizer, FORMATS[name], max_tokens=32, max_query_tokens=16)
        for name in ("query-en", "document-en")
    ]
    tables = []
    for number, encoder in enumerate([tiny.encoder("plain"), *formats]):
        write_tokens(folder / f"{number}.arrow", encoder, pairs)
        tables.append(TokenTable(folder / f"{number}.arrow"))
    general = folder / "general.arrow"
    write_tokens(general, PieceEncoder(tokenizer, max_tokens=16), [" ".join(pair) for pair in tiny.PAIRS])
    weights = np.random.default_rng(0).uniform(0.2, 5.0, len(pairs)).astype(np.float32)
    replay = Replay(TokenTable(general), 0.2)
    return TextItems(tables, shares=[2.0, 1.0, 1.0], weights=weights, replay=replay, seed=0)


def run(folder: Path, *, penalty: dict[str, Any] | None = None, **changed: Any) -> tuple[list[dict[str, Any]], Any]:
    """6 steps on everything; the lines of the steps and the weights."""
    dist.initialize()
    folder.mkdir()
    training = TrainingConfig(**{"steps": 6, "tokens_per_step": 300, **changed})
    items, model = mixed_items(folder), make_model("llama-language")
    assert isinstance(model, LanguageModel)
    counts = token_bytes(tiny.prompt_tokenizer())
    config = None if penalty is None else PenaltyConfig(**penalty)
    general = TokenTable(folder / "general.arrow")
    plan, num_steps = plan_steps(items, training)
    train(
        model,
        LanguageModelObjective(counts, make_penalty(config, model, general, seed=0)),
        plan,
        num_steps=num_steps,
        settings=(ModelConfig(name="x"), OptimConfig(learning_rate=1e-3), training),
        config_text="",
        out=folder,
        save=lambda: None,
    )
    return tiny_runs.step_lines(folder), merged_weights(model.model)


PENALTIES: list[dict[str, Any] | None] = [
    None,
    {"kind": "l2-sp", "weight": 3.0},
    {"kind": "ewc", "weight": 30.0, "fisher_texts": 4},
]


@pytest.mark.parametrize(
    "penalty",
    [
        pytest.param(one, id=name, marks=[pytest.mark.slow] * (name == "l2-sp"))
        for one, name in zip(PENALTIES, ("none", "l2-sp", "ewc"), strict=True)
    ],
)
def test_accumulation_and_zero_change_nothing(penalty: dict[str, Any] | None, tmp_path: Path) -> None:
    whole, weights = run(tmp_path / "whole", penalty=penalty, zero_stage=0)
    for number, changed in enumerate([{"accumulation": 8, "zero_stage": 1}, {"accumulation": 2, "zero_stage": 2}]):
        cut, cut_weights = run(tmp_path / str(number), penalty=penalty, **changed)
        for name in ("loss", "count", "bytes_per_token", *(("nll", "penalty") if penalty else ())):
            expected = [line[name] for line in whole]
            assert [line[name] for line in cut] == pytest.approx(expected, rel=1e-5, abs=1e-6), name
        assert tiny_runs.largest_difference(cut_weights, weights) < 5e-5  # of moves of some 5e-3
    assert np.ptp([line["loss"] for line in whole]) > 0.01
    if penalty is not None:
        assert whole[0]["penalty"] == 0.0 < whole[-1]["penalty"]
        last = whole[-1]
        assert last["loss"] == pytest.approx(last["nll"] + penalty["weight"] * last["penalty"], rel=1e-6)
