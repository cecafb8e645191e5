"""infinity's server with its torch engine, over HTTP."""

import atexit
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from protocol import Options, Score, serve

START_SECONDS = 600


def load(options: Options) -> Score:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("infinity_emb")), "v2", "--model-id", str(options.folder)]
    command += ["--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--no-compile", "--no-model-warmup"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "disranker"]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    atexit.register(server.terminate)
    address = f"http://127.0.0.1:{port}"
    _wait(server, f"{address}/health")

    def score(query: str, documents: list[str]) -> list[float]:
        body = {"model": "disranker", "query": query, "documents": documents, "raw_scores": True}
        found = _request(f"{address}/rerank", json.dumps(body).encode())["results"]
        return [one["relevance_score"] for one in sorted(found, key=lambda one: one["index"])]

    return score


def _wait(server: subprocess.Popen[bytes], address: str) -> None:
    for _ in range(START_SECONDS * 2):
        if server.poll() is not None:
            raise RuntimeError(f"infinity ended with {server.returncode}")
        try:
            _request(address)
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise RuntimeError(f"infinity did not answer within {START_SECONDS} s")


def _request(address: str, body: bytes | None = None) -> Any:
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.loads(response.read())


serve(load, "infinity-emb", "sentence-transformers")
