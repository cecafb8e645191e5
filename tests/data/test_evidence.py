"""Clicks as evidence: each correction by its formula, what is kept, and the truth recovered from a biased log."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.stats import kendalltau

from disranker.config.clicks import EvidenceConfig
from disranker.data.clicks import is_held_out
from disranker.data.evidence import Evidence, plan_evidence
from disranker.data.faults import InputError
from disranker.data.readers import read_clicks, write_records
from disranker.data.world import World
from disranker.schema import Click, Pair


def plan(path: Path, seed: int = 0, dev_share: float = 0.0, **config: Any) -> Evidence:
    return plan_evidence([path], EvidenceConfig(**config), max_clicks=None, dev_share=dev_share, seed=seed)


def write(folder: Path, clicks: Sequence[Click]) -> Path:
    write_records(folder / "clicks.parquet", Click, clicks)
    return folder / "clicks.parquet"


def weighted(evidence: Evidence) -> list[tuple[Pair, float]]:
    """The pairs that are trained on, and what they weigh."""
    return list(zip(evidence.pairs(held_out=False), evidence.weights().tolist(), strict=True))


def weights(evidence: Evidence) -> dict[str, float]:
    """Title -> weight, in the order of the rows."""
    return {pair.title: weight for pair, weight in weighted(evidence)}


def ratios(evidence: Evidence) -> list[float]:
    """The weights in that of the first row; what they are scaled by is a test of its own."""
    found = list(weights(evidence).values())
    return [weight / found[0] for weight in found]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("world"), list(World(0, "en").clicks(3000)))


def test_everything_off_is_the_log_as_it_is(world: Path) -> None:
    evidence = plan(world, dev_share=0.2)
    parts = {held_out: list(evidence.pairs(held_out)) for held_out in (False, True)}
    for held_out, rows in parts.items():
        logged = (click for click in read_clicks(world) if is_held_out(click.query, 0.2) == held_out)
        assert rows == [Pair(click.query, click.title, click.summary) for click in logged]
    assert len(parts[True]) + len(parts[False]) == 3000
    assert evidence.facts == {}


EVERYTHING = {
    "position": {"propensities": [1.0, 0.8, 0.6, 0.5, 0.4]},
    "dwell": {"min_seconds": 5.0, "weight": "log"},
    "ctr": {"min_ctr": 0.05, "weight": True},
    "near_duplicates": 0.9,
    "max_per_query": 2,
    "max_per_document": 3,
}


def test_everything_on(world: Path) -> None:
    evidence = plan(world, dev_share=0.2, **EVERYTHING)
    rows = weighted(evidence)
    every = Counter(plan(world, dev_share=0.2).pairs(held_out=False))
    assert Counter(pair for pair, _ in rows) <= every
    assert 0 < len(rows) < every.total()
    assert np.mean([weight for _, weight in rows]) == pytest.approx(1, abs=1e-5)
    assert min(weight for _, weight in rows) > 0
    assert max(Counter(pair.query for pair, _ in rows).values()) <= 2
    assert max(Counter(pair[1:] for pair, _ in rows).values()) <= 3
    assert list(evidence.facts) == ["position", "dwell", "ctr", "duplicates", "per query", "per doc", "weights"]
    # each step says what it has left of what the one before it left
    kept = [line.rpartition(": kept ")[2].removesuffix(" rows") for line in evidence.facts.values() if "kept" in line]
    chain = [tuple(int(part.replace(",", "")) for part in line.split(" of ")) for line in kept]
    assert len(chain) == 5
    assert chain[0][1] == every.total()
    assert [after for after, _ in chain] == [*(before for _, before in chain[1:]), len(rows)]
    # the same again, another instance; and the held-out part is not touched by any of it
    assert weighted(plan(world, dev_share=0.2, **EVERYTHING)) == rows
    assert list(evidence.pairs(held_out=True)) == list(plan(world, dev_share=0.2).pairs(held_out=True))


def test_held_out_queries_shape_no_weight(tmp_path: Path) -> None:
    held, kept = (next(q for q in map(str, range(99)) if is_held_out(q, 0.5) == part) for part in (True, False))
    own = [Click(kept, "a", "s", 1, 10, 1), Click(kept, "b", "s", 1, 2, 2)]
    others = [Click(held, "a", "s", 9, 9, 1), Click(held, "c", "s", 9, 10, 1)]
    config = {"ctr": {"weight": True}, "max_per_document": 1}
    alone = weighted(plan(write(tmp_path, own), dev_share=0.5, **config))
    assert weighted(plan(write(tmp_path, [*others, *own]), dev_share=0.5, **config)) == alone


# --- position ---------------------------------------------------------------------------------------------------------


def test_a_click_weighs_the_inverse_of_its_propensity(tmp_path: Path) -> None:
    log = write(tmp_path, [Click("q", title, "", clicks, 9, position) for title, clicks, position in
                           [("a", 1, 1), ("b", 1, 2), ("c", 3, 3), ("d", 1, 4), ("e", 2, 40)]])  # fmt: skip
    # 0.5 and 0.25 are 0.8 and 0.4 ... in units of the first: only ratios matter
    evidence = plan(log, position={"propensities": [0.5, 0.25, 0.1, 0.02], "clip": None})
    assert ratios(evidence) == pytest.approx([1, 2, 3 * 5, 25, 2 * 25], rel=1e-6)
    assert weights(evidence)["a"] == pytest.approx(5 / (1 + 2 + 15 + 25 + 50), rel=1e-6)
    clipped = plan(log, position={"propensities": [0.5, 0.25, 0.1, 0.02], "clip": 4.0})
    assert ratios(clipped) == pytest.approx([1, 2, 3 * 4, 4, 2 * 4], rel=1e-6)
    assert clipped.facts == {
        "position": "propensities 1, 0.5, 0.2, 0.04 (given); clicks of 3 rows count 4 at most; "
        "1 rows below position 4 count as there",
        "weights": "0.185 to 2.22, mean 1; 5 rows tell as much as 3 of equal weight",
    }


def test_propensities_from_a_file(tmp_path: Path) -> None:
    log = write(tmp_path, [Click("q", title, "", 1, None, position) for title, position in [("a", 1), ("b", 2)]])
    file = tmp_path / "propensities.csv"
    file.write_text("position,propensity\n2,0.25\n1,0.5\n")
    evidence = plan(log, position={"propensities_file": file})
    assert ratios(evidence) == pytest.approx([1, 2])
    assert evidence.facts["position"] == f"propensities 1, 0.5 ({file})"
    before = evidence.content
    file.write_text("position,propensity\n2,0.125\n1,0.5\n")
    assert plan(log, position={"propensities_file": file}).content != before
    for text, message in [
        ("1,0.5\n1,0.4\n", "propensities.csv:3: position 1 stands there twice"),
        ("1,0.5\n3,0.4\n", "propensities.csv: position 2 is missing below position 3"),
        ("1,0.5\n2,0\n", "propensities.csv:3: propensity is 0, not above 0"),
        ("1,0.5\n,0.1\n", "propensities.csv:3: no position is given"),
        ("0,0.5\n", "propensities.csv:2: position is '0', not a whole number from 1"),
        ("", "propensities.csv: holds no record"),
    ]:
        file.write_text(f"position,propensity\n{text}")
        with pytest.raises(InputError, match=message):
            list(plan(log, position={"propensities_file": file}).pairs(held_out=False))


ATTRACTION = np.array([0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
EXAMINED = 1 / np.arange(1, 7) ** 1.3


def biased_log(num_queries: int = 12, lists: int = 150, views: int = 20) -> list[Click]:
    """Six documents that a bad ranker shows worst first, but now and then in random order."""
    rng = np.random.default_rng(0)
    rows = []
    for query in range(num_queries):
        for _ in range(lists):
            order = np.arange(6) if rng.random() < 0.8 else rng.permutation(6)
            num_clicks = rng.binomial(views, EXAMINED * ATTRACTION[order])
            for place, (doc, count) in enumerate(zip(order, num_clicks, strict=True)):
                rows.append(Click(f"query {query}", f"title {doc}", "", int(count), views, place + 1))
    return rows


def shares(rows: Iterable[tuple[str, float]]) -> NDArray[np.float64]:
    """Of each document, over all queries."""
    found = np.zeros(6)
    for title, weight in rows:
        found[int(title.removeprefix("title "))] += weight
    return found / found.sum()


@pytest.mark.parametrize("unclicked_are_logged", [True, False])
def test_the_true_order_is_recovered_where_raw_clicks_have_it_upside_down(
    tmp_path: Path, unclicked_are_logged: bool
) -> None:
    clicks = [click for click in biased_log() if click.clicks or unclicked_are_logged]
    raw = shares((click.title, click.clicks) for click in clicks)
    evidence = plan(write(tmp_path, clicks), position={"depth": 6, "clip": None})
    corrected = shares((pair.title, weight) for pair, weight in weighted(evidence))
    assert kendalltau(raw, ATTRACTION).statistic < -0.5
    assert kendalltau(corrected, ATTRACTION).statistic == pytest.approx(1)
    assert corrected == pytest.approx(ATTRACTION / ATTRACTION.sum(), rel=0.1)
    found = evidence.facts["position"].removeprefix("propensities ").split(" (")[0].split(", ")
    assert [float(value) for value in found] == pytest.approx(EXAMINED, rel=0.12)


def test_propensities_that_the_log_does_not_tell(tmp_path: Path) -> None:
    log = write(tmp_path, [Click("q", title, "", 1, 5, position) for title, position in [("a", 1), ("b", 2)]])
    with pytest.raises(ValueError, match="shows no document at several positions for one query"):
        list(plan(log, position={}).pairs(held_out=False))
    log = write(tmp_path, [Click("q", "a", "", 2, 5, position) for position in (1, 2)])
    with pytest.raises(ValueError, match=r"evidence.position: .*links position 1 with positions 3, 4"):
        list(plan(log, position={"depth": 4}).pairs(held_out=False))
    (tmp_path / "bare.jsonl").write_text('{"query": "q", "title": "t", "summary": ""}\n')
    for config, name in [({"position": {}}, "position"), ({"ctr": {"weight": True}}, "impressions"),
                         ({"dwell": {"min_seconds": 3}}, "dwell_seconds")]:  # fmt: skip
        with pytest.raises(InputError, match=f"bare.jsonl:1: no {name} is logged; log it in every row, or turn off"):
            list(plan(tmp_path / "bare.jsonl", **config).pairs(held_out=False))


# --- dwell time and CTR -----------------------------------------------------------------------------------------------

DWELL = [Click("q", f"{seconds}", "", 1, 5, 1, seconds) for seconds in (80.0, 0.0, 4.0, 0.7, 30.0)]


def test_dwell_time(tmp_path: Path) -> None:
    log = write(tmp_path, DWELL)
    evidence = plan(log, dwell={"min_seconds": 0.7})
    assert weights(evidence) == {"80.0": 1, "4.0": 1, "0.7": 1, "30.0": 1}
    assert evidence.facts["dwell"] == "0.7 s and more: kept 4 of 5 rows"
    linear = plan(log, dwell={"weight": "linear", "cap_seconds": 40.0})
    assert list(weights(linear)) == ["80.0", "4.0", "0.7", "30.0"]  # a weight of 0 is no row
    assert ratios(linear) == pytest.approx([1, 4 / 40, 0.7 / 40, 30 / 40], rel=1e-6)
    assert linear.facts["dwell"] == "above 0 s: kept 4 of 5 rows"
    logarithmic = plan(log, dwell={"min_seconds": 4.0, "weight": "log", "cap_seconds": 40.0})
    assert ratios(logarithmic) == pytest.approx([1, math.log(5) / math.log(41), math.log(31) / math.log(41)], rel=1e-6)


# a: 4 of 20, b: 2 of 2, c: 1 of 2, d: shown and never clicked; 7 clicks in 27 impressions
CTR = [
    Click("q", "a", "", 3, 10, 1),
    Click("q", "b", "", 2, 2, 2),
    Click("q", "a", "", 1, 10, 2),
    Click("q", "c", "", 1, 2, 2),
    Click("q", "d", "", 0, 3, 2),
    Click("q", "e", "", 0, 0, 2),
]


def test_ctr(tmp_path: Path) -> None:
    log = write(tmp_path, CTR)
    found = [(pair.title, weight) for pair, weight in weighted(plan(log, ctr={"weight": True}))]
    assert [title for title, _ in found] == ["a", "b", "a", "c"]
    prior = 7 / 27
    ctr = np.array([(4 + 10 * prior) / 30, (2 + 10 * prior) / 12, (4 + 10 * prior) / 30, (1 + 10 * prior) / 12])
    assert [weight for _, weight in found] == pytest.approx(ctr / ctr.mean(), rel=1e-6)
    raw = plan(log, ctr={"weight": True, "prior_impressions": 0})
    assert ratios(raw)[1:] == pytest.approx([5, 2.5])
    given_prior = plan(log, ctr={"weight": True, "prior_impressions": 1, "prior_ctr": 0.5})
    assert ratios(given_prior)[1] == pytest.approx((2.5 / 3) / (4.5 / 21))
    few = plan(log, ctr={"min_impressions": 3})
    assert set(weights(few)) == {"a"}
    assert few.facts["ctr"] == "CTR from 0, impressions from 3, prior 0.259 x 10: kept 2 of 4 rows"
    low = plan(log, ctr={"min_ctr": 0.25, "prior_impressions": 0})
    assert set(weights(low)) == {"b", "c"}


def test_with_position_impressions_count_by_their_propensity(tmp_path: Path) -> None:
    log = write(tmp_path, CTR)
    # a: 4 of 10 + 5 examined, b: 2 of 1, c: 1 of 1
    config = {"position": {"propensities": [1, 0.5]}, "ctr": {"min_ctr": 0.9, "prior_impressions": 0}}
    assert set(weights(plan(log, **config))) == {"b", "c"}
    config["ctr"]["min_ctr"] = 0.26
    assert set(weights(plan(log, **config))) == {"a", "b", "c"}  # 4 / 20 without the correction


# --- caps and near-duplicates -----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    most=st.integers(1, 4),
    cap=st.sampled_from(["max_per_query", "max_per_document"]),
)
def test_caps_keep_as_many_as_they_may_wherever_the_rows_stand(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, most: int, cap: str
) -> None:
    folder = tmp_path_factory.mktemp("caps")
    pairs = data.draw(st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from("abcdef")), min_size=1, max_size=40))
    log = write(folder, [Click(query, title, "") for query, title in pairs])
    kept = Counter(pair[:2] for pair in plan(log, **{cap: most}).pairs(held_out=False))
    assert kept <= Counter(pairs)
    at = 0 if cap == "max_per_query" else 1
    expected = {name: min(most, count) for name, count in Counter(pair[at] for pair in pairs).items()}
    found = Counter[str]()
    for pair, count in kept.items():
        found[pair[at]] += count
    assert found == expected
    shuffled = write(folder, [Click(query, title, "") for query, title in data.draw(st.permutations(pairs))])
    assert Counter(pair[:2] for pair in plan(shuffled, **{cap: most}).pairs(held_out=False)) == kept


def test_caps_draw_by_the_seed_and_not_the_first(tmp_path: Path) -> None:
    log = write(tmp_path, [Click("q", f"{number:02}", "") for number in range(50)])
    drawn = [list(weights(plan(log, seed=seed, max_per_query=10))) for seed in range(20)]
    assert all(titles == sorted(titles) and len(titles) == 10 for titles in drawn)
    assert len({tuple(titles) for titles in drawn}) == 20
    # every row has its chance: 20 draws of 10 of 50, so 4 times each
    often = Counter(title for titles in drawn for title in titles)
    assert len(often) > 45
    assert max(often.values()) < 12
    assert plan(log, max_per_query=10).facts | {"weights": ""} == {
        "per query": "10 at most: kept 10 of 50 rows",
        "weights": "",
    }


def test_of_near_duplicates_the_most_clicked_stays(tmp_path: Path) -> None:
    text = "A long description of running shoes in red and blue for wet weather, light and with a firm sole. " * 2
    log = write(tmp_path, [
        Click("p", "Shoes", text, 2), Click("q", "SHOES", text + "!", 3), Click("p", "Shoes", text, 2),
        Click("q", "Hats", "Straw hats for the beach and felt hats for the town."), Click("r", "shoes", text),
    ])  # fmt: skip
    evidence = plan(log, near_duplicates=0.9)
    assert [pair.title for pair in evidence.pairs(held_out=False)] == ["Shoes", "Shoes", "Hats"]
    assert evidence.facts["duplicates"] == (
        "2 of 4 documents are like another (similarity 0.9, 64 MinHashes): kept 3 of 5 rows"
    )


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"position": {"propensities": [1], "propensities_file": "x"}}, "give one of propensities and"),
        ({"position": {"propensities": []}}, "propensities is empty"),
        ({"position": {"propensities": [1, 0]}}, "greater than 0"),
        ({"position": {"propensities": [1, 0.5], "depth": 5}}, "depth is the number of propensities"),
        ({"position": {"clip": 0.5}}, "greater than or equal to 1"),
        ({"dwell": {}}, "dwell does nothing"),
        ({"dwell": {"min_seconds": 3, "cap_seconds": 50}}, "cap_seconds belongs to weight"),
        ({"ctr": {}}, "ctr does nothing"),
        ({"near_duplicates": 1.0}, "less than 1"),
        ({"near_duplicates": 0.5}, "greater than or equal to 0.8"),
        ({"max_per_query": 0}, "greater than 0"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvidenceConfig(**config)


def test_only_weights_make_rows_weighted(world: Path) -> None:
    assert plan(world, position={}).weighted
    assert plan(world, dwell={"weight": "log"}).weighted
    assert plan(world, ctr={"weight": True}).weighted
    filters = {"dwell": {"min_seconds": 5}, "ctr": {"min_ctr": 0.1}, "near_duplicates": 0.9, "max_per_query": 2}
    evidence = plan(world, **filters)
    assert not evidence.weighted
    assert set(evidence.weights().tolist()) == {1.0}


def test_every_setting_changes_the_content(world: Path) -> None:
    several = [{}, *({name: value} for name, value in EVERYTHING.items()), {"require_title": False}]
    contents = [plan(world, **config).content for config in several]
    contents += [plan(world, seed=1).content, plan(world, dev_share=0.1).content]
    assert len(set(contents)) == len(contents)
