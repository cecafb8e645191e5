"""From evaluated systems to a report: `report.json` for programs, `report.md` for pull requests, `report.html` to read.

Everything comes from the files that `runs.py` wrote; nothing is scored here.  The output is the same for the same
input: there is no time stamp unless one is given.

`report.json` (format 1): title, generated, primary, baseline, confidence, systems[name][measure],
intervals[name][measure] = [low, high], comparisons[] = {a, b, measure, delta, p_value, interval, wins, ties, losses,
num_queries, confidence}, efficiency[name], counts[name], sources[name] (files and provenance behind the name's
figures), notes[].  Figures that are not finite are the strings "inf" and "nan".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from disranker.evaluation.assembly import Report, assemble_report
from disranker.evaluation.page import render_page
from disranker.evaluation.runs import write_json
from disranker.evaluation.summary import render_markdown
from disranker.schema import Judgment

FORMAT = 1


def write_report(
    system_dirs: Sequence[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    baseline: str | None = None,
    measures: Sequence[str] | None = None,
    title: str = "Ranking quality",
    notes: Sequence[tuple[str, str]] = (),
    judged: Iterable[Judgment] | None = None,
    generated: str | None = None,
    samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Report:
    """Writes report.json, report.md and report.html into `out_dir` from the systems of the given folders.

    `measures` defaults to the standard ones that every system has.  `judged` (the set that was measured) gives the
    page its query texts and rankings side by side.  `notes` are (heading, text) sections, such as an export's parity;
    a paragraph of lines that begin with | is a table.  `generated` is printed as it is.

    Raises ValueError for a system name that comes twice, an unknown baseline, a measure that a system lacks, and
    systems that were measured on different judgments.
    """
    report = assemble_report(
        system_dirs, baseline, measures, title, notes, judged, generated, samples, seed, confidence
    )
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    page, markdown = render_page(report), render_markdown(report)  # before the first file, so a fault leaves none
    write_json(folder / "report.json", as_json(report))
    (folder / "report.md").write_text(markdown, encoding="utf-8")
    (folder / "report.html").write_text(page, encoding="utf-8")
    return report


def as_json(report: Report) -> dict[str, Any]:
    """The content of report.json."""
    return {
        "format": FORMAT,
        "title": report.title,
        "generated": report.generated,
        "primary": report.primary,
        "baseline": report.baseline,
        "confidence": report.confidence,
        "systems": {
            name: {measure: system.measured.aggregate[measure] for measure in report.measures}
            for name, system in report.systems.items()
        },
        "intervals": report.intervals,
        "comparisons": [asdict(comparison) for comparison in report.comparisons],
        "efficiency": {name: asdict(system.efficiency) for name, system in report.systems.items()},
        "counts": {name: system.measured.counts for name, system in report.systems.items()},
        "sources": {
            name: {"kind": system.kind, "run": str(system.run_path), "provenance": dict(system.provenance)}
            for name, system in report.systems.items()
        },
        "notes": [{"heading": heading, "text": text} for heading, text in report.notes],
    }
