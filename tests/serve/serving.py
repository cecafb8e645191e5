"""What the tests of the server share: a scorer that needs no model, and an application over it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
import uvicorn
from numpy.typing import NDArray

from disranker.config.serve import LimitsConfig, ServedCascadeConfig
from disranker.schema import Pair
from disranker.serve.app import create_app
from disranker.serve.batch import by_tokens
from disranker.serve.batching import Batcher
from disranker.serve.metrics import Metrics
from disranker.serve.reranker import Reranker
from disranker.serve.run import make_server
from disranker.text.encode import Tokens


class WordScorer:
    """Scores a pair by the sum of `values` of the document's words; a word is a token, and 2 more are special."""

    def __init__(self, values: dict[str, float] | None = None, *, seconds: float = 0.0) -> None:
        self.values = values or {}
        self.seconds = seconds
        self.gate = threading.Event()
        """While it is not set, what is being scored is not ready."""
        self.gate.set()
        self.batches: list[list[int]] = []
        """Lengths of what was scored at once."""
        self.encoder: Any = SimpleNamespace(encode=self._encode)

    def _encode(self, pairs: Sequence[Pair]) -> list[Tokens]:
        texts = [f"{pair.title} {pair.summary}".split() for pair in pairs]
        known = list(self.values)
        return [
            Tokens(np.array([-1, *(known.index(word) if word in known else -1 for word in text), -1]), 1, 0)
            for text in texts
        ]

    def score_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        self.batches.append([len(one.ids) for one in tokens])
        time.sleep(self.seconds)
        assert self.gate.wait(60)
        if any(self.values.get("broken") is not None and list(self.values).index("broken") in t.ids for t in tokens):
            raise RuntimeError("the model broke")
        values = [*self.values.values(), 0.0]
        return np.array([sum(values[index] for index in one.ids) for one in tokens], dtype=np.float32)


async def until_scoring(scorer: WordScorer) -> None:
    """Wait until a batch is being scored."""
    while not scorer.batches:
        await asyncio.sleep(0.002)


def batcher(scorer: Any, *, tokens_per_batch: int = 64, **changed: Any) -> Batcher:
    """A batcher with small limits, whose batches are filled by tokens unless told otherwise (`fits`)."""
    settings: dict[str, Any] = {"fits": by_tokens(tokens_per_batch), "wait_seconds": 0.0}
    settings |= {"max_queued_pairs": 200, "max_seconds": 60.0}
    return Batcher(scorer, **{**settings, **changed})


@asynccontextmanager
async def client(
    scorer: Any,
    *,
    limits: LimitsConfig | None = None,
    cascade: ServedCascadeConfig | None = None,
    teacher: Any = None,
    **changed: Any,
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a running application over this scorer; an error that is no answer is raised in the test."""
    metrics = Metrics()
    reranker = Reranker(
        batcher(scorer, observer=metrics.of_ranker("student"), **changed),
        metrics,
        cascade=cascade,
        teacher=None if teacher is None else batcher(teacher, observer=metrics.of_ranker("teacher")),
    )
    app = create_app(reranker, name="ours", backend="words", limits=limits or LimitsConfig(queued_pairs=2000))
    reranker.start()
    try:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://server") as one:
            yield one
    finally:
        await reranker.stop()


class Listening:
    """A server on a socket of its own, in a thread."""

    def __init__(self, server: uvicorn.Server) -> None:
        bound = socket.create_server(("127.0.0.1", 0))
        self.port = bound.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = server
        self._thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        self._thread.start()
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)

    def stop(self) -> None:
        """What a signal does."""
        self._server.should_exit = True

    def join(self) -> None:
        """Wait until it has stopped."""
        self._thread.join(60)
        assert not self._thread.is_alive()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextmanager
def listening(scorer: Any, *, limits: LimitsConfig | None = None, stop_seconds: int = 5) -> Iterator[Listening]:
    """A running server over this scorer, which is stopped at the end."""
    metrics = Metrics()
    limits = limits or LimitsConfig(queued_pairs=2000)
    reranker = Reranker(batcher(scorer, max_queued_pairs=limits.queued_pairs), metrics)
    app = create_app(reranker, name="ours", backend="words", limits=limits)
    server = Listening(make_server(app, limits=limits, stop_seconds=stop_seconds))
    try:
        yield server
    finally:
        server.stop()
        server.join()
