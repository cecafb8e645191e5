"""What the student says of its training pairs at the start of an epoch: scored once, kept, split over the ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from disranker import dist
from disranker.data.tokens import TokenTable, write_tokens
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.train import mining
from disranker.train.mining import StudentScores
from tests import tiny
from tests.train.training import VOCAB, pairs_in_groups

PAIRS, _ = pairs_in_groups()
ROWS = np.arange(0, len(PAIRS), 2)


@pytest.fixture
def scorer() -> Scorer:
    """A student with dropout, in the middle of training."""
    torch.manual_seed(0)
    model = tiny.spread(tiny.classifier("bert", vocab_size=VOCAB, hidden_dropout_prob=0.5), 0.1)
    return Scorer(Ranker(model.train()).train(), tiny.encoder())


@pytest.fixture
def table(tmp_path: Path) -> TokenTable:
    write_tokens(tmp_path / "tokens.arrow", tiny.encoder(), PAIRS)
    return TokenTable(tmp_path / "tokens.arrow")


def expected_scores(scorer: Scorer) -> np.ndarray:
    scorer.ranker.eval()
    found = scorer.score([PAIRS[row] for row in ROWS])
    scorer.ranker.train()
    return found


def test_scores_are_those_of_the_scorer_without_dropout(scorer: Scorer, table: TokenTable, tmp_path: Path) -> None:
    scores = StudentScores(tmp_path / "out", table, scorer, split=True)
    assert scores(3, ROWS) == pytest.approx(expected_scores(scorer), abs=1e-5)
    assert scorer.ranker.training and scorer.ranker.model.training
    (file,) = (tmp_path / "out" / "cache" / "student-scores").iterdir()
    assert file.name == "epoch-00003.npy" and np.load(file).dtype == np.float32


def test_an_epoch_keeps_its_scores_while_the_student_moves_on(
    scorer: Scorer, table: TokenTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = StudentScores(tmp_path / "out", table, scorer, split=True)
    first = scores(1, ROWS)
    with torch.no_grad():
        for parameter in scorer.ranker.parameters():
            parameter += 0.05
    assert scores(1, ROWS).tolist() == first.tolist()
    assert capsys.readouterr().out.count("the student scored") == 1
    assert scores(2, ROWS) == pytest.approx(expected_scores(scorer), abs=1e-5)
    assert not np.allclose(scores(2, ROWS), first, atol=1e-3)


@pytest.mark.parametrize("world_size", [2, 3, 50])
def test_ranks_share_the_work_and_find_what_one_does(
    world_size: int, scorer: Scorer, table: TokenTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, for a pair is scored beside the same others; more ranks than chunks have nothing to do."""
    monkeypatch.setattr(mining, "_TOKENS_PER_CHUNK", 40)
    alone = StudentScores(tmp_path / "one", table, scorer, split=True)(0, ROWS)
    parts: list[Any] = []

    class Gathered(Exception):
        pass

    def record(value: Any) -> list[Any]:
        parts.append(value)
        raise Gathered

    monkeypatch.setattr(dist, "world_size", lambda: world_size)
    monkeypatch.setattr(dist, "gather_objects", record)
    scores = StudentScores.__new__(StudentScores)
    scores._table, scores._scorer, scores._split = table, scorer, True
    for rank in range(world_size):
        monkeypatch.setattr(dist, "process_rank", lambda rank=rank: rank)
        with pytest.raises(Gathered):
            scores._score(ROWS)
    num_chunks = [len(part) for part in parts]
    assert sum(num_chunks) > 3 and max(num_chunks) - min(num_chunks) <= 1
    monkeypatch.setattr(dist, "gather_objects", lambda _: parts)
    assert scores._score(ROWS).tolist() == alone.tolist()


def test_a_student_gone_astray_is_said(scorer: Scorer, table: TokenTable, tmp_path: Path) -> None:
    with torch.no_grad():
        next(iter(scorer.ranker.parameters())).fill_(float("nan"))
    scores = StudentScores(tmp_path / "out", table, scorer, split=True)
    with pytest.raises(ValueError, match=f"{len(ROWS)} scores of the student are not finite"):
        scores(1, ROWS)
    assert list((tmp_path / "out" / "cache" / "student-scores").iterdir()) == []


def test_what_an_abandoned_run_left_is_removed(scorer: Scorer, table: TokenTable, tmp_path: Path) -> None:
    StudentScores(tmp_path / "out", table, scorer, split=True)(1, ROWS)
    StudentScores(tmp_path / "out", table, scorer, split=True)
    assert list((tmp_path / "out" / "cache" / "student-scores").iterdir()) == []
    # With a checkpoint it belongs to the run that goes on, and must be there.
    (tmp_path / "out" / "checkpoint").mkdir()
    (tmp_path / "out" / "checkpoint" / "latest").write_text("step-00000004")
    StudentScores(tmp_path / "out", table, scorer, split=True)
    (tmp_path / "out" / "cache" / "student-scores").rmdir()
    with pytest.raises(ValueError, match="student-scores is gone"):
        StudentScores(tmp_path / "out", table, scorer, split=True)
