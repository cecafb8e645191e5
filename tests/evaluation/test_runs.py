"""Evaluated systems survive the disk, and broken ones are named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from disranker.evaluation.efficiency import Latency, LatencyCell
from disranker.evaluation.measures import group_scores, measure_run
from disranker.evaluation.rules import Rules
from disranker.evaluation.runs import Efficiency, System, read_systems, write_system

QUERY_IDS, DOC_IDS = ["q1", "q1", "q1", "q2", "q2"], ["a", "b", "c", "a", "z"]
SCORES = np.float32([0.1, -2.5, 1 / 3, 7.0, 7.0])
LABELS = {"q1": {"a": 2, "b": 0, "c": 1}, "q2": {"a": 1, "z": 1}}


def make_system(name="student-distilled"):
    measured = measure_run(LABELS, group_scores(QUERY_IDS, DOC_IDS, SCORES))
    return System(
        name,
        "student",
        measured,
        Efficiency(parameters=22, pairs_per_second=9.5),
        {"judged": {"path": "x", "hash": "h1"}},
    )


def test_a_system_comes_back_as_it_was_written(tmp_path):
    written = write_system(tmp_path, make_system(), QUERY_IDS, DOC_IDS, SCORES)
    write_system(tmp_path, make_system("bm25"), QUERY_IDS, DOC_IDS, SCORES)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bm25.metrics.json",
        "bm25.trec",
        "student-distilled.metrics.json",
        "student-distilled.trec",
    ]
    found = read_systems(tmp_path)
    assert list(found) == ["bm25", "student-distilled"]
    back = found["student-distilled"]
    # per-query PNR of q2 is nan, which equals nothing, itself included
    assert str(back) == str(written)
    assert back.judged_hash == "h1"
    scores = back.read_scores()
    assert np.float32([scores[q][d] for q, d in zip(QUERY_IDS, DOC_IDS, strict=True)]).tobytes() == SCORES.tobytes()


def test_latency_price_and_rules_come_back(tmp_path):
    cell = LatencyCell(10, "long", 33.5, 7, 1.5, 2.5, 3.5, 1000.0)
    latency = Latency((cell, cell), "characters", 1, 0.5, 3)
    cost = Efficiency(22, pairs_per_second=500.0, price_per_hour=1.8, currency="EUR", latency=latency)
    written = replace(make_system(), efficiency=cost, rules=Rules(unjudged="skip", ties="pessimistic"))
    write_system(tmp_path, written, QUERY_IDS, DOC_IDS, SCORES)
    back = read_systems(tmp_path)["student-distilled"]
    assert (back.efficiency, back.rules) == (cost, written.rules)
    assert back.efficiency.cost_per_million_pairs == pytest.approx(1.0)  # 2000 seconds of 0.0005 EUR
    assert Efficiency(pairs_per_second=500.0).cost_per_million_pairs is None
    assert Efficiency(price_per_hour=1.8).cost_per_million_pairs is None


def test_the_files_are_plain_and_the_same_each_time(tmp_path):
    write_system(tmp_path, make_system(), QUERY_IDS, DOC_IDS, SCORES)
    path = tmp_path / "student-distilled.metrics.json"
    first = path.read_bytes()
    write_system(tmp_path, make_system(), QUERY_IDS[::-1], DOC_IDS[::-1], SCORES[::-1])
    assert path.read_bytes() == first
    assert "NaN" not in first.decode()
    assert "Infinity" not in first.decode()
    content = json.loads(first)
    assert content["per_query"]["q2"]["PNR"] == "nan"
    assert content["per_query"]["q1"]["pairs"] == [2, 1, 0]
    unknown = dict.fromkeys(("bytes", "seconds", "device", "threads", "dtype", "price_per_hour", "latency"))
    assert content["efficiency"] == {"parameters": 22, "pairs_per_second": 9.5, "currency": "", **unknown}
    assert (content["format"], content["rules"]["missing"]) == (2, "zero")
    lines = (tmp_path / "student-distilled.trec").read_text().splitlines()
    assert lines[0].split()[:4] == ["q1", "Q0", "c", "1"]
    assert lines[0].split()[5] == "student-distilled"


@pytest.mark.parametrize("name", ["", "a b", "../x", ".hidden", "a/b"])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="must be a file name"):
        write_system(tmp_path, make_system(name), QUERY_IDS, DOC_IDS, SCORES)
    assert list(tmp_path.iterdir()) == []


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="no evaluated system"):
        read_systems(tmp_path)
    write_system(tmp_path, make_system(), QUERY_IDS, DOC_IDS, SCORES)
    path = tmp_path / "student-distilled.metrics.json"
    content = json.loads(path.read_text())
    for change, message in [
        ({"format": 99}, "format 99"),
        ({"system": "other"}, "system 'other'"),
        ({"counts": None, "efficiency": {"speed": 1, "latency": None}}, "speed"),
        ({"rules": {"unjudged": "maybe"}}, "unjudged='maybe' is no rule"),
    ]:
        path.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=f"student-distilled.metrics.json: .*{message}"):
            read_systems(tmp_path)
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "kind"}))
    with pytest.raises(ValueError, match="'kind' is missing"):
        read_systems(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json"):
        read_systems(tmp_path)
    path.write_text(json.dumps(content))
    (tmp_path / "student-distilled.trec").unlink()
    with pytest.raises(ValueError, match=r"student-distilled\.trec: the run"):
        read_systems(tmp_path)
