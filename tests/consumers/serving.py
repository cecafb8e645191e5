"""A running `disranker serve` over an export, for those who talk to it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODEL = "ours"
"""What clients call the model."""
_LISTENING = re.compile(r"listening on (\S+)")


@contextmanager
def start_server(export: Path, *options: str) -> Iterator[str]:
    """The address of a server on a free port; it ends with the block."""
    disranker = Path(sys.executable).with_name("disranker")
    command = [str(disranker), "serve", str(export), "--name", MODEL, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if found := _LISTENING.match(line):
                    print("".join(said), end="")
                    yield found[1]
                    break
            else:
                raise RuntimeError(f"the server ended with {process.wait()}: {''.join(said)}")
        finally:
            process.terminate()
            process.communicate()  # its last words are read, too


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
