"""Our server and infinity's under the same load, with the same model, in one run.

    make test-consumers    # once: makes the environments
    python -m tests.consumers.load --export EXPORT --threads 2 --clients 1 8 32 --documents 100 --rounds 3 --seconds 20

Both are started on loopback with so many threads, asked the same requests in turn, and stopped.  Infinity runs its
torch engine: its ONNX engine gives a BERT other token types, and so other scores.  `--options` go to `disranker serve`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from disranker.serve import load
from tests.consumers.environments import SILENT, python_of
from tests.consumers.serving import MODEL, free_port, start_server

START_SECONDS = 180


@contextmanager
def start_infinity(export: Path, threads: int) -> Iterator[str]:
    """The address of infinity on a free port; it ends with the block."""
    port = free_port()
    command = [str(python_of("infinity").with_name("infinity_emb")), "v2", "--model-id", str(export.resolve())]
    command += ["--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--no-compile"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", MODEL, "--log-level", "error"]
    variables = {**os.environ, **SILENT, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=variables) as process:
        try:
            _wait(process, f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"infinity does not answer; {process.args} ended with {process.poll()}")


def main() -> int:
    """Run the load test of the command line."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--export", type=Path, required=True, help="export folder")
    parser.add_argument("--threads", type=int, default=2, help="threads of a forward pass, in both")
    parser.add_argument("--options", default="", help="more options of `disranker serve`, such as '--variant NAME'")
    load.add_arguments(parser)
    args = load.parse(parser, None)
    options = ["--threads", str(args.threads), "--limits.queued_pairs", "100000", *shlex.split(args.options)]
    with start_server(args.export, *options) as ours, start_infinity(args.export, args.threads) as infinity:
        return load.run(args, {"disranker": ours, "infinity": infinity})


if __name__ == "__main__":
    sys.exit(main())
