"""What is written beside every output about versions and the commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import disranker
from disranker.settings import provenance


def test_provenance_names_versions_and_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = provenance()
    assert facts["disranker"] == disranker.__version__
    assert facts["python"] == platform.python_version()
    assert facts["packages"]["torch"] == importlib.metadata.version("torch")

    (tmp_path / "disranker").mkdir()
    monkeypatch.setattr(disranker, "__file__", str(tmp_path / "disranker" / "__init__.py"))
    assert provenance()["git_commit"] is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("1")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "m"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert provenance()["git_commit"] == commit
    (tmp_path / "file").write_text("2")
    assert provenance()["git_commit"] == f"{commit}-dirty"


def test_provenance_imports_nothing_heavy() -> None:
    code = "import sys; from disranker.settings import provenance; provenance(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
