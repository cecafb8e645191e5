"""One tiny student and its export with every layout, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from disranker.models.bundle import save_bundle
from tests.export.students import build, export

LAYOUTS = ["vespa", "triton", "opensearch", "torchscript", "flashrank"]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    save_bundle(folder, *build("bert"), {"training": {"steps": 3}})
    return folder


@pytest.fixture(scope="session")
def exported(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without layouts."""
    out = tmp_path_factory.mktemp("exports") / "student-onnx"
    export(bundle, out)
    return out


@pytest.fixture(scope="session")
def laid_out(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With every layout."""
    out = tmp_path_factory.mktemp("exports") / "student-everywhere"
    export(bundle, out, layouts=LAYOUTS)
    return out
