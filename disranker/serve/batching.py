"""Dynamic batching: the pairs of all requests in one queue, scored in batches of so many tokens.

Texts are tokenized in one thread and scored in another, so the event loop only hands over.  While one batch is scored
the next one gathers; a batch that is not full waits a moment for other requests.  The queue has a bound.  A request's
scores do not depend on its neighbours in a batch, but for the last digits of float32: sums of other shapes are added
up in another order.  What is scored and why is not decided here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from disranker.schema import Pair
from disranker.text.encode import PairEncoder, Tokens


class TokenScorer(Protocol):
    """Whatever scores encoded pairs: `Scorer`, `OnnxScorer`."""

    encoder: PairEncoder

    def score_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]: ...


class Observer(Protocol):
    """Is told of every batch."""

    def batch(self, num_pairs: int, num_tokens: int, num_requests: int, seconds: float) -> None: ...


class QueueFull(Exception):
    """The queue has no room for this request."""


class Stopped(Exception):
    """The batcher takes no requests any more."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a request."""

    scores: NDArray[np.float32]
    """[pairs] raw logits, in the order of the pairs"""
    num_tokens: int
    """tokens of all its pairs as the model read them"""


@dataclass(slots=True, eq=False)
class _Request:
    """A request in the queue; its pairs wait longest first, so that neighbours in a batch are about equally long."""

    tokens: list[Tokens]
    order: list[int]
    arrived: float
    done: asyncio.Future[None]
    scores: NDArray[np.float32]
    num_taken: int = 0
    num_scored: int = 0


@dataclass(slots=True)
class _Batch:
    parts: list[tuple[_Request, list[int]]] = field(default_factory=list)
    num_tokens: int = 0

    @property
    def tokens(self) -> list[Tokens]:
        return [request.tokens[index] for request, indices in self.parts for index in indices]


class Batcher:
    """Scores the pairs of many requests with one scorer; start it in the event loop that the requests come from."""

    def __init__(
        self,
        scorer: TokenScorer,
        *,
        tokens_per_batch: int,
        wait_seconds: float,
        max_queued_pairs: int,
        threads: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.scorer = scorer
        self.tokens_per_batch = tokens_per_batch
        self.wait_seconds = wait_seconds
        self.max_queued_pairs = max_queued_pairs
        self.num_queued_pairs = 0
        """Pairs of requests that have no answer yet."""
        self._observer = observer
        self._queue: deque[_Request] = deque()
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
            QueueFull: there is no room for so many pairs.
            Stopped: the batcher is stopping.
        """
        if not self.is_open:
            raise Stopped("the server is stopping; ask another one")
        if self.num_queued_pairs + len(pairs) > self.max_queued_pairs:
            raise QueueFull(
                f"{self.num_queued_pairs:,} documents are waiting, and no more than {self.max_queued_pairs:,} may: "
                "come back in a moment"
            )
        self.num_queued_pairs += len(pairs)
        loop = asyncio.get_running_loop()
        request: _Request | None = None
        try:
            tokens = await loop.run_in_executor(self._tokenizing, self.scorer.encoder.encode, list(pairs))
            request = _Request(
                tokens,
                order=sorted(range(len(tokens)), key=lambda index: -len(tokens[index].ids)),
                arrived=loop.time(),
                done=loop.create_future(),
                scores=np.empty(len(tokens), dtype=np.float32),
            )
            self._queue.append(request)
            self._changed.set()
            await request.done
            return Scored(request.scores, sum(len(one.ids) for one in tokens))
        finally:
            self.num_queued_pairs -= len(pairs)
            if request is not None and request in self._queue:
                self._queue.remove(request)
            # The last one that was waited for may be gone.
            self._changed.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while await self._gather():
            batch = self._take()
            began = loop.time()
            try:
                scores = await loop.run_in_executor(self._scoring, self.scorer.score_tokens, batch.tokens)
                if not np.isfinite(scores).all():
                    raise ArithmeticError("the model gave a score that is not a finite number")
            except Exception as error:
                # It belongs to the requests of this batch; the next one may be sound.
                for request, _ in batch.parts:
                    _fail(request, error)
                continue
            if self._observer is not None:
                self._observer.batch(len(scores), batch.num_tokens, len(batch.parts), loop.time() - began)
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
                left = self._queue[0].arrived + self.wait_seconds - loop.time()
                if left <= 0 or self._stopping or self._is_full():
                    return True
            else:
                left = None
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                continue

    def _is_full(self) -> bool:
        waiting = 0
        for request in self._queue:
            for index in request.order[request.num_taken :]:
                waiting += len(request.tokens[index].ids)
                if waiting >= self.tokens_per_batch:
                    return True
        return False

    def _take(self) -> _Batch:
        """The pairs of the oldest requests that fit a batch; a pair that is longer than a batch stands alone."""
        batch = _Batch()
        while self._queue:
            request = self._queue[0]
            indices = []
            for index in request.order[request.num_taken :]:
                length = len(request.tokens[index].ids)
                if batch.num_tokens and batch.num_tokens + length > self.tokens_per_batch:
                    break
                indices.append(index)
                batch.num_tokens += length
            if indices:
                batch.parts.append((request, indices))
                request.num_taken += len(indices)
            if request.num_taken < len(request.order):
                break
            self._queue.popleft()
        return batch

    def _deliver(self, batch: _Batch, scores: NDArray[np.float32]) -> None:
        at = 0
        for request, indices in batch.parts:
            request.scores[indices] = scores[at : at + len(indices)]
            request.num_scored += len(indices)
            at += len(indices)
            if request.num_scored == len(request.order) and not request.done.done():
                request.done.set_result(None)


def _fail(request: _Request, error: Exception) -> None:
    if not request.done.done():
        request.done.set_exception(error)
