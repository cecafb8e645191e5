from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch

from disranker.schema import Pair
from disranker.serve.batch import Fits
from disranker.serve.batching import QueueFull, Stopped
from tests.serve.serving import WordScorer, batcher, until_scoring

VALUES = {"a": 1.0, "b": 2.0, "c": 4.0}


def pairs(*texts: str) -> list[Pair]:
    return [Pair("q", "", text) for text in texts]


def run(scorer: WordScorer, requests: list[list[Pair]], **changed: Any) -> list[list[float]]:
    """The scores of requests that come at the same time."""

    async def work() -> list[list[float]]:
        one = batcher(scorer, **changed)
        one.start()
        try:
            return [found.scores.tolist() for found in await asyncio.gather(*(one.score(each) for each in requests))]
        finally:
            await one.stop()

    return asyncio.run(work())


def test_scores_come_back_in_the_order_of_the_pairs() -> None:
    assert run(WordScorer(VALUES), [pairs("a", "c c c", "", "b a")]) == [[1.0, 12.0, 0.0, 3.0]]


def test_requests_share_batches_and_get_their_own_scores() -> None:
    scorer = WordScorer(VALUES)
    requests = [pairs("a", "b"), pairs("c"), pairs("a a a", "", "b")]
    assert run(scorer, requests, wait_seconds=0.2) == [[1.0, 2.0], [4.0], [3.0, 0.0, 2.0]]
    assert len(scorer.batches) == 1
    assert sum(scorer.batches[0]) == 3 + 3 + 3 + 5 + 2 + 3


def test_no_batch_is_larger_than_the_budget_unless_one_pair_is() -> None:
    scorer = WordScorer(VALUES)
    requests = [pairs(*["a b c"] * 7), pairs("a " * 30, "b"), pairs(*["c"] * 9)]
    scores = run(scorer, requests, wait_seconds=0.05, tokens_per_batch=16)
    assert scores == [[7.0] * 7, [30.0, 2.0], [4.0] * 9]
    assert sum(map(len, scorer.batches)) == 18
    assert [lengths for lengths in scorer.batches if sum(lengths) > 16] == [[32]]


def test_pairs_of_a_request_are_scored_longest_first() -> None:
    scorer = WordScorer(VALUES)
    run(scorer, [pairs("a", "a a a a", "a a", "a a a")], tokens_per_batch=11)
    assert scorer.batches == [[6, 5], [4, 3]]


def test_a_batch_that_is_not_full_waits_no_longer_than_it_may() -> None:
    async def work() -> list[float]:
        one = batcher(WordScorer(VALUES), wait_seconds=0.5)
        one.start()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await one.score(pairs("a"))
        alone = loop.time() - began
        began = loop.time()
        await one.score(pairs("a " * 62))  # fills a batch, so there is nothing to wait for
        full = loop.time() - began
        await one.stop()
        return [alone, full]

    alone, full = asyncio.run(work())
    assert alone >= 0.5
    assert full < 0.5


def test_beyond_its_bound_the_queue_refuses_at_once_and_takes_again_later() -> None:
    scorer = WordScorer(VALUES)
    scorer.gate.clear()

    async def work() -> None:
        one = batcher(scorer, max_queued_pairs=5)
        one.start()
        first = asyncio.create_task(one.score(pairs("a", "b", "c")))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="3 documents are waiting, and no more than 5 may"):
            await one.score(pairs("a", "b", "c"))
        second = asyncio.create_task(one.score(pairs("a", "b")))
        scorer.gate.set()
        assert (await first).scores.tolist() == [1.0, 2.0, 4.0]
        assert (await second).num_tokens == 6
        assert one.num_queued_pairs == 0
        assert (await one.score(pairs("a", "b", "c"))).scores.tolist() == [1.0, 2.0, 4.0]
        await one.stop()

    asyncio.run(work())


def test_what_would_come_too_late_is_refused_at_once() -> None:
    scorer = WordScorer(VALUES)
    scorer.gate.clear()

    async def work() -> None:
        one = batcher(scorer, tokens_per_batch=3, max_seconds=5.0)
        one.start()
        asked = [asyncio.create_task(one.score(pairs("a")))]
        await until_scoring(scorer)
        one._tokens_per_second = 10.0
        # Longer than it may take, but nobody waits before it, and the speed may be wrong.
        asked.append(asyncio.create_task(one.score(pairs(*["a"] * 20))))
        while not one._queue:
            await asyncio.sleep(0.002)
        with pytest.raises(QueueFull, match=r"would take 12 seconds .* no more than 5: come back") as refused:
            await one.score(pairs(*["a"] * 20))
        # 3 tokens of each document, 10 a second: six seconds are waiting, three until half of them are done
        assert refused.value.retry_after == 3
        # A small one does not wait for the large one.
        asked.append(asyncio.create_task(one.score(pairs("a"))))
        while len(one._queue) < 2:
            await asyncio.sleep(0.002)
        assert one.num_queued_pairs == 22
        scorer.gate.set()
        assert [len(found.scores) for found in await asyncio.gather(*asked)] == [1, 20, 1]
        await one.stop()

    asyncio.run(work())


def test_a_request_that_is_given_up_leaves_the_queue() -> None:
    scorer = WordScorer(VALUES)
    scorer.gate.clear()

    async def work() -> None:
        one = batcher(scorer, tokens_per_batch=3)
        one.start()
        first = asyncio.create_task(one.score(pairs("a")))
        await until_scoring(scorer)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                await one.score(pairs("b", "b", "b"))
        assert one.num_queued_pairs == 1
        scorer.gate.set()
        assert (await first).scores.tolist() == [1.0]
        await one.stop()

    asyncio.run(work())
    assert scorer.batches == [[3]]


def test_a_failure_belongs_to_the_requests_of_its_batch() -> None:
    async def work() -> list[Any]:
        one = batcher(WordScorer({**VALUES, "broken": 0.0}), tokens_per_batch=6)
        one.start()
        found = await asyncio.gather(
            one.score(pairs("a", "a")),
            one.score(pairs("broken", "c", "b")),
            one.score(pairs("b b", "b b")),
            return_exceptions=True,
        )
        await one.stop()
        return found

    sound, broken, later = asyncio.run(work())
    assert sound.scores.tolist() == [1.0, 1.0]
    assert isinstance(broken, RuntimeError)
    assert later.scores.tolist() == [4.0, 4.0]


def test_what_is_left_of_a_request_that_failed_is_not_scored() -> None:
    scorer = WordScorer({**VALUES, "broken": 0.0})

    async def work() -> None:
        one = batcher(scorer, tokens_per_batch=4)
        one.start()
        with pytest.raises(RuntimeError, match="broke"):
            await one.score(pairs("broken b", "a", "a", "a", "a"))
        assert (await one.score(pairs("c"))).scores.tolist() == [4.0]
        await one.stop()

    asyncio.run(work())
    assert scorer.batches == [[4], [3]]


@pytest.mark.parametrize(
    ("tokens_per_second", "expected"),
    [
        (1.0, ["small", "large", "larger"]),  # small ones overtake what takes longer
        (1e9, ["large", "small", "larger"]),  # but not what would have been done before they came
    ],
)
def test_turns_are_set_by_when_a_request_came_and_how_long_it_takes(
    tokens_per_second: float, expected: list[str]
) -> None:
    scorer = WordScorer(VALUES)
    scorer.gate.clear()
    done: list[str] = []

    async def work() -> None:
        one = batcher(scorer, tokens_per_batch=3, max_seconds=1000.0)

        async def ask(name: str, count: int) -> None:
            await one.score(pairs(*["a"] * count))
            done.append(name)

        one.start()
        asked = [asyncio.create_task(ask("first", 1))]
        await until_scoring(scorer)
        one._tokens_per_second = tokens_per_second
        for number, (name, count) in enumerate([("large", 20), ("small", 1), ("larger", 30)], 1):
            asked.append(asyncio.create_task(ask(name, count)))
            while len(one._queue) < number:
                await asyncio.sleep(0.002)
        scorer.gate.set()
        await asyncio.gather(*asked)
        await one.stop()

    asyncio.run(work())
    assert done == ["first", *expected]


def by_padding(budget: int, padding: int) -> Fits:
    """The rule of padded batches: so many tokens at most, so many of padding."""
    return lambda num_pairs, num_tokens, longest: (
        num_pairs * longest <= budget and num_pairs * longest - num_tokens <= padding
    )


def test_batches_of_one_request_are_those_that_its_scorer_would_make() -> None:
    scorer = WordScorer(VALUES)
    counts = [9, 9, 8, 8, 7, 3, 3, 2, 1, 1, 30, 28]
    run(scorer, [pairs(*["a " * count for count in counts])], fits=by_padding(40, 5))
    assert scorer.batches == [[32], [30], [11, 11, 10], [10, 9], [5, 5, 4, 3, 3]]


def test_others_fill_up_a_padded_batch_with_pairs_of_its_length() -> None:
    scorer = WordScorer(VALUES)
    requests = [pairs("a a a a", "a a a a"), pairs("a " * 20, "a a a", "a a a a")]
    assert run(scorer, requests, fits=by_padding(40, 5), wait_seconds=0.2) == [[4.0, 4.0], [20.0, 3.0, 4.0]]
    assert scorer.batches == [[6, 6, 6, 5], [22]]


def test_long_texts_are_tokenized_a_piece_at_a_time() -> None:
    scorer = WordScorer(VALUES)
    calls: list[int] = []
    encode = scorer.encoder.encode
    scorer.encoder.encode = lambda some: calls.append(len(some)) or encode(some)
    long = "a " * 30_000
    assert run(scorer, [pairs("b", long, long, "c", "a")]) == [[2.0, 30_000.0, 30_000.0, 4.0, 1.0]]
    assert calls == [2, 3]


def test_a_score_that_is_no_number_is_a_failure() -> None:
    async def work() -> None:
        one = batcher(WordScorer({"a": float("nan")}))
        one.start()
        with pytest.raises(ArithmeticError, match="finite"):
            await one.score(pairs("a"))
        await one.stop()

    asyncio.run(work())


def test_stopping_finishes_what_was_taken_and_takes_nothing_more() -> None:
    async def work() -> None:
        one = batcher(WordScorer(VALUES, seconds=0.02), tokens_per_batch=3)
        assert not one.is_open
        one.start()
        assert one.is_open
        taken = [asyncio.create_task(one.score(pairs("a", "b"))) for _ in range(3)]
        await asyncio.sleep(0)
        stopping = asyncio.create_task(one.stop())
        await asyncio.sleep(0)
        assert not one.is_open
        with pytest.raises(Stopped, match="stopping"):
            await one.score(pairs("a"))
        assert [found.scores.tolist() for found in await asyncio.gather(*taken)] == [[1.0, 2.0]] * 3
        await stopping

    asyncio.run(work())


def test_many_requests_of_all_sizes() -> None:
    random = np.random.default_rng(0)
    words = np.array(["a", "b", "c", "x"])
    requests = [
        pairs(*[" ".join(random.choice(words, random.integers(0, 30))) for _ in range(random.integers(1, 12))])
        for _ in range(20)
    ]
    found = run(WordScorer(VALUES), requests)
    expected = [[sum(VALUES.get(word, 0.0) for word in pair.summary.split()) for pair in each] for each in requests]
    assert found == expected


def test_threads_are_those_of_the_forward_pass() -> None:
    class Threads(WordScorer):
        def score_tokens(self, tokens: Any) -> Any:
            return np.full(len(tokens), torch.get_num_threads(), dtype=np.float32)

    before = torch.get_num_threads()

    async def work() -> float:
        one = batcher(Threads(VALUES), threads=3)
        one.start()
        found = await one.score(pairs("a"))
        await one.stop()
        return float(found.scores[0])

    try:
        assert asyncio.run(work()) == 3.0
    finally:
        torch.set_num_threads(before)
