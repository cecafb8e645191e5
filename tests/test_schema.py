"""Records, content hashes and stable seeds."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest

from disranker.schema import Candidate, Click, Judgment, Pair, TeacherScore, field_names, pair_key, stable_seed


def test_columns_are_the_fields_in_their_order() -> None:
    assert field_names(Candidate) == ("query_id", "doc_id", "query", "title", "summary")
    assert field_names(Judgment) == (*field_names(Candidate), "label")
    assert field_names(TeacherScore) == ("query_id", "doc_id", "pair_key", "teacher_score")
    assert field_names(Click)[:3] == Pair._fields


def test_a_record_gives_its_pair_and_cannot_be_changed() -> None:
    judgment = Judgment("q1", "d1", "shoes", "red shoes", "light", 2)
    assert judgment.pair == Candidate("q1", "d1", "shoes", "red shoes", "light").pair == ("shoes", "red shoes", "light")
    with pytest.raises(dataclasses.FrozenInstanceError):
        judgment.label = 3


def test_what_a_log_does_not_know_is_none_and_a_row_is_one_click() -> None:
    click = Click("q", "t", "s")
    assert (click.clicks, click.impressions, click.position, click.dwell_seconds) == (1, None, None, None)


def test_a_pair_key_is_fixed_for_all_time() -> None:
    # blake2b-128 over (8-byte little-endian length, UTF-8) of each text; stores on disk hold these keys.
    assert pair_key(Pair("query", "title", "summary")) == "b83ce6e038c41dbefbc563f4df5ba419"
    assert pair_key(Pair("跑步鞋", "", "é")) == "6e859bc6c02f402c168ea084d2235959"


@pytest.mark.parametrize(
    "other",
    [("a", "bc", ""), ("", "ab", "c"), ("ab", "", "c"), ("ab", "c", " "), ("c", "ab", ""), ("AB", "c", "")],
)
def test_texts_that_differ_only_in_where_they_are_cut_have_different_keys(other: tuple[str, str, str]) -> None:
    assert pair_key(Pair("ab", "c", "")) != pair_key(Pair(*other))


def test_seeds_are_64_bits_and_differ_with_every_part() -> None:
    seeds = {stable_seed(*parts) for parts in [(1, 2, "q"), (1, 2, "p"), (1, 3, "q"), (2, 2, "q"), (12, "q"), (1, 2)]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**64 for seed in seeds)
    # The seed of `("1", 2)` is that of `(1, 2)`: parts are compared as text.
    assert stable_seed("1", 2) == stable_seed(1, 2)


def test_seeds_are_the_same_in_every_process() -> None:
    program = "from disranker.schema import stable_seed; print(stable_seed(7, 'order', '查询'))"
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True, text=True
    )
    assert int(output.stdout) == stable_seed(7, "order", "查询")
