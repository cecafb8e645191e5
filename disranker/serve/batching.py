"""Dynamic batching: the pairs of all requests in one queue, scored in batches that the scorer itself would make.

Texts are tokenized in one thread and scored in another, so the event loop only hands over.  While one batch is scored
the next one gathers; a batch that is not full waits a moment for other requests.  The queue has a bound, and what it
could not do in time it refuses at once.  A request's turn is set by when it came and by how long it takes: small ones
overtake a large one, but none that come later than it would have been done by itself.  A request that has its batches
to itself gets the very scores that the scorer gives it offline.  What is scored and why is not decided here.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from disranker.schema import Pair
from disranker.serve.batch import Batch, Fits, Request
from disranker.text.encode import PairEncoder, Tokens

_CHARS_AT_ONCE = 100_000
"""Characters of a request that are tokenized in one go, about a tenth of a second; then others have a turn."""
_MEMORY = 0.9
"""Weight of what was known of the speed before, when a batch is measured."""


class TokenScorer(Protocol):
    """Whatever scores encoded pairs: `Scorer`, `ExportScorer`."""

    encoder: PairEncoder

    def score_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]: ...


class Observer(Protocol):
    """Is told of every batch."""

    def batch(self, num_pairs: int, num_tokens: int, num_requests: int, seconds: float) -> None: ...


class QueueFull(Exception):
    """The queue has no room for this request, or no time."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which there will be room for this one and for others."""


class Stopped(Exception):
    """The batcher takes no requests any more."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a request."""

    scores: NDArray[np.float32]
    """[pairs] raw logits, in the order of the pairs"""
    num_tokens: int
    """tokens of all its pairs as the model read them"""


class Batcher:
    """Scores the pairs of many requests with one scorer; start it in the event loop that the requests come from."""

    def __init__(
        self,
        scorer: TokenScorer,
        *,
        fits: Fits,
        wait_seconds: float,
        max_queued_pairs: int,
        max_seconds: float,
        threads: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.scorer = scorer
        self.fits = fits
        self.wait_seconds = wait_seconds
        self.max_queued_pairs = max_queued_pairs
        self.max_seconds = max_seconds
        """What whoever asks would wait at most: a request that will take longer is refused when it comes."""
        self.num_queued_pairs = 0
        """Pairs of requests that have no answer yet."""
        self._observer = observer
        self._queue: list[Request] = []
        self._tokens_per_second: float | None = None
        self._num_tokens_running = 0
        self._changed = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        # One thread each: a tokenizer is not safe in two, and two forward passes at once would share the same cores.
        self._tokenizing = ThreadPoolExecutor(1, "tokenize")
        self._scoring = ThreadPoolExecutor(
            1, "score", initializer=None if threads is None else lambda: torch.set_num_threads(threads)
        )

    @property
    def is_open(self) -> bool:
        """Whether requests are taken."""
        return self._task is not None and not self._task.done() and not self._stopping

    def start(self) -> None:
        """Begin to score what is queued."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Take no new requests, finish those that were taken, and end the threads."""
        self._stopping = True
        self._changed.set()
        if self._task is not None:
            await self._task
        self._tokenizing.shutdown()
        self._scoring.shutdown()

    async def score(self, pairs: Sequence[Pair]) -> Scored:
        """The scores of a request's pairs, once it has its turn; whoever is cancelled leaves the queue.

        Raises:
            QueueFull: there is no room for so many pairs, or no time.
            Stopped: the batcher is stopping.
        """
        if not self.is_open:
            raise Stopped("the server is stopping; ask another one")
        if self.num_queued_pairs + len(pairs) > self.max_queued_pairs:
            raise QueueFull(
                f"{self.num_queued_pairs:,} documents are waiting, and no more than {self.max_queued_pairs:,} may: "
                "come back in a moment",
                self._half_done_in(self._queue),
            )
        self.num_queued_pairs += len(pairs)
        loop = asyncio.get_running_loop()
        request: Request | None = None
        try:
            tokens: list[Tokens] = []
            for chunk in _chunks(pairs):
                tokens += await loop.run_in_executor(self._tokenizing, self.scorer.encoder.encode, chunk)
            num_tokens = sum(len(one.ids) for one in tokens)
            arrived = loop.time()
            request = Request(
                tokens,
                left=sorted(range(len(tokens)), key=lambda index: -len(tokens[index].ids)),
                arrived=arrived,
                turn=arrived + (num_tokens / self._tokens_per_second if self._tokens_per_second else 0.0),
                done=loop.create_future(),
                scores=np.empty(len(tokens), dtype=np.float32),
            )
            self._refuse_what_comes_too_late(request)
            insort(self._queue, request, key=lambda one: one.turn)
            self._changed.set()
            await request.done
            return Scored(request.scores, num_tokens)
        finally:
            self.num_queued_pairs -= len(pairs)
            if request is not None:
                self._drop([request])
            # The last one that was waited for may be gone.
            self._changed.set()

    def _refuse_what_comes_too_late(self, request: Request) -> None:
        """Raise QueueFull for what nobody would wait for, before work goes into it that others wait for."""
        before = [one for one in self._queue if one.turn <= request.turn]
        # With nothing before it, it is always taken: a speed that was measured in a bad moment would stay for good.
        if not before or self._tokens_per_second is None:
            return
        seconds = self._seconds([*before, request])
        if seconds > self.max_seconds:
            raise QueueFull(
                f"this would take {seconds:.0f} seconds with what waits before it, and may take no more than "
                f"{self.max_seconds:g}: come back in a moment",
                self._half_done_in(before),
            )

    def _seconds(self, requests: Iterable[Request]) -> float:
        """How long it takes to score what is left of them after the batch that is scored now; 0 as long as unknown."""
        if self._tokens_per_second is None:
            return 0.0
        num_tokens = sum(request.length(index) for request in requests for index in request.left)
        return (self._num_tokens_running + num_tokens) / self._tokens_per_second

    def _half_done_in(self, requests: Iterable[Request]) -> int:
        """Whole seconds until half of them are scored: room for all who are turned away, and work until they come."""
        return max(1, round(self._seconds(requests) / 2))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        before: float | None = None  # when the last batch ended, if others were waiting by then
        while await self._gather():
            batch = self._take()
            self._num_tokens_running = batch.num_tokens
            began = loop.time()
            try:
                scores = await loop.run_in_executor(self._scoring, self.scorer.score_tokens, batch.tokens)
                if not np.isfinite(scores).all():
                    raise ArithmeticError("the model gave a score that is not a finite number")
            except Exception as error:
                # It belongs to the requests of this batch; the next one may be sound.
                self._fail([request for request, _ in batch.parts], error)
                before = None
                continue
            finally:
                self._num_tokens_running = 0
            ended = loop.time()
            # Whoever waits, waits for what happens between two batches, too.
            self._learn_speed(batch.num_tokens / max(ended - (before or began), 1e-6))
            before = ended if self._queue else None
            if self._observer is not None:
                self._observer.batch(len(scores), batch.num_tokens, len(batch.parts), ended - began)
            self._deliver(batch, scores)

    async def _gather(self) -> bool:
        """Wait until a batch is full or its oldest request has waited enough; False when all is done."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            # Checked in this order: a request that is being tokenized counts as taken, and comes into the queue yet.
            if self._stopping and not self.num_queued_pairs:
                return False
            if self._queue:
                left = min(request.arrived for request in self._queue) + self.wait_seconds - loop.time()
                if left <= 0 or self._stopping or self._is_full():
                    return True
            else:
                left = None
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                continue

    def _is_full(self) -> bool:
        """Whether what waits is a batch that has no room for one more as long as its longest: nothing to wait for."""
        batch = Batch(self.fits)
        for request in self._queue:
            for index in request.left:
                length = request.length(index)
                if not batch.has_room(length) or not self.fits(1, length, length):
                    return True
                batch.num_pairs, batch.num_tokens = batch.num_pairs + 1, batch.num_tokens + length
                batch.longest = max(batch.longest, length)
        return not batch.has_room(batch.longest)

    def _take(self) -> Batch:
        """The pairs that are scored next: what fits of the request whose turn it is, filled up with others'."""
        batch = Batch(self.fits)
        for request in self._queue:
            batch.take(request)
        self._drop(request for request in self._queue if not request.left)
        return batch

    def _drop(self, requests: Iterable[Request]) -> None:
        gone = set(requests)
        self._queue = [request for request in self._queue if request not in gone]

    def _learn_speed(self, tokens_per_second: float) -> None:
        before = self._tokens_per_second
        self._tokens_per_second = (
            tokens_per_second if before is None else _MEMORY * before + (1 - _MEMORY) * tokens_per_second
        )

    def _fail(self, requests: Sequence[Request], error: Exception) -> None:
        self._drop(requests)
        for request in requests:
            if not request.done.done():
                request.done.set_exception(error)

    def _deliver(self, batch: Batch, scores: NDArray[np.float32]) -> None:
        at = 0
        for request, indices in batch.parts:
            request.scores[indices] = scores[at : at + len(indices)]
            request.num_scored += len(indices)
            at += len(indices)
            if request.num_scored == len(request.tokens) and not request.done.done():
                request.done.set_result(None)


def _chunks(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Consecutive pairs, so many that they have no more characters than are tokenized in one go; at least one."""
    chunk: list[Pair] = []
    filled = 0
    for pair in pairs:
        size = sum(map(len, pair))
        if chunk and filled + size > _CHARS_AT_ONCE:
            yield chunk
            chunk, filled = [], 0
        chunk.append(pair)
        filled += size
    if chunk:
        yield chunk
