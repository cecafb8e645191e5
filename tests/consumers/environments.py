"""Where the environments of the consumers lie: one for each file in requirements/, made by `make test-consumers`."""

from __future__ import annotations

import os
from pathlib import Path

COLLECTED = "CONSUMERS" in os.environ
"""Whether these tests run: the environment variable names the folder of all environments."""
ENVIRONMENTS = Path(os.environ.get("CONSUMERS", Path(__file__).resolve().parents[2] / ".consumers"))

SILENT = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "HAYSTACK_TELEMETRY_ENABLED": "false"}
"""Environment variables under which no consumer asks or tells anybody anything."""


def python_of(environment: str) -> Path:
    """The interpreter of an environment.

    Raises:
        FileNotFoundError: it has not been made.
    """
    return _existing(environment, "bin/python")


def node_modules() -> Path:
    """The packages of node/package.json.

    Raises:
        FileNotFoundError: they have not been installed.
    """
    return _existing("node", "node_modules")


def _existing(environment: str, name: str) -> Path:
    path = ENVIRONMENTS / environment / name
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: `make test-consumers` makes it")
    return path
