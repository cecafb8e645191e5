"""Evaluated systems on one judged set, against each other: order, intervals, paired comparisons, power.

Everything comes from the files that `runs.py` wrote; nothing is scored here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from disranker.config.evaluation import ReportConfig
from disranker.evaluation.measures import DEFAULT_MEASURES, measure_name
from disranker.evaluation.power import PowerPlan, plan_queries
from disranker.evaluation.rules import Rules
from disranker.evaluation.runs import System, read_systems
from disranker.evaluation.significance import Comparison, compare, correct_holm, measure_interval

PRIMARY = "nDCG@10"
"""What systems are ordered and pictured by, where it was measured; otherwise the first measure."""


@dataclass(frozen=True, slots=True)
class Standings:
    """The systems of one judged set."""

    systems: dict[str, System]
    """Best first by the primary measure."""
    measures: tuple[str, ...]
    primary: str
    baseline: str | None
    intervals: dict[str, dict[str, tuple[float, float]]]
    """system -> measure -> bootstrap interval."""
    comparisons: tuple[Comparison, ...]
    """Every two systems by every measure; `b` is the baseline where it takes part, else the lower of the two."""
    plans: tuple[PowerPlan, ...]
    """One for each of `main_comparisons`, in their order."""
    num_queries: int
    confidence: float

    @property
    def main_comparisons(self) -> list[Comparison]:
        """By the primary measure: every system against the baseline, or each against the next when there is none."""
        found = {(each.a, each.b): each for each in self.comparisons if each.measure == self.primary}
        return [found[pair] for pair in _main_pairs(list(self.systems), self.baseline)]

    @property
    def rules(self) -> Rules:
        """By which all systems were measured."""
        return next(iter(self.systems.values())).rules

    @property
    def counts(self) -> dict[str, int]:
        """What measuring met, of each count the largest of any system."""
        found: dict[str, int] = {}
        for system in self.systems.values():
            for name, number in system.measured.counts.items():
                found[name] = max(number, found.get(name, 0))
        return found


def read_all_systems(folders: Sequence[str | os.PathLike[str]]) -> dict[str, System]:
    """The systems of all folders by name; ValueError for one that comes twice, and for unlike judgments or rules."""
    systems: dict[str, System] = {}
    for folder in folders:
        for name, system in read_systems(folder).items():
            if name in systems:
                raise ValueError(
                    f"system {name!r} stands in {systems[name].run_path} and {system.run_path}; rename one"
                )
            systems[name] = system
    if not systems:
        raise ValueError("no folder with evaluated systems was given")
    by_hash: dict[str, str] = {}
    by_rules: dict[Rules, str] = {}
    for name, system in systems.items():
        by_rules.setdefault(system.rules, name)
        if system.judged_hash is not None:
            by_hash.setdefault(system.judged_hash, name)
    for what, different in (("on different judgments", by_hash), ("by different rules", by_rules)):
        if len(different) > 1:
            raise ValueError(f"systems were measured {what}: {', '.join(different.values())}; measure them alike")
    return systems


def compare_systems(systems: Mapping[str, System], config: ReportConfig, baseline: str | None) -> Standings:
    """The systems in order, with all their comparisons.

    Raises ValueError for a measure that a system lacks, and for systems that were measured on different queries.
    """
    measures = _choose_measures(systems, config.measures)
    primary = PRIMARY if PRIMARY in measures else measures[0]
    ordered = sorted(systems.values(), key=lambda system: (-system.measured.aggregate[primary], system.name))
    systems = {system.name: system for system in ordered}
    drawn = {"samples": config.samples, "seed": config.seed}
    comparisons = correct_holm(
        [
            compare(
                systems[a].measured,
                systems[b].measured,
                measure,
                (a, b),
                **drawn,
                confidence=config.confidence,
                gsb_threshold=config.gsb_threshold,
            )
            for a, b in _directed_pairs(list(systems), baseline)
            for measure in measures
        ]
    )
    return Standings(
        systems=systems,
        measures=measures,
        primary=primary,
        baseline=baseline,
        intervals={
            name: {
                measure: measure_interval(system.measured, measure, **drawn, confidence=config.confidence)
                for measure in measures
            }
            for name, system in systems.items()
        },
        comparisons=comparisons,
        plans=tuple(
            plan_queries(systems[a].measured, systems[b].measured, primary, (a, b), delta=config.power_delta)
            for a, b in _main_pairs(list(systems), baseline)
        ),
        num_queries=len(ordered[0].measured.per_query[primary]),
        confidence=config.confidence,
    )


def _choose_measures(systems: Mapping[str, System], wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        common = [
            measure
            for measure in next(iter(systems.values())).measured.aggregate
            if all(measure in system.measured.aggregate for system in systems.values())
        ]
        standard = [measure for measure in DEFAULT_MEASURES if measure in common]
        if not common:
            raise ValueError(f"no measure is common to all systems: {', '.join(systems)}; evaluate them alike")
        return tuple(standard or common)
    names = tuple(dict.fromkeys(measure_name(measure) for measure in wanted))
    if not names:
        raise ValueError("measures is empty; leave it out for the standard ones")
    for name, system in systems.items():
        lacking = [measure for measure in names if measure not in system.measured.aggregate]
        if lacking:
            raise ValueError(f"system {name!r} was not measured by {', '.join(lacking)}; evaluate it again with them")
    return names


def _directed_pairs(names: list[str], baseline: str | None) -> list[tuple[str, str]]:
    """Every two systems once: `names` come best first, and the baseline is always the second."""
    return [(b, a) if a == baseline else (a, b) for a, b in combinations(names, 2)]


def _main_pairs(names: list[str], baseline: str | None) -> list[tuple[str, str]]:
    if baseline is None:
        return list(pairwise(names))
    return [(name, baseline) for name in names if name != baseline]
