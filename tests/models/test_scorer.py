"""The scorer: order, budgets, and what it does when memory runs out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from disranker.models.packed import pack
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer, token_batches
from disranker.schema import Pair
from disranker.text.encode import Tokens
from tests.tiny import PAIRS, classifier, encoder, pair_tokenizer, sequences

MANY = [Pair(one.query, other.title, other.summary) for one in PAIRS for other in PAIRS]
CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"


@pytest.fixture
def scorer() -> Scorer:
    return Scorer(Ranker(classifier("bert", vocab_size=len(pair_tokenizer()))).eval(), encoder())


def one_by_one(scorer: Scorer, pairs: Sequence[Pair]) -> list[float]:
    with torch.inference_mode():
        return [scorer.ranker(pack([tokens])).item() for tokens in scorer.encoder.encode(pairs)]


def test_scores_come_in_the_order_of_the_pairs(scorer: Scorer) -> None:
    shuffled = random.Random(0).sample(MANY, len(MANY))
    scores = scorer.score(shuffled)
    assert scores.dtype == np.float32
    assert scores.shape == (len(MANY),)
    assert len({len(tokens.ids) for tokens in encoder().encode(shuffled)}) > 5
    np.testing.assert_allclose(scores, one_by_one(scorer, shuffled), rtol=0, atol=1e-5)
    assert scores.std() > 0.1


def test_plain_tuples_are_pairs_and_nothing_gives_nothing(scorer: Scorer) -> None:
    assert scorer.score([tuple(MANY[0])])[0] == pytest.approx(scorer.score(MANY[:1])[0])
    nothing = scorer.score([])
    assert (nothing.shape, nothing.dtype) == ((0,), np.float32)


@pytest.mark.parametrize("budget", [1, 40, 100])
def test_the_budget_changes_no_score(scorer: Scorer, budget: int) -> None:
    expected = scorer.score(MANY)
    small = Scorer(scorer.ranker, scorer.encoder, tokens_per_batch=budget)
    np.testing.assert_allclose(small.score(MANY), expected, rtol=0, atol=1e-5)


def test_batches_keep_to_the_budget_and_a_longer_pair_stands_alone() -> None:
    tokens = sequences([30, 9, 8, 5, 5, 2])
    batches = list(token_batches(range(6), tokens, 17))
    assert batches == [[0], [1, 2], [3, 4, 5]]
    assert list(token_batches([], tokens, 17)) == []


def test_the_parameters_are_counted_with_the_head(scorer: Scorer) -> None:
    model = classifier("bert", vocab_size=len(pair_tokenizer()))
    assert scorer.num_parameters == sum(parameter.numel() for parameter in model.parameters())


def failing(scorer: Scorer, limit: int, error: Exception) -> Callable[[Sequence[Tokens]], NDArray[np.float32]]:
    """A forward that fails with more than `limit` tokens, as memory would."""
    forward = scorer._forward

    def limited(tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        if sum(len(one.ids) for one in tokens) > limit:
            raise error
        return forward(tokens)

    return limited


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU_MESSAGE), MemoryError()], ids=repr
)
def test_out_of_memory_halves_the_budget_and_goes_on(
    scorer: Scorer, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = scorer.score(MANY)
    scorer.tokens_per_batch = 400
    monkeypatch.setattr(scorer, "_forward", failing(scorer, 130, error))
    np.testing.assert_allclose(scorer.score(MANY), expected, rtol=0, atol=1e-5)
    assert capsys.readouterr().out.splitlines() == [
        "out of memory: going on with 200 tokens a batch",
        "out of memory: going on with 100 tokens a batch",
    ]
    # What was learnt is kept for the next call.
    scorer.score(MANY)
    assert capsys.readouterr().out == ""


def test_one_pair_that_does_not_fit_is_an_error(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "_forward", failing(scorer, 5, torch.OutOfMemoryError("CUDA out of memory.")))
    with pytest.raises(torch.OutOfMemoryError):
        scorer.score(MANY)


def test_any_other_error_is_raised_at_once(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scorer, "_forward", failing(scorer, 5, RuntimeError("shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        scorer.score(MANY)
    assert scorer.tokens_per_batch == 8192
    assert capsys.readouterr().out == ""


def test_scoring_leaves_no_graph(scorer: Scorer) -> None:
    scorer.score(MANY)
    assert all(parameter.grad is None for parameter in scorer.ranker.parameters())
    assert not scorer.ranker.training
