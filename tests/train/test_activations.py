"""The memory of a training pass without data: against the same count on real tensors, and what must change it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from disranker.models.language import LanguageModel
from disranker.models.ranker import Ranker
from disranker.train.activations import _Allocations, activation_bytes, packed_of_length
from tests import tiny


def on_meta(model: Any) -> Any:
    return model.to("meta")


def language_model(recomputes: bool = False, **changed: Any) -> LanguageModel:
    model = tiny.causal_model("llama", **changed)
    if recomputes:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return LanguageModel(model)


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("num_layers", [2, 6])
def test_a_pass_without_data_counts_what_a_real_one_holds(recomputes: bool, num_layers: int) -> None:
    """Within 10%: on the CPU attention runs by runs of equal length, and the first token of a text is not predicted."""
    packed = packed_of_length(960, 32)
    said = activation_bytes(on_meta(language_model(recomputes, num_hidden_layers=num_layers)), packed)
    model = language_model(recomputes, num_hidden_layers=num_layers).train()
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda made: setattr(made, "grad", None))
    with _Allocations([tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]) as counted:
        model(packed, packed.token_type_ids[0].bool()).sum().backward()
    assert said == pytest.approx(counted.peak, rel=0.1)


def test_allocations_are_counted_until_they_are_freed() -> None:
    with _Allocations([]) as counted:
        first = torch.ones(1000)
        second = first + 1  # 4000 bytes each
        view = second[:10]
        del first
        third = view.double()
    assert counted.peak == 8000
    assert third.sum() == 20


def test_recomputing_pays_with_depth_and_not_with_the_vocabulary() -> None:
    def saved(**changed: Any) -> float:
        packed = packed_of_length(960, 32)
        plain, recomputing = (
            activation_bytes(on_meta(language_model(recomputes, **changed)), packed) for recomputes in (False, True)
        )
        assert plain is not None and recomputing is not None
        return recomputing / plain

    assert saved(num_hidden_layers=8) < 0.5
    assert saved(num_hidden_layers=1, vocab_size=4000) > 0.9


def test_twice_the_tokens_take_twice_the_bytes() -> None:
    half, whole = (activation_bytes(on_meta(language_model()), packed_of_length(tokens, 32)) for tokens in (640, 1280))
    assert half is not None and whole == pytest.approx(2 * half, rel=0.02)


def test_rankers_are_counted_where_they_run_packed() -> None:
    packed = packed_of_length(100, 32)
    for family in ("bert", "llama"):
        assert (activation_bytes(on_meta(Ranker(tiny.classifier(family))), packed) or 0) > 0
    assert activation_bytes(on_meta(Ranker(tiny.classifier("deberta-v2"))), packed) is None


def test_a_row_of_a_length_has_sequences_of_the_budget() -> None:
    assert packed_of_length(70, 32).cu_seqlens.diff().tolist() == [6, 32, 32]
    assert packed_of_length(64, 32).num_sequences == 2
    assert packed_of_length(5, 32).num_tokens == 5
