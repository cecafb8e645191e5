"""A report as one HTML file: no network, no fonts, readable on a phone, in print, in the dark and without JavaScript.

The style and the script stand in `page_style.css` and `page_script.js` beside this file and are put into the page.  The
sections of the analyses are in `page_analyses.py` and `page_teacher.py`, the list of queries in `page_queries.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from disranker.evaluation.assembly import Report
from disranker.evaluation.markdown import bare_p
from disranker.evaluation.page_analyses import analysis_sections
from disranker.evaluation.page_parts import (
    bullets,
    cell,
    figures,
    folded,
    paragraph,
    row,
    section,
    table,
    whisker_cell,
    widest,
)
from disranker.evaluation.page_queries import render_queries
from disranker.evaluation.page_teacher import teacher_sections
from disranker.evaluation.plots import draw_measure, draw_speed
from disranker.evaluation.runs import System
from disranker.evaluation.significance import Comparison
from disranker.evaluation.standings import Standings
from disranker.evaluation.summary import (
    MINUS,
    cost_columns,
    figure,
    findings,
    gsb_line,
    headline,
    how_to_read,
    percent,
    power_line,
    rules_and_counts,
    scope,
    sentence,
    signed,
    signed_percent,
    span,
    told_apart,
)


def render_page(report: Report) -> str:
    """The whole page as text."""
    standings = report.standings
    parts = [
        ("Systems", _systems_table(standings, report) + _pictures(standings)),
        ("Comparisons", _comparisons(standings) if standings.comparisons else ""),
        *teacher_sections(report),
        *analysis_sections(report),
        *((f"Judged set {name}", _more_set(others, report)) for name, others in report.more_sets.items()),
        *((heading, _note(text)) for heading, text in report.notes),
        ("Queries", render_queries(report)),
        ("Rules and counts", bullets(rules_and_counts(standings))),
        ("How to read this", "".join(paragraph(line) for line in how_to_read(report))),
        ("Where the figures come from", _sources(report)),
    ]
    sections = [(heading, content, f"s{number}") for number, (heading, content) in enumerate(parts) if content]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(report.title)}</title>\n<style>\n{_asset('page_style.css')}</style>\n</head>\n<body>\n<main>\n"
        + _opening(report, [(heading, name) for heading, _, name in sections])
        + "\n".join(section(heading, content, name) for heading, content, name in sections)
        + f"\n</main>\n<script>\n{_asset('page_script.js')}</script>\n</body>\n</html>\n"
    )


@cache
def _asset(name: str) -> str:
    return files("disranker.evaluation").joinpath(name).read_text(encoding="utf-8")


def _opening(report: Report, contents: Sequence[tuple[str, str]]) -> str:
    standings = report.standings
    items = [
        f'<li class="{_verdict(found)}">{escape(sentence(found))}<small>{escape(gsb_line(found))}</small></li>\n'
        for found in standings.main_comparisons
    ]
    items += [f'<li class="finding">{escape(line)}</li>\n' for line in findings(report)]
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for heading, name in contents)
    return (
        f"<header>\n<h1>{escape(report.title)}</h1>\n{paragraph(scope(standings, report.generated), 'scope')}\n"
        f"{paragraph(headline(standings), 'lead')}\n"
        + (f'<ul class="verdicts">\n{"".join(items)}</ul>\n' if items else "")
        + f'<nav aria-label="contents">{links}</nav>\n</header>\n'
    )


def _verdict(found: Comparison) -> str:
    if not told_apart(found):
        return "even"
    return "better" if found.delta > 0 else "worse"


def _systems_table(standings: Standings, report: Report) -> str:
    costs = cost_columns(standings)
    best = {
        measure: max(system.measured.aggregate[measure] for system in standings.systems.values())
        for measure in standings.measures
    }
    roles = {standings.baseline: "baseline", report.teacher: "teacher", report.student: "student"}
    rows = []
    for index, (name, system) in enumerate(standings.systems.items()):
        cells = []
        for measure in standings.measures:
            value = system.measured.aggregate[measure]
            is_best = value == best[measure] and len(standings.systems) > 1
            interval = span(*standings.intervals[name][measure])
            cells.append(cell(measure, figure(value), interval, "best" if is_best else ""))
        cells += [cell(heading, *column[index]) for heading, column in costs]
        rows.append(row(name, cells, system.kind, roles.get(name, "")))
    heads = ["System", *standings.measures, *(heading for heading, _ in costs)]
    return table(heads, rows, "systems") + paragraph(
        f"Small figures: {percent(standings.confidence)} intervals.", "fine"
    )


def _pictures(standings: Standings) -> str:
    pictured = [standings.primary, *(measure for measure in standings.measures if measure.startswith("PNR"))]
    drawn = [(measure, draw_measure(standings, measure)) for measure in dict.fromkeys(pictured)]
    speed = draw_speed(standings)
    if speed is not None:
        drawn.append((f"{standings.primary} against speed", speed))
    return figures(drawn)


# --- comparisons ------------------------------------------------------------------------------------------------------


def _comparisons(standings: Standings) -> str:
    main = standings.main_comparisons
    rest = [found for found in standings.comparisons if found not in main]
    plans = [f"{plan.a} against {plan.b}: {power_line(plan)}." for plan in standings.plans]
    shown = _comparison_table(main) + folded("How many queries would be needed", bullets(plans))
    return shown + (folded(f"{len(rest)} more comparisons", _comparison_table(rest)) if rest else "")


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    measures = {found.measure for found in comparisons}
    reach = {
        measure: widest(
            value for found in comparisons if found.measure == measure for value in (found.delta, *found.interval)
        )
        for measure in measures
    }
    gsb = f"(G {MINUS} B) / all"
    rows = []
    for found in comparisons:
        judged = found.good_same_bad
        cells = [
            cell("Measure", found.measure),
            cell("Difference", signed(found.delta), span(*found.interval, sign=True)),
            whisker_cell(found.delta, found.interval, reach[found.measure]),
            cell("p", bare_p(found.p_value), f"Holm {bare_p(found.p_holm)}"),
            cell(
                "d",
                "" if found.effect_size is None else figure(found.effect_size, 2),
                "" if found.t_p_value is None else f"t: p {bare_p(found.t_p_value)}",
            ),
            cell("won / tied / lost", f"{found.wins} / {found.ties} / {found.losses}"),
            cell(
                gsb,
                "" if judged is None else signed_percent(judged.figure),
                "" if judged is None else f"{judged.good} / {judged.same} / {judged.bad}",
            ),
        ]
        rows.append(row(found.a, cells, f"against {found.b}", kind=_verdict(found)))
    return table(["System", "Measure", "Difference", "", "p", "d", "won / tied / lost", gsb], rows, "comparisons")


def _more_set(standings: Standings, report: Report) -> str:
    sentences = [headline(standings), *(sentence(found) for found in standings.main_comparisons)]
    comparisons = _comparison_table(standings.comparisons) if standings.comparisons else ""
    return (
        paragraph(scope(standings), "fine")
        + bullets(sentences)
        + _systems_table(standings, report)
        + (folded(f"{len(standings.comparisons)} comparisons", comparisons) if comparisons else "")
        + folded("Rules and counts", bullets(rules_and_counts(standings)))
        + folded("Where the figures come from", "\n".join(map(_source, standings.systems.values())))
    )


# --- notes and sources ------------------------------------------------------------------------------------------------


def _note(text: str) -> str:
    """Paragraphs; one whose lines all begin with | is a Markdown table."""
    parts = []
    for block in text.strip().split("\n\n"):
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        if len(lines) > 1 and all(line.startswith("|") for line in lines):
            cells = [[each.strip() for each in line.strip("|").split("|")] for line in lines]
            body = [each for each in cells[1:] if not all(set(text) <= set("-: ") for text in each)]
            rows = [row(each[0], map(cell, cells[0][1:], each[1:])) for each in body]
            parts.append(table(cells[0], rows, "note"))
        else:
            parts.append(paragraph(" ".join(lines)))
    return "\n".join(parts)


def _sources(report: Report) -> str:
    drawn = [
        ("samples", str(report.settings["samples"])),
        ("seed", str(report.settings["seed"])),
        ("confidence", str(report.settings["confidence"])),
    ]
    judged = [(f"judged.{key}", value) for key, value in (report.judged or {}).items()]
    systems = "\n".join(_source(system) for system in report.standings.systems.values())
    return folded("this report", _entries([*judged, *drawn])) + "\n" + systems


def _source(system: System) -> str:
    entries = [("run", str(system.run_path) if system.run_path else ""), *_flat(system.provenance)]
    return folded(system.name, _entries(entries))


def _entries(entries: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in entries if value)
    return f"<dl>{lines}</dl>"


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as dotted names and texts."""
    if isinstance(content, dict):
        return [
            entry for key, value in content.items() for entry in _flat(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(content, list | tuple):
        return [(prefix, " ".join(str(item) for item in content))]
    return [(prefix, "" if content is None else str(content))]
