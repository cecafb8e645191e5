"""`disranker serve PATH`: load a ranker, warm it up, listen until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from disranker import dist
from disranker.config.serve import LimitsConfig, ServeConfig
from disranker.export.manifest import MANIFEST_NAME
from disranker.export.scorer import ExportScorer
from disranker.models.scorer import DEFAULT_TOKENS_PER_BATCH, Scorer
from disranker.schema import Pair
from disranker.serve.batch import by_tokens
from disranker.serve.batching import Batcher

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

_KEEP_ALIVE_SECONDS = 75
"""Idle connections live longer than those of the usual proxies (60 s): who closes first must not be the server, or a
request that is under way is lost."""
_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def main(argv: list[str] | None = None) -> int:
    """Serve as the command line says; the first argument may be the path alone."""
    arguments = list(argv or ())
    if arguments and not arguments[0].startswith("-"):
        arguments.insert(0, "--path")
    return serve(ServeConfig.load(arguments, prog="disranker serve", description="A ranker behind HTTP."))


def serve(config: ServeConfig) -> int:
    """Answer requests until a signal ends it; running requests are finished first.

    Raises:
        ValueError: the path holds no ranker, or the address cannot be listened on.
        ImportError: the packages of the extra `serve` are not installed.
    """
    if lacking := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ImportError(f"{', '.join(lacking)} is not installed: pip install 'disranker[serve]'")
    from disranker.serve.app import create_app
    from disranker.serve.metrics import Metrics
    from disranker.serve.reranker import Reranker

    # Threads of the tokenizer would take the cores from the forward pass; there is one thread for it already.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    check_settings(config)
    listening = bind(config.host, config.port)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    name = config.name or config.path.resolve().name
    print(f"serving {config.path} as {name!r}:", flush=True)
    metrics = Metrics()
    scorer = load_scorer(config.path, config, config.variant)
    backend = describe_backend(scorer)
    metrics.backend("student", backend)
    print(f"  ranker   {backend}; {warm_up(scorer, tokens_per_batch(config))}", flush=True)
    teacher = None
    if config.cascade is not None and config.cascade.teacher is not None:
        looker = load_scorer(config.cascade.teacher, config)
        teacher = make_batcher(looker, config, config.cascade.seconds, metrics.of_ranker("teacher"))
        metrics.backend("teacher", describe_backend(looker))
        print(f"  teacher  {describe_backend(looker)}; {warm_up(looker, tokens_per_batch(config))}", flush=True)
    if config.cascade is not None:
        told = config.cascade
        kept = f"; kept in {told.uncertain_file}" if told.uncertain_file else ""
        print(f"  cascade  {told.rule} up to {told.threshold:g}, at most {told.documents} documents of a request{kept}")
    reranker = Reranker(
        make_batcher(scorer, config, config.limits.seconds, metrics.of_ranker("student")),
        metrics,
        cascade=config.cascade,
        teacher=teacher,
    )
    app = create_app(reranker, name=name, backend=backend, limits=config.limits)
    server = make_server(app, limits=config.limits, stop_seconds=config.stop_seconds)
    host, port = listening.getsockname()[:2]
    print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}  (POST /rerank, GET /docs)", flush=True)
    # uvicorn stops gracefully and then raises the signal once more; a stop that was asked for is no failure.
    before = {number: signal.signal(number, _ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(f"stopped after ranking {metrics.num_documents:,} documents")
    return 0


def check_settings(config: ServeConfig) -> None:
    """Refuse settings that nothing of what is served would heed.

    Raises:
        ValueError: it says which one, and why.
    """
    teacher = None if config.cascade is None else config.cascade.teacher
    if config.variant is not None and not is_export(config.path):
        raise ValueError(f"variant = {config.variant}: {config.path} is a bundle; exports have variants")
    if all(is_export(path) for path in (config.path, teacher) if path is not None):
        for name in ("dtype", "tokens_per_batch"):
            if (value := getattr(config, name)) != ServeConfig.model_fields[name].default:
                raise ValueError(
                    f"{name} = {value}: {config.path} is an export, whose types and batches were settled when it was "
                    "made; choose a variant of it, or serve the bundle"
                )


def is_export(path: Path) -> bool:
    """Whether the folder is an export, which is a bundle, too, but is not scored with torch."""
    return (path / MANIFEST_NAME).exists()


def load_scorer(path: Path, config: ServeConfig, variant: str | None = None) -> Scorer | ExportScorer:
    """The scorer of an export, or of a bundle on this process' device.

    Raises:
        ValueError: the folder is neither, or has no such variant.
    """
    if is_export(path):
        return ExportScorer.load(path, variant, config.threads)
    return Scorer.load(path, dtype=config.dtype, tokens_per_batch=config.tokens_per_batch)


def describe_backend(scorer: Scorer | ExportScorer) -> str:
    """What computes the scores, where, in which type, and how large it is."""
    size = f"{scorer.num_parameters / 1e6:,.1f} M parameters"
    if isinstance(scorer, ExportScorer):
        return f"{scorer.runtime}, variant {scorer.variant}, cpu, {size}"
    weight = next(scorer.ranker.parameters())
    return f"torch, {weight.device.type}, {str(weight.dtype).removeprefix('torch.')}, {size}"


def tokens_per_batch(config: ServeConfig) -> int:
    """Tokens of a forward pass, by the settings or by the device."""
    return config.tokens_per_batch or DEFAULT_TOKENS_PER_BATCH[dist.device().type]


def make_batcher(scorer: Scorer | ExportScorer, config: ServeConfig, max_seconds: float, observer: Any) -> Batcher:
    """The queue in front of a scorer."""
    return Batcher(
        scorer,
        fits=scorer.fits if isinstance(scorer, ExportScorer) else by_tokens(tokens_per_batch(config)),
        wait_seconds=config.wait_milliseconds / 1000,
        max_queued_pairs=config.limits.queued_pairs,
        max_seconds=max_seconds,
        threads=config.threads,
        observer=observer,
    )


def warm_up(scorer: Scorer | ExportScorer, num_tokens: int) -> str:
    """Score one short pair and full batches of long ones, so that no client waits for what happens once; the speed."""
    scorer.score([Pair("a", "b", "c")])
    longest = scorer.encoder.max_tokens
    pairs = [Pair("a", "b", "c " * longest)] * max(1, num_tokens // longest)
    scorer.score(pairs)
    began = time.perf_counter()
    scorer.score(pairs)
    speed = len(pairs) * longest / (time.perf_counter() - began)
    return f"full batches at {speed:,.0f} tokens/s"


def make_server(app: ASGIApp, *, limits: LimitsConfig, stop_seconds: int) -> uvicorn.Server:
    """The HTTP server in front of the application; when it stops, running requests have so much time."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=impatient(limits.seconds),
            log_level="warning",
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=stop_seconds,
        )
    )


def bind(host: str, port: int) -> socket.socket:
    """A socket that has the address but does not listen yet: a port that is taken is found before anything is loaded.

    Raises:
        ValueError: the address cannot be had.
    """
    bound = None
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        if bound is not None:
            bound.close()
        raise ValueError(f"cannot listen on {host}, port {port}: {error}; give another host or port") from error
    return bound


def impatient(seconds: float) -> type[asyncio.Protocol]:
    """The HTTP protocol of uvicorn, which closes a new connection that has sent no whole request head in this time.

    By itself it waits for ever, until there are as many such connections as the process may have files.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol

    class Impatient(base):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._close_if_silent)

        def _close_if_silent(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.close()

    return Impatient


def _ignore(number: int, frame: Any) -> None:
    """Nothing: uvicorn has stopped by then."""
