"""What a report can say beyond measures: each analysis that its settings ask for, from scores, labels and clicks.

The analyses themselves are in the files that the records come from; here they are handed what they need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disranker.config.evaluation import ClicksConfig, CutoffsConfig, ReportConfig, SlicesConfig
from disranker.data.faults import strict
from disranker.data.propensities import Propensities, estimate_propensities
from disranker.data.readers import read_impressions
from disranker.data.rows import read_rows
from disranker.evaluation.agreement import Agreement, compare_to_teacher
from disranker.evaluation.calibration import CalibrationReport, calibrate
from disranker.evaluation.cascade import CascadeCurve, cascade_curve
from disranker.evaluation.click_table import tabulate_clicks
from disranker.evaluation.counterfactual import ClickEstimates, estimate_clicks, rank_pairs
from disranker.evaluation.cutoffs import (
    Confusion,
    CutoffReport,
    GradeCuts,
    Operating,
    best_threshold,
    confuse_grades,
    fit_grade_cuts,
    measure_cutoffs,
)
from disranker.evaluation.interleaving import Interleaving, interleave
from disranker.evaluation.judged_set import TestSet
from disranker.evaluation.slices import (
    SliceTable,
    Slicing,
    by_best_label,
    by_clicks,
    by_column,
    by_query_length,
    by_relevant,
    by_script,
    measure_slices,
)
from disranker.evaluation.standings import Standings
from disranker.schema import stable_seed
from disranker.shards import file_hash

Run = dict[str, dict[str, float]]
"""query_id -> doc_id -> score."""

LISTED = 20
"""Queries, and documents, on which teacher and student differ most."""


@dataclass(frozen=True, slots=True)
class Material:
    """What analyses are made from."""

    standings: Standings
    focus: tuple[str, ...]
    test_set: TestSet
    runs: Mapping[str, Run]
    """system -> its scores."""


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """How well scores part positive documents from the others, over all judged documents at once."""

    systems: dict[str, CutoffReport]
    """By system, in the order of the standings; thresholds only for `system`."""
    system: str
    """The first one in focus, whose score is cut and calibrated below."""
    num_fit_queries: int
    num_held_queries: int
    chosen: Operating
    """The threshold with the best F1 on the queries that were fitted on, judged on the others."""
    cuts: GradeCuts
    """From score to grade, fitted on the same part."""
    confusion: Confusion
    """Of those grades with the labels, on the other part."""
    calibration: CalibrationReport


@dataclass(frozen=True, slots=True)
class Clicks:
    """Online metrics of every system, from one click log."""

    estimates: dict[str, ClickEstimates]
    """By system, in the order of the standings."""
    propensities: tuple[float, ...]
    """Of the positions, from the first."""
    estimated: Propensities | None
    """How they were estimated; None where they were given."""
    sources: tuple[dict[str, str], ...]
    """path and hash of each log."""


@dataclass(frozen=True, slots=True)
class Analyses:
    """The analyses that were asked for; None, or nothing, for the others."""

    agreement: Agreement | None = None
    slices: tuple[SliceTable, ...] = ()
    cutoffs: Cutoffs | None = None
    cascade: tuple[CascadeCurve, ...] = ()
    clicks: Clicks | None = None
    interleaving: Interleaving | None = None


def analyse(config: ReportConfig, material: Material) -> Analyses:
    """All analyses that the settings ask for; ValueError for what one of them refuses."""
    return Analyses(
        agreement=_agreement(config, material) if config.teacher and config.student else None,
        slices=_slices(config.slices, config, material) if config.slices else (),
        cutoffs=_cutoffs(config.cutoffs, config, material) if config.cutoffs else None,
        cascade=_cascade(config, material) if config.cascade else (),
        clicks=_clicks(config.clicks, config, material) if config.clicks else None,
        interleaving=_interleaving(config, material) if config.interleaving else None,
    )


def _agreement(config: ReportConfig, material: Material) -> Agreement:
    assert config.teacher is not None and config.student is not None
    systems, standings = material.standings.systems, material.standings
    measures = [standings.primary, *(name for name in standings.measures if name != standings.primary)]
    return compare_to_teacher(
        material.test_set.labels,
        material.runs[config.teacher],
        material.runs[config.student],
        systems[config.teacher].measured,
        systems[config.student].measured,
        measures,
        (config.teacher, config.student),
        num_listed=LISTED,
        samples=config.samples,
        seed=config.seed,
        confidence=config.confidence,
    )


# --- slices -----------------------------------------------------------------------------------------------------------


def _slices(slices: SlicesConfig, config: ReportConfig, material: Material) -> tuple[SliceTable, ...]:
    standings, focus = material.standings, material.focus
    baseline = standings.systems[focus[1]].measured if len(focus) > 1 else None
    return tuple(
        measure_slices(
            slicing,
            standings.systems[focus[0]].measured,
            standings.primary,
            baseline,
            (focus[0], focus[-1]),
            samples=config.samples,
            seed=config.seed,
            confidence=config.confidence,
        )
        for slicing in _slicings(slices, config, material)
    )


def _slicings(slices: SlicesConfig, config: ReportConfig, material: Material) -> Iterator[Slicing]:
    queries = {row.query_id: row.query for row in material.test_set.rows}
    labels = material.test_set.labels
    for name in dict.fromkeys(slices.by):
        if name == "length":
            yield by_query_length(queries)
        elif name == "script":
            yield by_script(queries)
        elif name == "label":
            yield by_best_label(labels)
        elif name == "relevant":
            yield by_relevant(labels)
        elif config.clicks is not None:
            yield by_clicks(queries, read_impressions(config.clicks.log))
    if slices.table is not None:
        table = read_query_table(slices.table, slices.columns)
        measured = material.standings.systems[material.focus[0]].measured.per_query[material.standings.primary]
        for column, values in table.items():
            yield by_column(column, values, measured)


def read_query_table(path: Path, columns: list[str]) -> dict[str, dict[str, str | float | None]]:
    """Columns of a side table, column -> query_id -> value; texts of a CSV that are all numbers become numbers.

    Raises ValueError for a missing column and a query_id that comes twice.
    """
    table: dict[str, dict[str, Any]] = {name: {} for name in columns}
    seen: dict[str, int] = {}
    for row in strict(read_rows(path, ["query_id", *columns])):
        query = str(row.values["query_id"])
        if query in seen:
            raise ValueError(f"{path}:{row.line}: query_id {query!r} stands in line {seen[query]} already; keep one")
        seen[query] = row.line
        for name in columns:
            value = row.values.get(name)
            table[name][query] = None if value == "" else value
    return {name: _as_numbers(values) for name, values in table.items()}


def _as_numbers(values: dict[str, Any]) -> dict[str, str | float | None]:
    try:
        return {
            query: value if value is None or isinstance(value, bool) else float(value)
            for query, value in values.items()
        }
    except (TypeError, ValueError):
        return values


# --- cut-offs ---------------------------------------------------------------------------------------------------------


def _cutoffs(cutoffs: CutoffsConfig, config: ReportConfig, material: Material) -> Cutoffs:
    system, rel = material.focus[0], cutoffs.relevant
    query_ids, labels, scores = _judged_rows(material, system)
    is_fit = {query: stable_seed(config.seed, "cut-offs", query) % 2 == 0 for query in dict.fromkeys(query_ids)}
    fit = np.array([is_fit[query] for query in query_ids], dtype=bool)
    if fit.all() or not fit.any():
        raise ValueError(
            f"cut-offs are chosen on one half of the queries and judged on the other; {len(is_fit)} are too few"
        )
    cuts = fit_grade_cuts(labels[fit], scores[fit])
    chosen = best_threshold(labels[fit], scores[fit], rel)
    reports = {}
    for name in material.standings.systems:
        _, own_labels, own_scores = _judged_rows(material, name)
        reports[name] = measure_cutoffs(own_labels, own_scores, rel, cutoffs.thresholds if name == system else ())
    return Cutoffs(
        systems=reports,
        system=system,
        num_fit_queries=sum(is_fit.values()),
        num_held_queries=len(is_fit) - sum(is_fit.values()),
        chosen=measure_cutoffs(labels[~fit], scores[~fit], rel, [chosen]).thresholds[0],
        cuts=cuts,
        confusion=confuse_grades(labels[~fit], scores[~fit], cuts),
        calibration=calibrate(query_ids, labels, scores, rel, config.seed),
    )


def _judged_rows(material: Material, system: str) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
    """The rows that were scored and judged: query_ids, labels and scores, [N]."""
    labels = material.test_set.labels
    rows = [
        (query, labels[query][doc], score)
        for query, documents in material.runs[system].items()
        for doc, score in documents.items()
        if doc in labels.get(query, {})
    ]
    return [row[0] for row in rows], np.array([row[1] for row in rows]), np.array([row[2] for row in rows])


# --- cascade, clicks, interleaving ------------------------------------------------------------------------------------


def _cascade(config: ReportConfig, material: Material) -> tuple[CascadeCurve, ...]:
    assert config.cascade is not None and config.teacher is not None and config.student is not None
    costs = [material.standings.systems[name].efficiency for name in (config.student, config.teacher)]
    speeds = [cost.pairs_per_second for cost in costs]
    return tuple(
        cascade_curve(
            material.test_set.labels,
            material.runs[config.student],
            material.runs[config.teacher],
            rule=rule,
            cut=config.cascade.cut,
            shares=config.cascade.shares,
            measures=material.standings.measures,
            rules=material.standings.rules,
            speeds=(speeds[0], speeds[1]) if speeds[0] and speeds[1] else None,
        )
        for rule in config.cascade.rules
    )


def _clicks(clicks: ClicksConfig, config: ReportConfig, material: Material) -> Clicks:
    table = tabulate_clicks(read_impressions(clicks.log))
    estimated = estimate_propensities(table, clicks.depth) if clicks.propensities is None else None
    propensities = estimated.values if estimated else tuple(clicks.propensities or ())
    return Clicks(
        estimates={
            name: estimate_clicks(
                table,
                rank_pairs(material.runs[name], material.test_set.rows),
                propensities,
                clip=clicks.clip,
                long_click_seconds=clicks.long_click_seconds,
                samples=config.samples,
                seed=config.seed,
                confidence=config.confidence,
            )
            for name in material.standings.systems
        },
        propensities=propensities,
        estimated=estimated,
        sources=tuple({"path": str(path), "hash": file_hash(path)} for path in clicks.log),
    )


def _interleaving(config: ReportConfig, material: Material) -> Interleaving:
    assert config.interleaving is not None
    if len(material.focus) < 2:
        raise ValueError(f"interleaving needs two systems; there is only {material.focus[0]}")
    a, b = material.focus
    return interleave(
        material.test_set.labels,
        material.runs[a],
        material.runs[b],
        (a, b),
        sessions_per_query=config.interleaving.sessions,
        samples=config.samples,
        seed=config.seed,
        confidence=config.confidence,
    )
