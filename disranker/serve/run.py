"""`disranker serve PATH`: load a ranker, warm it up, listen until SIGTERM or Ctrl-C."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import torch

from disranker import dist
from disranker.config.serve import ServeConfig
from disranker.export.manifest import MANIFEST_NAME
from disranker.export.scorer import OnnxScorer
from disranker.models.scorer import DEFAULT_TOKENS_PER_BATCH, Scorer
from disranker.schema import Pair
from disranker.serve.batching import Batcher

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
    import uvicorn

    from disranker.serve.app import create_app
    from disranker.serve.metrics import Metrics
    from disranker.serve.reranker import Reranker

    # Threads of the tokenizer would take the cores from the forward pass; there is one thread for it already.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    listening = bind(config.host, config.port)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    name = config.name or config.path.resolve().name
    print(f"serving {config.path} as {name!r}:", flush=True)
    metrics = Metrics()
    scorer = load_scorer(config.path, config)
    backend = describe_backend(scorer)
    print(f"  ranker   {backend}; {warm_up(scorer, tokens_per_batch(config))}", flush=True)
    teacher = None
    if config.cascade is not None and config.cascade.teacher is not None:
        looker = load_scorer(config.cascade.teacher, config)
        teacher = make_batcher(looker, config, metrics.of_ranker("teacher"))
        print(f"  teacher  {describe_backend(looker)}; {warm_up(looker, tokens_per_batch(config))}", flush=True)
    if config.cascade is not None:
        told = config.cascade
        kept = f"; kept in {told.uncertain_file}" if told.uncertain_file else ""
        print(f"  cascade  {told.rule} up to {told.threshold:g}, at most {told.documents} documents of a request{kept}")
    reranker = Reranker(
        make_batcher(scorer, config, metrics.of_ranker("student")), metrics, cascade=config.cascade, teacher=teacher
    )
    app = create_app(reranker, name=name, backend=backend, limits=config.limits)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=config.stop_seconds)
    )
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


def load_scorer(path: Path, config: ServeConfig) -> Scorer | OnnxScorer:
    """The scorer of an export, or of a bundle on this process' device.

    Raises:
        ValueError: the folder is neither, or the settings do not fit what it is.
    """
    if not (path / MANIFEST_NAME).exists():
        return Scorer.load(path, dtype=config.dtype, tokens_per_batch=config.tokens_per_batch)
    if config.dtype != "float32":
        raise ValueError(f"dtype = {config.dtype}: {path} is an export, whose type was settled when it was made")
    return OnnxScorer.load(path, config.threads)


def describe_backend(scorer: Scorer | OnnxScorer) -> str:
    """What computes the scores, where, in which type, and how large it is."""
    size = f"{scorer.num_parameters / 1e6:,.1f} M parameters"
    if isinstance(scorer, OnnxScorer):
        return f"onnxruntime, cpu, {size}"
    weight = next(scorer.ranker.parameters())
    return f"torch, {weight.device.type}, {str(weight.dtype).removeprefix('torch.')}, {size}"


def tokens_per_batch(config: ServeConfig) -> int:
    """Tokens of a forward pass, by the settings or by the device."""
    return config.tokens_per_batch or DEFAULT_TOKENS_PER_BATCH[dist.device().type]


def make_batcher(scorer: Scorer | OnnxScorer, config: ServeConfig, observer: Any) -> Batcher:
    """The queue in front of a scorer."""
    return Batcher(
        scorer,
        tokens_per_batch=tokens_per_batch(config),
        wait_seconds=config.wait_milliseconds / 1000,
        max_queued_pairs=config.limits.queued_pairs,
        threads=config.threads,
        observer=observer,
    )


def warm_up(scorer: Scorer | OnnxScorer, num_tokens: int) -> str:
    """Score one short pair and full batches of long ones, so that no client waits for what happens once; the speed."""
    scorer.score([Pair("a", "b", "c")])
    longest = scorer.encoder.max_tokens
    pairs = [Pair("a", "b", "c " * longest)] * max(1, num_tokens // longest)
    scorer.score(pairs)
    began = time.perf_counter()
    scorer.score(pairs)
    speed = len(pairs) * longest / (time.perf_counter() - began)
    return f"full batches at {speed:,.0f} tokens/s"


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


def _ignore(number: int, frame: Any) -> None:
    """Nothing: uvicorn has stopped by then."""
