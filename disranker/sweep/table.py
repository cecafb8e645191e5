"""What a sweep measured: every variant over all seeds, with intervals and tests against the baseline.

The unit of intervals and tests is the query of a seed, because every seed has test queries of its own; where all seeds
were measured on the same judgments it is the query, with its mean over the seeds (of PNR, its pairs of all seeds), for
then the seeds repeat one set of queries and add no new ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from disranker.config.sweep import SweepConfig
from disranker.evaluation.measures import Measured
from disranker.evaluation.pairs import PairCounts
from disranker.evaluation.resampling import aggregate, query_table
from disranker.evaluation.runs import System, read_systems
from disranker.evaluation.significance import Comparison, compare, correct_holm, measure_interval
from disranker.sweep.distributions import ScoreSpread, spread_scores
from disranker.sweep.plan import Step, evaluated_folder
from disranker.sweep.runner import Outcome, command_line, read_marker

CONFIDENCE = 0.95
SAMPLES = 10_000
"""Of the bootstrap and of the randomisation test."""


@dataclass(frozen=True, slots=True)
class Row:
    """One variant or reference that was measured on every seed."""

    name: str
    is_reference: bool
    values: dict[str, float]
    """measure -> value over all seeds."""
    intervals: dict[str, tuple[float, float]]
    by_seed: dict[str, dict[int, float]]
    """measure -> seed -> value."""
    deviations: dict[str, float | None]
    """measure -> standard deviation over the seeds; None for one seed."""
    comparisons: dict[str, Comparison]
    """measure -> the comparison with the baseline; empty for the baseline and for references."""
    retention: dict[str, float]
    """measure -> share of the value of the named system; without a measure by which that one is 0 or infinite, and
    empty where none is named or it is not in the table."""
    scores: ScoreSpread
    training: dict[str, float]
    """steps, pairs, tokens and seconds of the last step, mean over the seeds; empty where nothing was trained."""
    fingerprints: dict[int, str]
    """seed -> fingerprint of the bundle."""


@dataclass(frozen=True, slots=True)
class SweepTable:
    """All that the files say."""

    title: str
    measures: tuple[str, ...]
    """The first one sorts the rows."""
    baseline: str
    retention_of: str | None
    seeds: tuple[int, ...]
    unit: str
    """`query of a seed` or `query`, what intervals and tests draw from."""
    num_units: int
    rows: tuple[Row, ...]
    """Best first."""
    missing: dict[str, str]
    """Variant or reference that some seed lacks -> why."""
    steps: tuple[dict[str, Any], ...]
    """Every step: name, state, command, seconds, commit and log."""
    commits: tuple[str, ...]
    """Of the code that made the figures; more than one where the code changed between two calls."""

    def row(self, name: str) -> Row | None:
        """The row of a system, if it was measured on every seed."""
        return next((row for row in self.rows if row.name == name), None)


def assemble_table(config: SweepConfig, plan: Sequence[Step], outcome: Outcome) -> SweepTable:
    """The table of what was measured on every seed.

    Raises:
        ValueError: nothing was; every cause is named.
    """
    systems, missing = _read(config, plan, outcome)
    if not systems:
        # One step that all wait for is one cause, not one for each of them.
        of_cause = {cause: [name for name, why in missing.items() if why == cause] for cause in missing.values()}
        told = "; ".join(f"{', '.join(names)}: {cause}" for cause, names in of_cause.items())
        raise ValueError(f"nothing was measured on every seed: {told}")
    measures = tuple(next(iter(systems.values()))[config.seeds[0]].measured.aggregate)
    shared = len({of.judged_hash for by_seed in systems.values() for of in by_seed.values()}) == 1
    pooled = {
        name: pool({seed: of.measured for seed, of in by_seed.items()}, shared=shared)
        for name, by_seed in systems.items()
    }
    comparisons = _compare_all(config, pooled, measures)
    rows = [
        Row(
            name=name,
            is_reference=name in config.references,
            values=pooled[name].aggregate,
            intervals={
                measure: measure_interval(pooled[name], measure, SAMPLES, 0, CONFIDENCE) for measure in measures
            },
            by_seed={
                measure: {seed: of.measured.aggregate[measure] for seed, of in by_seed.items()} for measure in measures
            },
            deviations={
                measure: statistics.stdev(of.measured.aggregate[measure] for of in by_seed.values())
                if len(by_seed) > 1
                else None
                for measure in measures
            },
            comparisons=comparisons.get(name, {}),
            retention=_shares(pooled[name], pooled.get(config.retention_of or "")),
            scores=spread_scores(by_seed, systems.get(config.retention_of or "")),
            training=_training(list(by_seed.values())),
            fingerprints={
                seed: of.provenance["fingerprint"] for seed, of in by_seed.items() if "fingerprint" in of.provenance
            },
        )
        for name, by_seed in systems.items()
    ]
    markers = {step.name: read_marker(step) for step in plan}
    commits = [markers[step.name]["provenance"]["git_commit"] for step in plan if step.name in outcome.done]
    return SweepTable(
        title=config.title,
        measures=measures,
        baseline=config.baseline,
        retention_of=config.retention_of,
        seeds=tuple(config.seeds),
        unit="query" if shared else "query of a seed",
        num_units=len(next(iter(pooled.values())).per_query[measures[0]]),
        rows=tuple(sorted(rows, key=lambda row: (-row.values[measures[0]], row.name))),
        missing=missing,
        steps=tuple(_step_facts(step, markers[step.name], outcome) for step in plan),
        commits=tuple(dict.fromkeys(commit or "no commit" for commit in commits)),
    )


def pool(by_seed: Mapping[int, Measured], *, shared: bool) -> Measured:
    """The measured system of several seeds as one; `shared`: all seeds were measured on the same queries."""
    if shared:
        first = next(iter(by_seed.values()))
        pairs = {
            query: PairCounts(
                *(sum(column) for column in zip(*(of.pairs[query] for of in by_seed.values()), strict=True))
            )
            for query in first.pairs
        }
        per_query = {
            measure: {
                query: float(np.mean([of.per_query[measure][query] for of in by_seed.values()])) for query in values
            }
            for measure, values in first.per_query.items()
        }
    else:
        pairs = {f"{seed}/{query}": counts for seed, of in by_seed.items() for query, counts in of.pairs.items()}
        per_query = {
            measure: {
                f"{seed}/{query}": value
                for seed, of in by_seed.items()
                for query, value in of.per_query[measure].items()
            }
            for measure in next(iter(by_seed.values())).per_query
        }
    pooled = Measured({}, per_query, pairs, {})
    values = {measure: aggregate(query_table(pooled, measure, sorted(of))) for measure, of in per_query.items()}
    return Measured(values, per_query, pairs, {})


def _read(
    config: SweepConfig, plan: Sequence[Step], outcome: Outcome
) -> tuple[dict[str, dict[int, System]], dict[str, str]]:
    """Name -> seed -> system of those that every seed has; name -> why of the others."""
    names: dict[str | None, list[str]] = {None: list(config.references)}
    names |= {name: [name] for name in [*config.vary, *config.variants]}
    missing: dict[str, str] = {}
    for step in plan:
        if step.kind == "eval" and step.name not in outcome.done:
            cause = step.name
            while cause in outcome.blocked:
                cause = outcome.blocked[cause]
            log = next(other.log for other in plan if other.name == cause)
            for name in names[step.variant]:
                missing.setdefault(name, f"{cause} failed ({outcome.failed[cause]}), see {log}")
    found = {seed: _systems(config, seed, outcome, plan) for seed in config.seeds}
    whole = [name for of in names.values() for name in of if name not in missing]
    return {name: {seed: found[seed][name] for seed in config.seeds} for name in whole}, missing


def _systems(config: SweepConfig, seed: int, outcome: Outcome, plan: Sequence[Step]) -> dict[str, System]:
    measured = any(step.kind == "eval" and step.seed == seed and step.name in outcome.done for step in plan)
    return read_systems(evaluated_folder(config, seed)) if measured else {}


def _compare_all(
    config: SweepConfig, pooled: Mapping[str, Measured], measures: Sequence[str]
) -> dict[str, dict[str, Comparison]]:
    """Variant -> measure -> comparison with the baseline; the variants are one family of tests for each measure."""
    if config.baseline not in pooled:
        return {}
    others = [name for name in pooled if name != config.baseline and name not in config.references]
    found: dict[str, dict[str, Comparison]] = {name: {} for name in others}
    for measure in measures:
        of_measure = [
            compare(pooled[name], pooled[config.baseline], measure, (name, config.baseline), SAMPLES, 0, CONFIDENCE)
            for name in others
        ]
        for comparison in correct_holm(of_measure):
            found[comparison.a][measure] = comparison
    return found


def _shares(measured: Measured, whole: Measured | None) -> dict[str, float]:
    bases = {} if whole is None else whole.aggregate
    return {
        measure: measured.aggregate[measure] / base for measure, base in bases.items() if base and math.isfinite(base)
    }


def _training(systems: Sequence[System]) -> dict[str, float]:
    trained = [system.provenance.get("training", {}) for system in systems]
    return {
        name: statistics.mean(of[name] for of in trained)
        for name in ("steps", "pairs", "tokens", "seconds")
        if all(of.get(name) is not None for of in trained)
    }


def _step_facts(step: Step, marker: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    state = "done" if step.name in outcome.done else "failed" if step.name in outcome.failed else "not begun"
    return {
        "step": step.name,
        "seed": step.seed,
        "variant": step.variant,
        "state": state,
        "command": command_line(step),
        "seconds": marker.get("seconds") if state != "not begun" else None,
        "git_commit": marker.get("provenance", {}).get("git_commit") if state != "not begun" else None,
        "log": str(step.log),
    }
