"""The HTTP application: paths, limits, status codes.

    POST /rerank      text-embeddings-inference's shape if the body has `texts`, else Jina's and vLLM's
    POST /v1/rerank   Jina, vLLM, Cohere v1
    POST /v2/rerank   Cohere v2
    GET  /health  /ready  /metrics  /openapi.json  /docs

Bad input is answered with 4xx and a message: 400 no JSON, 404 another model or path, 408 a body that does not come, 413
beyond a limit, 422 not the shape, 429 too much at once; 503 when an answer took too long or the server is stopping.  It
knows no model; those are handed over in a `Reranker`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import disranker
from disranker.config.serve import LimitsConfig
from disranker.serve.batching import QueueFull, Stopped
from disranker.serve.metrics import Metrics
from disranker.serve.protocol import (
    AnyRequest,
    DocumentsAnswer,
    DocumentsRequest,
    ErrorAnswer,
    Ready,
    TextResult,
    TextsRequest,
    documents_answer,
    error_answer,
    texts_answer,
    to_pair,
)
from disranker.serve.reranker import Ranked, Reranker

_KINDS = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    422: "validation",
    429: "overloaded",
    500: "internal",
    503: "unavailable",
}
_CLIENT_GONE = 499
"""nginx's number for this; nobody reads the answer, only the metrics have it."""
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": _KINDS[status].replace("_", " ")}
    for status in (400, 404, 408, 413, 422, 429, 500, 503)
}
_ARMS = ("string", "object")
"""What pydantic puts into the place of a fault to say how it read a document."""
_SHOWN_FAULTS = 5
"""Faults of a body that a message lists."""


class Refusal(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def create_app(reranker: Reranker, *, name: str, backend: str, limits: LimitsConfig) -> ASGIApp:
    """The application that ranks with `reranker`, whom it starts and stops; clients may call its model `name`.

    `backend` is what `/ready` says of where scores come from.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        reranker.start()
        yield
        await reranker.stop()

    app = FastAPI(
        title="disranker",
        version=disranker.__version__,
        description=f"Reranking with {name}.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    _add_handlers(app, limits)

    async def rank(body: TextsRequest | DocumentsRequest, request: Request) -> Ranked:
        _check(body, limits, name)
        work = reranker.rank([to_pair(body.query, item) for item in body.items])
        return await _while_wanted(work, request, limits.seconds)

    async def answer_documents(body: DocumentsRequest, request: Request, version: Literal["1", "2"]) -> DocumentsAnswer:
        ranked = await rank(body, request)
        return documents_answer(
            body, ranked.order, ranked.scores, model=name, num_tokens=ranked.num_tokens, version=version
        )

    post: dict[str, Any] = {
        "response_model_exclude_none": True,
        "responses": _REFUSALS,
        "max_body_size": limits.body_bytes,
    }

    @app.post("/rerank", **post)
    async def rerank(body: AnyRequest, request: Request) -> list[TextResult] | DocumentsAnswer:
        """Rank `texts` (text-embeddings-inference) or `documents` (Jina, vLLM)."""
        if isinstance(body, DocumentsRequest):
            return await answer_documents(body, request, "1")
        ranked = await rank(body, request)
        return texts_answer(body, ranked.order, ranked.scores)

    @app.post("/v1/rerank", **post)
    async def rerank_v1(body: DocumentsRequest, request: Request) -> DocumentsAnswer:
        """Rank `documents` (Jina, vLLM, Cohere v1)."""
        return await answer_documents(body, request, "1")

    @app.post("/v2/rerank", **post)
    async def rerank_v2(body: DocumentsRequest, request: Request) -> DocumentsAnswer:
        """Rank `documents` (Cohere v2)."""
        return await answer_documents(body, request, "2")

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"model": Ready}})
    async def ready(response: Response) -> Ready:
        """Whether requests are taken."""
        response.status_code = 200 if reranker.student.is_open else 503
        return Ready(status="ready" if reranker.student.is_open else "stopping", model=name, backend=backend)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """What happened so far, for Prometheus."""
        return Response(reranker.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    paths = {path for route in app.routes if isinstance(path := getattr(route, "path", None), str)}
    return _Gate(app, reranker.metrics, paths, limits)


async def _while_wanted(work: Coroutine[Any, Any, Ranked], request: Request, seconds: float) -> Ranked:
    """What `work` returns; it is given up when time is over or the client has hung up, so that others have its turn."""
    ranking = asyncio.create_task(work)
    gone = asyncio.create_task(_wait_for_the_end(request))
    try:
        done, _ = await asyncio.wait((ranking, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if ranking in done:
            return ranking.result()
        if gone in done:
            raise Refusal(_CLIENT_GONE, "the client has hung up")
        raise TimeoutError
    finally:
        ranking.cancel()
        gone.cancel()
        await asyncio.gather(ranking, gone, return_exceptions=True)


async def _wait_for_the_end(request: Request) -> None:
    # The body has been read by now, so there is nothing else to come.
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check(body: TextsRequest | DocumentsRequest, limits: LimitsConfig, name: str) -> None:
    """Refuse what cannot be scored, or is too much."""
    # TEI's clients send names of their own, which its shape does not have.
    if isinstance(body, DocumentsRequest) and body.model not in (None, "", name):
        raise Refusal(404, f"model {_shown(body.model)} is not served here; {name!r} is")
    if not body.query.strip():
        raise Refusal(422, "query is empty: there is nothing to rank by")
    if len(body.query) > limits.query_chars:
        raise Refusal(413, f"query has {len(body.query):,} characters, and {limits.query_chars:,} are allowed")
    if len(body.items) > limits.documents:
        raise Refusal(413, _too_many(len(body.items), limits))
    for index, item in enumerate(body.items):
        pair = to_pair("", item)
        if (length := len(pair.title) + len(pair.summary)) > limits.document_chars:
            raise Refusal(
                413, f"document {index} has {length:,} characters, and {limits.document_chars:,} are allowed: cut it"
            )


def _add_handlers(app: FastAPI, limits: LimitsConfig) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return _refuse(error.status, str(error))

    @app.exception_handler(RequestValidationError)
    async def not_the_shape(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = error.errors()
        if any(fault["type"] == "json_invalid" for fault in faults):
            return _refuse(400, "the body is no JSON that can be read")
        for fault in faults:
            if fault["type"] == "too_long":
                return _refuse(413, _too_many(fault["ctx"]["actual_length"], limits))
        return _refuse(422, _describe(faults, in_union=request.url.path == "/rerank"))

    @app.exception_handler(AnyHTTPException)
    async def not_http(request: Request, error: AnyHTTPException) -> JSONResponse:
        messages = {
            400: "the body is no JSON that can be read",
            404: f"there is no {_shown(request.url.path)} here; POST /rerank is, and GET /docs",
            413: _too_long(limits.body_bytes),
        }
        return _refuse(error.status_code, messages.get(error.status_code, str(error.detail)), error.headers)

    @app.exception_handler(QueueFull)
    async def full(request: Request, error: QueueFull) -> JSONResponse:
        return _refuse(429, str(error), {"Retry-After": str(error.retry_after)})

    @app.exception_handler(Stopped)
    async def stopped(request: Request, error: Stopped) -> JSONResponse:
        return _refuse(503, str(error))

    @app.exception_handler(TimeoutError)
    async def late(request: Request, error: TimeoutError) -> JSONResponse:
        return _refuse(
            503, "there were no scores in time: send fewer documents, or come back later", {"Retry-After": "1"}
        )

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return _refuse(500, f"the ranker failed ({type(error).__name__}); the server's log says more")


def _refuse(status: int, message: str, headers: Any = None) -> JSONResponse:
    kind = _KINDS.get(status, "error")
    return JSONResponse(error_answer(kind, message).model_dump(), status, headers=headers)


def _describe(faults: Sequence[Any], *, in_union: bool) -> str:
    """What is wrong with a body, fault by fault; no value of it is repeated, for it may be large or not printable."""
    lines = []
    for fault in faults[:_SHOWN_FAULTS]:
        # body, then which arm of the union was read, then the field; after an index, which kind of document.
        path = [str(part) for part in fault["loc"][1:]]
        if in_union:
            path = path[1:]
        path = [part for at, part in enumerate(path) if not (at and path[at - 1].isdigit() and part in _ARMS)]
        message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        if fault["type"] == "model_attributes_type" or not path:
            message = "must be a JSON object, sent as application/json" if not path else "must be an object"
        lines.append(f"{'.'.join(path) or 'body'}: {message}")
    more = len(faults) - len(lines)
    return "; ".join(lines) + (f"; and {more:,} more" if more > 0 else "")


def _too_long(max_bytes: int) -> str:
    return f"the body has more than the {max_bytes:,} bytes that are allowed: send fewer documents at once"


def _too_many(num_documents: int, limits: LimitsConfig) -> str:
    return f"{num_documents:,} documents, and {limits.documents:,} are allowed: send fewer at once"


def _shown(text: str | None) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:77]}…'"


class _Gate:
    """Tells the metrics of every request, and turns away what is too much before it is read, or comes too slowly."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: set[str], limits: LimitsConfig) -> None:
        self.app = app
        self.metrics = metrics
        self.paths = paths
        self.limits = limits
        self.num_running = 0
        """Requests with a body that have no answer yet."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Any path may be asked for, and each would be a time series of its own.
        path = scope["path"] if scope["path"] in self.paths else "other"
        began = time.perf_counter()
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        # Health and metrics are there for whoever wants to know why others are turned away.
        counts = scope["method"] == "POST"
        refusal = self._refuse(scope, counts)
        self.num_running += counts
        try:
            await (refusal or self.app)(scope, self._in_time(receive), watch)
        finally:
            self.num_running -= counts
            self.metrics.request(path, status, time.perf_counter() - began)

    def _refuse(self, scope: Scope, counts: bool) -> ASGIApp | None:
        # A body that does not say its length is cut short where it is read.
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self.limits.body_bytes:
            return _refuse(413, _too_long(self.limits.body_bytes))
        if counts and self.num_running >= self.limits.requests:
            message = f"{self.num_running:,} requests are here, and no more may be at once: come back in a moment"
            return _refuse(429, message, {"Retry-After": "1"})
        return None

    def _in_time(self, receive: Receive) -> Receive:
        """What receives the body, as long as that does not take too long; what comes after it may take any time."""
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        is_whole = False

        async def receive_in_time() -> Message:
            nonlocal is_whole
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                late = f"the body did not come within {self.limits.seconds:g} s"
                raise HTTPException(408, late, {"Connection": "close"}) from None
            is_whole = not message.get("more_body", False)
            return message

        return receive_in_time
