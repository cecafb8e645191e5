"""Clicks as judged pairs, and the texts of a warm-up."""

from __future__ import annotations

from pathlib import Path

import pytest

from disranker.data.clicked import judge_clicks
from disranker.data.domain_texts import domain_texts
from disranker.data.faults import InputError
from disranker.data.importer import import_source
from disranker.data.readers import read_judged, write_records
from disranker.schema import Candidate, Click, Pair

CLICKS = [
    Click("red shoes", "shoes", "light", clicks=3),
    Click("boots", "boots", "warm"),
    Click("red shoes", "boots", "warm"),
    Click("red shoes", "shoes", "light"),  # another line of the log on the same pair
    Click("boots", "shoes", "light"),
]


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    write_records(tmp_path / "clicks.parquet", Click, CLICKS)
    return tmp_path / "clicks.parquet"


def test_every_clicked_pair_once_with_label_1(clicks: Path) -> None:
    found = list(judge_clicks(clicks))
    assert [judgment.pair for judgment in found] == [
        Pair(row.query, row.title, row.summary) for row in (CLICKS[0], CLICKS[1], CLICKS[2], CLICKS[4])
    ]
    assert {judgment.label for judgment in found} == {1}
    # one id for each text, whatever it stands beside
    assert found[0].query_id == found[2].query_id != found[1].query_id == found[3].query_id
    assert found[0].doc_id == found[3].doc_id != found[1].doc_id == found[2].doc_id
    assert all(len(judgment.query_id) == len(judgment.doc_id) == 16 for judgment in found)


def test_the_import_groups_them_by_query(clicks: Path, tmp_path: Path) -> None:
    imported = import_source(f"clicks:{clicks}", tmp_path / "out")
    assert imported["files"] == {"judged.clicks.parquet": {"rows": 4, "queries": 2}}
    rows = list(read_judged(tmp_path / "out" / "judged.clicks.parquet"))
    assert [row.query for row in rows] == ["red shoes", "red shoes", "boots", "boots"]
    assert set(rows) == set(judge_clicks(clicks))


def test_what_is_no_click_log_is_refused(clicks: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"query": "", "title": "a", "summary": ""}\n')
    with pytest.raises(InputError, match="query is empty"):
        import_source(f"clicks:{bad}", tmp_path / "out")
    with pytest.raises(ValueError, match="has no use for qrels"):
        import_source(f"clicks:{clicks}", tmp_path / "out", qrels="x")


# --- the texts of a warm-up ---


def test_clicks_come_with_their_query_and_candidates_without(clicks: Path, tmp_path: Path) -> None:
    candidates = tmp_path / "candidates.parquet"
    write_records(candidates, Candidate, [Candidate("q", "d", "red shoes", "shoes", "light")])
    found = list(domain_texts([clicks], [candidates], dev_share=0.0, held_out=False))
    assert found == [*(Pair(row.query, row.title, row.summary) for row in CLICKS), Pair("", "shoes", "light")]
    assert list(domain_texts([clicks], [candidates], dev_share=0.0, held_out=True)) == []


def test_a_document_is_in_one_part(tmp_path: Path) -> None:
    clicks = tmp_path / "many.parquet"
    write_records(clicks, Click, [Click(f"q{at}", f"title {at % 50}", "text") for at in range(200)])
    parts = [list(domain_texts([clicks], [clicks], dev_share=0.3, held_out=held_out)) for held_out in (False, True)]
    assert sum(map(len, parts)) == 400
    titles = [{pair.title for pair in part} for part in parts]
    assert not titles[0] & titles[1] and 5 <= len(titles[1]) <= 25
