"""The picture of a run's perplexities."""

from __future__ import annotations

import json
from pathlib import Path

from disranker.train.curves import draw_perplexities, read_perplexities, write_perplexities


def write_metrics(folder: Path) -> None:
    lines = [
        {"step": 0, "dev": {"log_likelihood": -3.0, "perplexity": 20.1, "bits_per_byte": 1.0, "general_perplexity": 9}},
        {"step": 1, "loss": 2.0},
        {"step": 2, "dev": {"log_likelihood": -2.0, "perplexity": 7.39, "general_perplexity": 1234.5}},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_every_evaluation_is_a_point(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    assert read_perplexities(tmp_path / "metrics.jsonl") == {
        "document given query": [(0, 20.1), (2, 7.39)],
        "general text": [(0, 9.0), (2, 1234.5)],
    }


def test_the_picture_says_before_and_after(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    assert write_perplexities(tmp_path)
    svg = (tmp_path / "perplexity.svg").read_text()
    assert "document given query: 20.1 → 7.39" in svg and "general text: 9 → 1,234" in svg
    assert svg == draw_perplexities(read_perplexities(tmp_path / "metrics.jsonl"))  # the same bytes again


def test_without_evaluations_there_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert not write_perplexities(tmp_path)
    assert not (tmp_path / "perplexity.svg").exists()
