"""From evaluated systems to a report: `report.json` for programs, `report.md` for pull requests, `report.html` to read.

Everything comes from the files that `runs.py` wrote and the inputs that the settings name; nothing is scored here.  The
output is the same for the same input: there is no time stamp unless one is given.  docs/report.md names every field of
`report.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from disranker.config.evaluation import ReportConfig
from disranker.evaluation.assembly import Report, assemble_report
from disranker.evaluation.markdown import render_markdown
from disranker.evaluation.page import render_page
from disranker.evaluation.runs import write_json
from disranker.evaluation.standings import Standings
from disranker.evaluation.summary import speed_over_teacher

FORMAT = 2
"""Version of report.json; docs/report.md names its fields."""


def write_report(config: ReportConfig) -> Report:
    """Writes report.json, report.md and report.html into `config.out`.

    Raises ValueError for what `assemble_report` refuses; then nothing is written.
    """
    report = assemble_report(config)
    page, markdown = render_page(report), render_markdown(report)  # before the first file, so a fault leaves none
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", as_json(report))
    (folder / "report.md").write_text(markdown, encoding="utf-8")
    (folder / "report.html").write_text(page, encoding="utf-8")
    return report


def as_json(report: Report) -> dict[str, Any]:
    """The content of report.json; analyses that were not asked for are null or empty."""
    analyses = report.analyses
    return {
        "format": FORMAT,
        "title": report.title,
        "generated": report.generated,
        "focus": list(report.focus),
        "teacher": report.teacher,
        "student": report.student,
        **_standings(report.standings, report.teacher),
        "more_sets": {name: _standings(others, None) for name, others in report.more_sets.items()},
        "agreement": asdict(analyses.agreement) if analyses.agreement else None,
        "slices": [asdict(table) for table in analyses.slices],
        "cutoffs": asdict(analyses.cutoffs) if analyses.cutoffs else None,
        "cascade": [asdict(curve) for curve in analyses.cascade],
        "clicks": asdict(analyses.clicks) if analyses.clicks else None,
        "interleaving": asdict(analyses.interleaving) if analyses.interleaving else None,
        "notes": [{"heading": heading, "text": text} for heading, text in report.notes],
        "judged": report.judged,
        "settings": report.settings,
    }


def _standings(standings: Standings, teacher: str | None) -> Mapping[str, Any]:
    systems = standings.systems
    return {
        "primary": standings.primary,
        "baseline": standings.baseline,
        "confidence": standings.confidence,
        "num_queries": standings.num_queries,
        "systems": {
            name: {measure: system.measured.aggregate[measure] for measure in standings.measures}
            for name, system in systems.items()
        },
        "intervals": standings.intervals,
        "comparisons": [asdict(comparison) for comparison in standings.comparisons],
        "power": [asdict(plan) for plan in standings.plans],
        "efficiency": {
            name: {
                **asdict(system.efficiency),
                "cost_per_million_pairs": system.efficiency.cost_per_million_pairs,
                "speed_over_teacher": speed_over_teacher(standings, name, teacher),
            }
            for name, system in systems.items()
        },
        "rules": asdict(standings.rules),
        "counts": {name: system.measured.counts for name, system in systems.items()},
        "sources": {
            name: {"kind": system.kind, "run": str(system.run_path), "provenance": dict(system.provenance)}
            for name, system in systems.items()
        },
    }
