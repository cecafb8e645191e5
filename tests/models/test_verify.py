"""A bundle takes its place only when it scores as the model in memory does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from disranker.models import verify
from disranker.models.bundle import read_facts, save_bundle
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.models.verify import check_reload, save_verified
from tests import tiny, tiny_runs

ENCODER = tiny.encoder("pair")


@pytest.fixture
def ranker() -> Ranker:
    return Ranker(tiny.classifier("bert", vocab_size=len(ENCODER.tokenizer)).train())


def save(out: Path, ranker: Ranker) -> float:
    return save_verified(out, ranker, ENCODER, {"steps": 3}, tiny.PAIRS, dtype="float32")


def test_a_bundle_that_scores_the_same_is_moved_into_place_and_training_goes_on(ranker: Ranker, tmp_path: Path) -> None:
    assert save(tmp_path / "out", ranker) < 1e-5
    assert ranker.training  # with dropout again
    assert read_facts(tmp_path / "out")["steps"] == 3
    save_bundle(tmp_path / "plain", ranker.model, ENCODER, {"steps": 3})
    assert tiny_runs.file_bytes(tmp_path / "out") == tiny_runs.file_bytes(tmp_path / "plain")


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Saving that loses something on its way to the disk."""

    def save_wrong(out: Path, *others: Any) -> None:
        save_bundle(out, *others)
        file = Path(out, "model.safetensors")
        weights = load_file(file)
        weights["classifier.weight"][0, 0] += 0.5
        save_file(weights, file, metadata={"format": "pt"})

    with monkeypatch.context() as patched:
        patched.setattr(verify, "save_bundle", save_wrong)
        yield


def test_a_bundle_that_scores_differently_never_looks_good(ranker: Ranker, tmp_path: Path, spoilt: None) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        ValueError, match=r"does not score as the model in memory does: largest difference .* not moved"
    ):
        save(out, ranker)
    assert not (out / "disranker.json").exists()
    with pytest.raises(ValueError, match="is no bundle"):
        Scorer.load(out / "unchecked")


def test_the_bundle_before_it_stays(ranker: Ranker, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    save(tmp_path, ranker)
    before, scores = read_facts(tmp_path), Scorer.load(tmp_path).score(tiny.PAIRS)
    request.getfixturevalue("spoilt")
    with torch.no_grad():
        ranker.stock.classifier.weight.mul_(2.0)
    with pytest.raises(ValueError, match="must not be used"):
        save(tmp_path, ranker)
    assert read_facts(tmp_path) == before
    np.testing.assert_array_equal(Scorer.load(tmp_path).score(tiny.PAIRS), scores)


def test_a_later_bundle_takes_the_place_of_an_earlier_one(ranker: Ranker, tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"of a run that saved in two parts")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "unchecked").mkdir()
    (tmp_path / "unchecked" / "left.over").touch()
    save(tmp_path, ranker)
    with torch.no_grad():
        ranker.stock.classifier.weight.mul_(2.0)
    save(tmp_path, ranker)
    names = {path.name for path in tmp_path.iterdir()}
    assert {name for name in names if "safetensors" in name} == {"model.safetensors"}
    assert not {"unchecked", "left.over"} & names
    np.testing.assert_allclose(
        Scorer.load(tmp_path).score(tiny.PAIRS), Scorer(ranker.eval(), ENCODER).score(tiny.PAIRS), rtol=0, atol=1e-5
    )


def test_a_bundle_that_scores_nan_is_refused(ranker: Ranker, tmp_path: Path) -> None:
    with torch.no_grad():
        ranker.stock.classifier.weight.fill_(float("nan"))
    save_bundle(tmp_path / "bundle", ranker.model, ENCODER, {})
    with pytest.raises(ValueError, match="must not be used"):
        check_reload(tmp_path / "bundle", ranker, ENCODER, tiny.PAIRS, "float32")


def test_a_bundle_that_does_not_open_is_one_message(ranker: Ranker, tmp_path: Path) -> None:
    save_bundle(tmp_path, ranker.model, ENCODER, {})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(ValueError, match=r"cannot be opened again: .* must not be used"):
        check_reload(tmp_path, ranker, ENCODER, tiny.PAIRS, "float32")
