"""The table of a sweep against figures worked out by hand from what the evaluations wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disranker.config.sweep import SweepConfig
from disranker.evaluation.measures import Measured, measure_run
from disranker.evaluation.resampling import randomisation_test
from disranker.evaluation.runs import System, write_system
from disranker.sweep.plan import Step
from disranker.sweep.render import render_markdown, write_table
from disranker.sweep.runner import Outcome
from disranker.sweep.table import SweepTable, assemble_table, pool

SEEDS = (4, 9)
NUM_QUERIES = 8
LABELS = {f"q{query}": {"a": 0, "b": 1, "c": 2, "d": 3} for query in range(NUM_QUERIES)}
NOISE = {"hinge": 2.0, "mse": 6.0, "ranknet": 0.5, "bm25": 9.0}


def scores(name: str, seed: int) -> dict[str, dict[str, float]]:
    """Labels with noise of a system's own size."""
    random = np.random.default_rng([seed, len(name)])
    return {
        query: {doc: label + NOISE[name] * random.normal() for doc, label in docs.items()}
        for query, docs in LABELS.items()
    }


def measured(name: str, seed: int) -> Measured:
    return measure_run(LABELS, scores(name, seed), ["nDCG@3", "PNR"])


def write_evaluated(folder: Path, name: str, seed: int, judged_hash: str) -> None:
    training = {} if name == "bm25" else {"steps": 10, "pairs": 100 + seed, "tokens": 7, "seconds": float(seed)}
    about: dict[str, Any] = {"judged": {"path": "p", "hash": judged_hash}, "training": training}
    if name != "bm25":
        about["fingerprint"] = f"{name}-{seed}"
    run = scores(name, seed)
    rows = [(query, doc, score) for query, docs in run.items() for doc, score in docs.items()]
    query_ids, doc_ids, values = zip(*rows, strict=True)
    write_system(folder, System(name, "bundle", measured(name, seed), provenance=about), query_ids, doc_ids, values)


def sweep(out: Path, *, shared: bool = False, failing: Sequence[str] = (), **changed: Any) -> SweepTable:
    """The table of three variants and BM25; `failing`: names of evaluations that failed."""
    config = config_of(out, **changed)
    plan = []
    for seed in SEEDS:
        folder = out / f"seed-{seed}"
        for name in NOISE:
            variant = None if name == "bm25" else name
            files = folder / "steps" / ("eval" if variant is None else f"{name}.eval")
            made = folder / "evaluated" / f"{name}.metrics.json"
            step = Step(seed, variant, "eval", "eval", ("--seed", str(seed)), made, (), "key", files)
            plan.append(step)
            if step.name not in failing:
                write_evaluated(made.parent, name, seed, "same" if shared else f"judged-{seed}")
                files.parent.mkdir(exist_ok=True)
                marker = {"state": "done", "seconds": 2.0, "provenance": {"git_commit": f"c{seed}"}}
                step.marker.write_text(json.dumps(marker))
    outcome = Outcome({step.name for step in plan} - set(failing), dict.fromkeys(failing, "it broke"))
    table = assemble_table(config, plan, outcome)
    write_table(config, table)
    return table


def config_of(out: Path, **changed: Any) -> SweepConfig:
    given = {
        "out": str(out),
        "seeds": list(SEEDS),
        "each": [{"stage": "rank"}],
        "vary": {"hinge": {}, "mse": {}, "ranknet": {}},
        "references": {"bm25": {"kind": "bm25"}},
        "evaluate": {},
        "baseline": "hinge",
        "retention_of": "ranknet",
    }
    return SweepConfig.model_validate(given | changed)


def per_query(name: str) -> np.ndarray:
    """nDCG@3 of every query of every seed."""
    return np.array([list(measured(name, seed).per_query["nDCG@3"].values()) for seed in SEEDS])


def test_every_figure_by_hand(tmp_path: Path) -> None:
    table = sweep(tmp_path)
    means = {name: per_query(name).mean() for name in NOISE}
    assert [row.name for row in table.rows] == sorted(NOISE, key=lambda name: -means[name])
    assert (table.unit, table.num_units, table.missing) == ("query of a seed", 2 * NUM_QUERIES, {})
    for row in table.rows:
        by_seed = per_query(row.name).mean(axis=1)
        assert row.values["nDCG@3"] == pytest.approx(means[row.name])
        assert list(row.by_seed["nDCG@3"].values()) == pytest.approx(by_seed.tolist())
        assert row.deviations["nDCG@3"] == pytest.approx(by_seed.std(ddof=1))
        pairs = np.array([list(measured(row.name, s).pairs.values()) for s in SEEDS]).sum(axis=(0, 1))
        assert row.values["PNR"] == pytest.approx(pairs[0] / pairs[1])
        low, high = row.intervals["nDCG@3"]
        assert low < row.values["nDCG@3"] < high
        assert row.retention["nDCG@3"] == pytest.approx(means[row.name] / means["ranknet"])
    assert [row.name for row in table.rows if row.is_reference] == ["bm25"]


def test_comparisons_with_the_baseline_are_corrected_over_the_variants(tmp_path: Path) -> None:
    table = sweep(tmp_path)
    assert {row.name for row in table.rows if row.comparisons} == {"mse", "ranknet"}
    tested = {}
    for name in ("mse", "ranknet"):
        row = table.row(name)
        assert row is not None
        comparison = row.comparisons["nDCG@3"]
        differences = (per_query(name) - per_query("hinge")).ravel()
        assert comparison.delta == pytest.approx(differences.mean())
        assert comparison.num_queries == 2 * NUM_QUERIES
        assert comparison.p_value == pytest.approx(randomisation_test(differences), abs=0.02)
        tested[name] = comparison
    small, large = sorted(tested.values(), key=lambda comparison: comparison.p_value)
    assert small.p_holm == pytest.approx(min(1.0, 2 * small.p_value))
    assert large.p_holm == pytest.approx(max(small.p_holm or 0.0, large.p_value))


def test_training_and_fingerprints(tmp_path: Path) -> None:
    row = sweep(tmp_path).row("mse")
    assert row is not None
    assert row.training == {"steps": 10, "pairs": 106.5, "tokens": 7, "seconds": 6.5}
    assert row.fingerprints == {4: "mse-4", 9: "mse-9"}


def test_the_same_judgments_in_all_seeds_are_counted_once(tmp_path: Path) -> None:
    table, apart = sweep(tmp_path / "a", shared=True), sweep(tmp_path / "b")
    assert (table.unit, table.num_units) == ("query", NUM_QUERIES)
    for row in table.rows:
        other = apart.row(row.name)
        assert other is not None
        # The values are the same; what they vouch for is not.
        assert row.values == pytest.approx(other.values)
        assert row.by_seed == other.by_seed
    differences = (per_query("mse") - per_query("hinge")).mean(axis=0)
    row = table.row("mse")
    assert row is not None
    assert row.comparisons["nDCG@3"].p_value == pytest.approx(randomisation_test(differences))
    assert row.comparisons["nDCG@3"].num_queries == NUM_QUERIES


def test_pool_keeps_the_queries_of_seeds_apart_or_joins_them() -> None:
    by_seed = {seed: measured("hinge", seed) for seed in SEEDS}
    apart, joined = pool(by_seed, shared=False), pool(by_seed, shared=True)
    assert set(apart.pairs) == {f"{seed}/{query}" for seed in SEEDS for query in LABELS}
    assert apart.pairs["9/q3"] == by_seed[9].pairs["q3"]
    assert tuple(joined.pairs["q3"]) == tuple(
        one + other for one, other in zip(by_seed[4].pairs["q3"], by_seed[9].pairs["q3"], strict=True)
    )
    assert joined.per_query["nDCG@3"]["q3"] == pytest.approx(
        (by_seed[4].per_query["nDCG@3"]["q3"] + by_seed[9].per_query["nDCG@3"]["q3"]) / 2
    )
    assert apart.aggregate == pytest.approx(joined.aggregate)


def test_a_variant_that_failed_in_one_seed_is_left_out_and_named(tmp_path: Path) -> None:
    table = sweep(tmp_path, failing=["seed-9/mse.eval"])
    assert {row.name for row in table.rows} == {"hinge", "ranknet", "bm25"}
    assert list(table.missing) == ["mse"]
    assert "seed-9/mse.eval failed (it broke)" in table.missing["mse"]
    assert "mse is not in the table: seed-9/mse.eval failed" in (tmp_path / "sweep.md").read_text()
    # The family of tests is what was tested.
    row = table.row("ranknet")
    assert row is not None and row.comparisons["nDCG@3"].p_holm == row.comparisons["nDCG@3"].p_value


def test_without_the_baseline_there_is_a_table_without_comparisons(tmp_path: Path) -> None:
    table = sweep(tmp_path, failing=["seed-4/hinge.eval"])
    assert {row.name for row in table.rows} == {"mse", "ranknet", "bm25"}
    assert not any(row.comparisons for row in table.rows)


def test_nothing_measured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"nothing was measured on every seed: hinge: seed-4/hinge.eval failed \(it broke\), see .*; bm25:",
    ):
        sweep(tmp_path, failing=[f"seed-{s}/{n}" for s in SEEDS for n in ("eval", *(f"{v}.eval" for v in NOISE))])


def test_the_files(tmp_path: Path) -> None:
    table = sweep(tmp_path)
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content["format"] == 1
    assert [row["name"] for row in content["rows"]] == [row.name for row in table.rows]
    assert content["rows"][0]["by_seed"]["nDCG@3"].keys() == {"4", "9"}
    assert content["commits"] == ["c4", "c9"] and len(content["steps"]) == 8
    assert content["steps"][0]["command"] == "disranker eval --seed 4"
    assert content["config"]["vary"] == {"hinge": {}, "mse": {}, "ranknet": {}}
    svg = (tmp_path / "sweep.svg").read_text()
    assert [name for name in NOISE if f"{name}  " not in svg] == []
    assert all(f">{name}<" in (tmp_path / "scores.svg").read_text() for name in NOISE)
    lines = render_markdown(table).splitlines()
    heads = next(line for line in lines if "seed 4" in line)
    below = lines[lines.index(heads) + 2 :]
    cells = [line.split("|") for line in below[: below.index("")]]
    assert {len(cell) for cell in cells} == {len(heads.split("|"))} and len(cells) == 4
    (bm25,) = [line for line in lines if line.startswith("| *bm25*")]
    (spread,) = [line for line in lines if line.startswith("| bm25 |")]
    assert len(spread.split("|")) == 12  # name, mean, std, within, five quantiles, tau-b
    assert "–" in bm25


def test_one_seed_has_no_deviation_and_figures_may_be_infinite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NOISE, "ranknet", 0.0)  # perfect order: nothing is discordant
    monkeypatch.setattr("tests.sweep.test_table.SEEDS", (4,))
    table = sweep(tmp_path)
    row = table.row("ranknet")
    assert row is not None and row.deviations["nDCG@3"] is None and math.isinf(row.values["PNR"])
    assert [set(of.retention) for of in table.rows] == [{"nDCG@3"}] * 4  # of an infinite PNR there is no share
    assert json.loads((tmp_path / "sweep.json").read_text())["rows"][0]["values"]["PNR"] == "inf"
