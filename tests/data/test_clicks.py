"""Which rows of a click log are usable, what is skipped and written down, and what stops a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from disranker.config.clicks import EvidenceConfig
from disranker.data.clicks import ClickLog, is_held_out
from disranker.data.evidence import Evidence, plan_evidence
from disranker.data.faults import InputError
from disranker.data.readers import write_records
from disranker.schema import Click, Pair

ROWS: list[dict[str, Any]] = [
    {"query": "red shoes", "title": "Shoes", "summary": "Red."},
    {"query": " ", "title": "Shoes", "summary": "Red."},
    {"query": "boots", "title": "", "summary": "Boots."},
    {"query": "boots", "summary": "Boots."},
    {"query": "boots", "title": "Boots", "summary": None},
    {"query": "", "title": None, "summary": ""},
    {"query": "hats", "title": "Hats", "summary": "", "clicks": 0, "impressions": 9},
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "clicks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def plan(path: Path, *, off: EvidenceConfig = EvidenceConfig(), **more: Any) -> Evidence:  # noqa: B008
    return plan_evidence([path], off, **{"max_clicks": None, "dev_share": 0.0, "seed": 0, **more})


def test_rows_without_a_query_or_a_title_are_skipped_counted_and_named(log: Path, tmp_path: Path) -> None:
    faults = tmp_path / "run" / "faults.txt"
    evidence = plan(log, faults=faults)
    assert evidence.facts == {}
    for _ in range(2):  # a second reading counts nothing twice
        rows = list(evidence.pairs(held_out=False))
        assert rows == [Pair("red shoes", "Shoes", "Red."), Pair("boots", "Boots", "")]
        assert evidence.facts == {"skipped": f"4 rows without query or title (each is named in {faults})"}
        assert [line.removeprefix(f"{log}:") for line in faults.read_text().splitlines()] == [
            "2: query is empty: ' '; remove the row or give the text",
            "3: title is empty: ''; remove the row or give the text",
            "4: no field 'title' among 'query', 'summary'; give every row the field",
            "6: query is empty: ''; remove the row or give the text",
            "6: title is empty: ''; remove the row or give the text",
        ]


def test_a_summary_alone_is_a_document_where_titles_are_not_required(log: Path, tmp_path: Path) -> None:
    faults = tmp_path / "faults.txt"
    evidence = plan(log, off=EvidenceConfig(require_title=False), faults=faults)
    titles = [pair.title for pair in evidence.pairs(held_out=False)]
    assert titles == ["Shoes", "", "Boots"]
    assert evidence.facts["skipped"].startswith("3 rows without query or document")
    assert "6: the document has neither title nor summary" in faults.read_text()


def test_without_faults_there_is_no_file_of_faults(tmp_path: Path) -> None:
    write_records(tmp_path / "c.parquet", Click, [Click("q", "t", "s")])
    faults = tmp_path / "faults.txt"
    faults.write_text("of an earlier run\n")
    evidence = plan(tmp_path / "c.parquet", faults=faults)
    assert list(evidence.pairs(held_out=False)) == [Pair("q", "t", "s")]
    assert not faults.exists()
    assert evidence.facts == {}


def test_what_was_not_clicked_is_read_and_never_trained_on(log: Path) -> None:
    read = list(ClickLog([log]))
    assert [click.clicks for click in read] == [1, 1, 0]
    assert "hats" not in {pair.query for pair in plan(log).pairs(held_out=False)}


def test_max_clicks_bounds_the_usable_rows(log: Path, tmp_path: Path) -> None:
    evidence = plan(log, max_clicks=1, faults=tmp_path / "faults.txt")
    assert len(list(evidence.pairs(held_out=False))) == 1
    assert evidence.facts == {}  # the rows behind are not looked at


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"position": 0}, "position is 0, not a whole number from 1"),
        ({"position": -3}, "position is -3, not a whole number from 1"),
        ({"clicks": -1}, "clicks is -1, not a whole number from 0"),
        ({"dwell_seconds": -0.5}, "dwell_seconds is -0.5, below 0"),
        ({"dwell_seconds": "nan"}, "dwell_seconds is 'nan', not finite"),
        ({"clicks": 5, "impressions": 3}, "clicks is 5 and impressions 3; count one click at most for each time that"),
    ],
)
def test_a_wrong_number_stops_the_run_with_its_place(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = tmp_path / "c.jsonl"
    good = {"query": "q", "title": "t", "summary": ""}
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, **row}) + "\n")
    with pytest.raises(InputError) as caught:
        list(plan(path).pairs(held_out=False))
    assert str(caught.value).startswith(f"{path}:2: {message}")


def test_a_log_without_any_row(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(InputError, match=r"empty\.jsonl: holds no record; leave the file out"):
        list(plan(empty).pairs(held_out=False))
    with pytest.raises(InputError, match="cannot be read"):
        list(plan(tmp_path / "none.jsonl").pairs(held_out=False))


@pytest.mark.parametrize("config", [EvidenceConfig(), EvidenceConfig(max_per_query=3)])
def test_nothing_left_to_train_on_says_why(tmp_path: Path, config: EvidenceConfig) -> None:
    path = tmp_path / "c.jsonl"
    clicked = {"query": "q", "title": "t", "summary": ""}
    path.write_text("".join(json.dumps({**clicked, **more}) + "\n" for more in ({}, {"clicks": 0}, {"title": ""})))
    assert not is_held_out("q", 0.5)
    assert is_held_out("q", 0.999)
    evidence = plan(path, off=config, dev_share=0.999)
    assert len(list(evidence.pairs(held_out=True))) == 1
    with pytest.raises(ValueError) as caught:
        list(evidence.pairs(held_out=False))
    assert str(caught.value) == (
        "no row of the click log is left to train on: 2 usable rows; 1 of them not clicked; "
        "1 of queries that are held out (dev_share 0.999); 1 rows without query or title, "
        f"the first: {path}:3: title is empty: ''; remove the row or give the text"
    )


def test_a_log_of_one_query_has_nothing_held_out(tmp_path: Path) -> None:
    write_records(tmp_path / "c.parquet", Click, [Click("q", title, "s") for title in "abc"])
    evidence = plan(tmp_path / "c.parquet", dev_share=0.01)
    assert len(list(evidence.pairs(held_out=False))) == 3
    assert list(evidence.pairs(held_out=True)) == []


def test_about_the_share_of_queries_is_held_out() -> None:
    held = sum(is_held_out(f"query {number}", 0.2) for number in range(2000))
    assert held == pytest.approx(400, abs=60)
