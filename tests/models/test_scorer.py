"""The scorer: order, budgets, and what it does when memory runs out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from disranker import dist
from disranker.models.packed import Packed, pack
from disranker.models.ranker import Ranker
from disranker.models.scorer import DEFAULT_TOKENS_PER_BATCH, Prefixes, Scorer, find_prefixes, token_batches
from disranker.schema import Pair
from disranker.text.encode import Tokens
from tests.tiny import PAIRS, classifier, encoder, pair_tokenizer, prompt_tokenizer, sequences

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


def failing(scorer: Scorer, limit: int, error: Exception) -> Callable[[Packed], tuple[Tensor, Tensor]]:
    """A forward that fails with more than `limit` tokens, as memory would."""
    forward = scorer._forward

    def limited(packed: Packed) -> tuple[Tensor, Tensor]:
        if packed.num_tokens > limit:
            raise error
        return forward(packed)

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
    assert scorer.tokens_per_batch == DEFAULT_TOKENS_PER_BATCH[dist.device().type]
    assert capsys.readouterr().out == ""


def test_scoring_leaves_no_graph(scorer: Scorer) -> None:
    scorer.score(MANY)
    assert all(parameter.grad is None for parameter in scorer.ranker.parameters())
    assert not scorer.ranker.training


def test_tokens_are_counted_as_the_model_reads_them(scorer: Scorer) -> None:
    assert scorer.count_tokens(MANY) == [len(tokens.ids) for tokens in scorer.encoder.encode(MANY)]


def test_the_pooled_states_are_those_the_scores_are_read_from(scorer: Scorer) -> None:
    shuffled = random.Random(0).sample(MANY, len(MANY))
    scores, states = scorer.score_and_represent(shuffled)
    np.testing.assert_array_equal(scores, scorer.score(shuffled))
    assert (states.dtype, states.shape) == (np.float16, (len(MANY), 32))
    stock, tokens = scorer.ranker.stock, scorer.encoder.encode(shuffled)
    with torch.inference_mode():
        one = pack([tokens[5]])
        state = stock.base_model(
            input_ids=one.input_ids, token_type_ids=one.token_type_ids, position_ids=one.position_ids, packed=one
        ).last_hidden_state[0, 0]
    np.testing.assert_allclose(states[5], state.half().numpy(), rtol=0, atol=2e-3)


# --- prefixes that stand once ---

# One query with many documents, another with one.
GROUPED = [*(Pair("waterproof red boots", one.title, one.summary) for one in PAIRS * 2), PAIRS[4]]


def decoder_scorer(family: str, **changed: object) -> Scorer:
    model = classifier(family, vocab_size=len(prompt_tokenizer()), **changed)
    return Scorer(Ranker(model).eval(), encoder("prompt-en", max_tokens=64))


def seen_packs(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> list[Packed]:
    forward, seen = scorer._forward, []

    def watched(packed: Packed) -> tuple[Tensor, Tensor]:
        seen.append(packed)
        return forward(packed)

    monkeypatch.setattr(scorer, "_forward", watched)
    return seen


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("llama", {}),
        ("qwen3", {}),
        ("qwen2", {"use_sliding_window": False}),
        ("mistral", {"sliding_window": None}),
    ],
)
@pytest.mark.parametrize("budget", [8192, 70, 1])
def test_scores_do_not_change_when_a_query_is_read_once(
    family: str, changed: dict[str, object], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = decoder_scorer(family, **changed)
    scorer.tokens_per_batch = budget
    expected = one_by_one(scorer, GROUPED)
    seen = seen_packs(scorer, monkeypatch)
    scores, states = scorer.score_and_represent(GROUPED)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)
    assert np.ptp(expected) > 0.1 and np.isfinite(states).all()
    total = sum(scorer.count_tokens(GROUPED))
    read = sum(packed.num_tokens for packed in seen)
    assert all(packed.shared for packed in seen)
    assert all(packed.num_tokens <= budget or packed.num_sequences == 1 for packed in seen)
    if budget == 8192:
        prefix = scorer.encoder.encode(GROUPED)[0].second
        assert read == total - prefix * 11


@pytest.mark.parametrize(
    ("family", "changed"), [("mistral", {}), ("qwen2", {}), ("gemma2", {})], ids=["window", "some windows", "padded"]
)
def test_a_model_with_windows_reads_every_pair_whole(
    family: str, changed: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = decoder_scorer(family, **changed)
    seen = seen_packs(scorer, monkeypatch)
    np.testing.assert_allclose(scorer.score(GROUPED), one_by_one(scorer, GROUPED), rtol=0, atol=1e-5)
    assert not any(packed.shared for packed in seen)


def test_an_encoder_reads_every_pair_whole(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = seen_packs(scorer, monkeypatch)
    scorer.score(GROUPED)
    assert seen and not any(packed.shared for packed in seen)


def test_prefixes_are_used_where_they_save_enough() -> None:
    def alike(prefix: int, suffix: int, count: int) -> list[Tokens]:
        ids = np.random.default_rng(0).integers(4, 100, (count, prefix + suffix)).astype(np.int32)
        ids[:, :prefix] = ids[0, :prefix]
        return [Tokens(row, prefix, 0) for row in ids]

    # 9 of 10 prefixes of 10 tokens are saved out of 10 x 100 tokens: 9 %; of 12 tokens: 10.8 %
    assert find_prefixes(alike(10, 90, 10)) is None
    found = find_prefixes([*alike(12, 88, 10), *sequences([5])])
    assert found is not None
    assert found.group.tolist() == [0] * 10 + [1] and found.length.tolist() == [12] * 10 + [0]
    assert find_prefixes([]) is None
    # a pair that is all query keeps one token to be read at
    whole = [Tokens(np.array([5, 6, 7], dtype=np.int32), 3, 0)] * 2
    assert find_prefixes(whole).length.tolist() == [2, 2]


def test_a_batch_pays_for_a_prefix_once() -> None:
    tokens = sequences([10, 10, 10, 10])
    prefixes = Prefixes(np.array([0, 0, 0, 1]), np.array([6, 6, 6, 0]))
    # 10 + 4 + 4 = 18, then 10 more would be 28
    assert list(token_batches(range(4), tokens, 18, prefixes)) == [[0, 1, 2], [3]]
    assert list(token_batches(range(4), tokens, 17, prefixes)) == [[0, 1], [2], [3]]
    assert list(token_batches(range(4), tokens, 24, prefixes)) == [[0, 1, 2], [3]]
