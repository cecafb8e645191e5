"""What a report says, put together from evaluated systems: standings, analyses, the queries to show.

Everything comes from the files that `runs.py` wrote and the inputs that the settings name; nothing is scored here and
nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from disranker.config.evaluation import ReportConfig
from disranker.evaluation.analyses import Analyses, Material, Run, analyse
from disranker.evaluation.judged_set import TestSet, read_test_set
from disranker.evaluation.measures import rank_documents
from disranker.evaluation.runs import System
from disranker.evaluation.standings import Standings, compare_systems, read_all_systems

MAX_QUERIES = 300
"""Queries that the page lists; of more, those on which the two systems in focus differ most."""
SHOWN_DOCUMENTS = 10
"""Documents of each ranking that the page shows."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document that a shown ranking holds; `label` is None where nobody judged it."""

    doc_id: str
    title: str
    label: int | None


@dataclass(frozen=True, slots=True)
class QueryRow:
    """One query of the page: the primary measure of each system, and their rankings when texts were given."""

    query_id: str
    query: str | None
    values: tuple[float, ...]
    """One per system, in the order of the standings."""
    documents: tuple[Document, ...] = ()
    """Those that stand in any of the rankings."""
    rankings: tuple[tuple[tuple[int, float], ...], ...] = ()
    """One per system: its first documents as (index into `documents`, score)."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that the three files say."""

    title: str
    generated: str | None
    notes: tuple[tuple[str, str], ...]
    standings: Standings
    more_sets: dict[str, Standings]
    focus: tuple[str, ...]
    """The two systems that are looked at closely, the better expected first; one where there is only one."""
    teacher: str | None
    student: str | None
    analyses: Analyses
    queries: tuple[QueryRow, ...]
    judged: Mapping[str, str] | None
    """path and hash of the judgments, when they were given."""
    settings: dict[str, Any]
    """Those of the report, without where it is written."""


def assemble_report(config: ReportConfig) -> Report:
    """The report over the folders that the settings name.

    Names and measures are checked before anything is computed.  Raises ValueError for a system name that comes twice,
    names that are no system, a measure that a system lacks, systems measured on different judgments or by different
    rules, judgments that are not those, and what an analysis refuses.
    """
    systems = read_all_systems(config.evaluated)
    for role in ("baseline", "teacher", "student"):
        name = getattr(config, role)
        if name is not None and name not in systems:
            raise ValueError(f"{role} {name!r} is not among the systems: {', '.join(systems)}")
    more = {name: read_all_systems(folders) for name, folders in config.more_sets.items()}
    test_set = _read_judgments(config, systems)
    standings = compare_systems(systems, config, config.baseline)
    focus = choose_focus(standings, config.student, config.teacher)
    runs = {name: system.read_scores() for name, system in standings.systems.items()} if test_set else {}
    analyses = Analyses()
    if test_set is not None:
        analyses = analyse(config, Material(standings, focus, test_set, runs))
    return Report(
        title=config.title,
        generated=config.generated,
        notes=tuple(config.notes.items()),
        standings=standings,
        more_sets={
            name: compare_systems(others, config, config.baseline if config.baseline in others else None)
            for name, others in more.items()
        },
        focus=focus,
        teacher=config.teacher,
        student=config.student,
        analyses=analyses,
        queries=_query_rows(standings, focus, test_set, runs),
        judged={"path": test_set.path, "hash": test_set.hash} if test_set else None,
        settings=config.model_dump(mode="json", exclude={"out"}),
    )


def choose_focus(standings: Standings, student: str | None, teacher: str | None) -> tuple[str, ...]:
    """The student, else the best system, against the baseline, the teacher or the next best, whichever comes first."""
    baseline = standings.baseline
    first = student or next((name for name in standings.systems if name != baseline), next(iter(standings.systems)))
    others = [baseline, teacher, *standings.systems]
    second = next((name for name in others if name is not None and name != first), None)
    return (first,) if second is None else (first, second)


def _read_judgments(config: ReportConfig, systems: Mapping[str, System]) -> TestSet | None:
    """The judgments that the settings name; ValueError when the systems were measured on others."""
    if not config.judged and config.qrels is None:
        return None
    test_set = read_test_set(config.judged, config.candidates, config.qrels)
    for system in systems.values():
        if system.judged_hash is not None and system.judged_hash != test_set.hash:
            measured_on = system.provenance["judged"].get("path")
            raise ValueError(
                f"{test_set.path} is not what {system.name} was measured on ({measured_on}), or has changed since; "
                "give the same files in the same order"
            )
    return test_set


def _query_rows(
    standings: Standings, focus: Sequence[str], test_set: TestSet | None, runs: Mapping[str, Run]
) -> tuple[QueryRow, ...]:
    """The queries of the page by id; of more than `MAX_QUERIES`, those on which the systems in focus differ most."""
    values = {name: system.measured.per_query[standings.primary] for name, system in standings.systems.items()}
    first, last = values[focus[0]], values[focus[-1]]
    queries = sorted(first, key=lambda query: (-_gap(first[query], last[query]), query))[:MAX_QUERIES]

    texts: dict[str, str] = {}
    titles: dict[str, dict[str, str]] = {query: {} for query in queries}
    for row in test_set.rows if test_set else ():
        if row.query_id in titles:
            texts[row.query_id] = row.query
            titles[row.query_id][row.doc_id] = row.title
    found = []
    for query in sorted(queries):
        own = tuple(values[name][query] for name in standings.systems)
        if test_set is None or query not in texts:
            found.append(QueryRow(query, None, own))
            continue
        scores = [runs[name].get(query, {}) for name in standings.systems]
        tops = [rank_documents(of_query)[:SHOWN_DOCUMENTS] for of_query in scores]
        index = {doc: place for place, doc in enumerate(dict.fromkeys(doc for top in tops for doc in top))}
        labels = test_set.labels.get(query, {})
        found.append(
            QueryRow(
                query,
                texts[query],
                own,
                tuple(Document(doc, titles[query].get(doc, doc), labels.get(doc)) for doc in index),
                tuple(
                    tuple((index[doc], of_query[doc]) for doc in top)
                    for top, of_query in zip(tops, scores, strict=True)
                ),
            )
        )
    return tuple(found)


def _gap(one: float, other: float) -> float:
    """How far apart two values are; 0 where both are infinite or neither is a number."""
    gap = abs(one - other)
    return gap if gap == gap else 0.0
