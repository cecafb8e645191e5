"""What a report says, put together from evaluated systems: order, intervals, comparisons, the queries to show.

Everything comes from the files that `runs.py` wrote; nothing is scored here and nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from disranker.evaluation.measures import DEFAULT_MEASURES, measure_name, rank_documents
from disranker.evaluation.runs import System, read_systems
from disranker.evaluation.significance import Comparison, compare, measure_interval
from disranker.schema import Judgment

PRIMARY = "nDCG@10"
"""What systems are ordered and pictured by, where it was measured; otherwise the first measure."""

MAX_QUERIES = 300
"""Queries that the page lists; of more, those on which the two shown systems differ most."""
SHOWN_DOCUMENTS = 10
"""Documents of each ranking that the page shows."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A document in a shown ranking; `label` is None where nobody judged it."""

    title: str
    label: int | None
    score: float


@dataclass(frozen=True, slots=True)
class QueryRow:
    """One query of the page: the primary measure of each system, and the two shown rankings when texts were given."""

    query_id: str
    query: str | None
    values: tuple[float, ...]
    """One per system, in the order of `Report.systems`."""
    rankings: tuple[tuple[Placed, ...], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All that the three files say."""

    title: str
    generated: str | None
    primary: str
    measures: tuple[str, ...]
    baseline: str | None
    systems: dict[str, System]
    """Best first by the primary measure."""
    intervals: dict[str, dict[str, tuple[float, float]]]
    comparisons: tuple[Comparison, ...]
    """Every two systems by every measure; `b` is the baseline where it takes part, else the lower of the two."""
    notes: tuple[tuple[str, str], ...]
    shown: tuple[str, ...]
    """The two systems whose rankings stand side by side: the best one, and the baseline or the second."""
    queries: tuple[QueryRow, ...]
    num_queries: int
    confidence: float

    def comparison(self, a: str, b: str, measure: str) -> Comparison | None:
        """The comparison of `a` with `b`, when it stands in this direction."""
        for found in self.comparisons:
            if (found.a, found.b, found.measure) == (a, b, measure):
                return found
        return None

    @property
    def main_comparisons(self) -> list[Comparison]:
        """By the primary measure: every system against the baseline, or each against the next when there is none."""
        names = list(self.systems)
        if self.baseline is not None:
            wanted = [(name, self.baseline) for name in names if name != self.baseline]
        else:
            wanted = list(pairwise(names))
        found = [self.comparison(a, b, self.primary) for a, b in wanted]
        return [comparison for comparison in found if comparison is not None]


def assemble_report(
    system_dirs: Sequence[str | os.PathLike[str]],
    baseline: str | None,
    measures: Sequence[str] | None,
    title: str,
    notes: Sequence[tuple[str, str]],
    judged: Iterable[Judgment] | None,
    generated: str | None,
    samples: int,
    seed: int,
    confidence: float,
) -> Report:
    """The report of all systems in the folders; arguments and errors as `write_report` has them."""
    systems = _read_all(system_dirs)
    names_of_measures = _choose_measures(systems, measures)
    primary = PRIMARY if PRIMARY in names_of_measures else names_of_measures[0]
    if baseline is not None and baseline not in systems:
        raise ValueError(f"baseline {baseline!r} is not among the systems: {', '.join(systems)}")
    ordered = sorted(systems.values(), key=lambda system: (-system.measured.aggregate[primary], system.name))
    systems = {system.name: system for system in ordered}

    others = [name for name in systems if name != baseline]
    shown = tuple([*others[:1], baseline] if baseline is not None else others[:2])
    rows = _query_rows(systems, primary, shown, judged)
    return Report(
        title=title,
        generated=generated,
        primary=primary,
        measures=names_of_measures,
        baseline=baseline,
        systems=systems,
        intervals={
            name: {
                measure: measure_interval(system.measured, measure, samples, seed, confidence)
                for measure in names_of_measures
            }
            for name, system in systems.items()
        },
        comparisons=tuple(
            compare(systems[a].measured, systems[b].measured, measure, (a, b), samples, seed, confidence)
            for a, b in _directed_pairs(list(systems), baseline)
            for measure in names_of_measures
        ),
        notes=tuple((heading, text) for heading, text in notes),
        shown=shown,
        queries=rows,
        num_queries=len(next(iter(systems.values())).measured.per_query[primary]),
        confidence=confidence,
    )


def _read_all(folders: Sequence[str | os.PathLike[str]]) -> dict[str, System]:
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
    for name, system in systems.items():
        if system.judged_hash is not None:
            by_hash.setdefault(system.judged_hash, name)
    if len(by_hash) > 1:
        raise ValueError(
            f"systems were measured on different judgments: {', '.join(by_hash.values())}; measure them alike"
        )
    return systems


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


def _query_rows(
    systems: Mapping[str, System], primary: str, shown: tuple[str, ...], judged: Iterable[Judgment] | None
) -> tuple[QueryRow, ...]:
    """The queries of the page by id; of more than `MAX_QUERIES`, those on which the two shown systems differ most."""
    values = {name: system.measured.per_query[primary] for name, system in systems.items()}
    first, last = values[shown[0]], values[shown[-1]]
    for name, of_queries in values.items():
        if of_queries.keys() != first.keys():
            raise ValueError(f"{name} and {shown[0]} were measured on different queries; measure them alike")
    queries = sorted(first, key=lambda query: (-abs(first[query] - last[query]), query))[:MAX_QUERIES]

    texts: dict[str, str] = {}
    documents: dict[str, dict[str, Judgment]] = {query: {} for query in queries}
    for judgment in judged or ():
        if judgment.query_id in documents:
            texts[judgment.query_id] = judgment.query
            documents[judgment.query_id][judgment.doc_id] = judgment
    scores = {name: systems[name].read_scores() for name in shown} if texts else {}

    def ranking(name: str, query: str) -> tuple[Placed, ...]:
        of_query = scores[name].get(query, {})
        placed = []
        for doc_id in rank_documents(of_query)[:SHOWN_DOCUMENTS]:
            found = documents[query].get(doc_id)
            placed.append(Placed(found.title if found else doc_id, found.label if found else None, of_query[doc_id]))
        return tuple(placed)

    return tuple(
        QueryRow(
            query_id=query,
            query=texts.get(query),
            values=tuple(values[name][query] for name in systems),
            rankings=tuple(ranking(name, query) for name in shown) if query in texts else (),
        )
        for query in sorted(queries)
    )
