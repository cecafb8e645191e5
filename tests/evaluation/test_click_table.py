"""A click log as columns, and the logs that are refused."""

from __future__ import annotations

import pytest

from disranker.evaluation.click_table import tabulate_clicks
from disranker.schema import Click
from tests.evaluation.click_logs import pair


def row(doc: int, position: int, clicks: int, impressions: int, query: int = 0) -> Click:
    return Click(*pair(query, doc), clicks, impressions, position)


def test_a_log_as_columns() -> None:
    clicks = [
        Click("q", "a", "x", 2, 5, 1, 40.0),
        Click("q", "b", "x", 0, 5, 2, None),
        Click("r", "a", "x", 1, 3, 1, 4.0),
        Click("q", "a", "x", 1, 4, 3, 10.0),
    ]
    table = tabulate_clicks(iter(clicks))
    assert table.pairs == (("q", "a", "x"), ("q", "b", "x"), ("r", "a", "x"))
    assert table.pair.tolist() == [0, 1, 2, 0]
    assert (table.position.tolist(), table.impressions.tolist()) == ([1, 2, 1, 3], [5, 5, 3, 4])
    assert table.clicks.tolist() == [2, 0, 1, 1]
    assert table.dwell_seconds is not None
    assert table.dwell_seconds.tolist() == [40, 0, 4, 10]
    assert not table.clicked_only
    clicked = tabulate_clicks(Click("q", "a", "x", 1, 5, position) for position in (1, 2))
    assert clicked.clicked_only
    assert clicked.dwell_seconds is None


@pytest.mark.parametrize(
    ("clicks", "message"),
    [
        ([], "the click log is empty"),
        ([row(0, 1, 1, 1), Click("q", "a", "", 1, 3, None), Click("q", "b", "", 1, None, None)],
         "2 rows have no position, first: 2, 3; 1 rows have no impressions, first: 3"),
        ([row(0, 1, 3, 2)], "1 rows break 0 <= clicks <= impressions, position >= 1, first: 1"),
        ([row(0, 1, -1, 2)], "first: 1"),
        ([row(0, 0, 1, 2)], "first: 1"),
        ([Click("q", "a", "", 1, 1, 1, 2.0), Click("q", "b", "", 1, 1, 2, None)],
         "1 clicked rows have no dwell_seconds and others have, first: 2"),
    ],
)  # fmt: skip
def test_logs_that_are_refused(clicks: list[Click], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tabulate_clicks(clicks)
