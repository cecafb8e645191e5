"""A report as one HTML file: no network, no fonts, readable on a phone, in print, in the dark and without JavaScript.

The style and the script stand in `page_style.css` and `page_script.js` beside this file and are put into the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files

from disranker.evaluation.assembly import MAX_QUERIES, SHOWN_DOCUMENTS, Placed, QueryRow, Report
from disranker.evaluation.plots import draw_measure, draw_speed
from disranker.evaluation.runs import System
from disranker.evaluation.significance import Comparison
from disranker.evaluation.summary import (
    NONE,
    SIGNIFICANT,
    cost_columns,
    figure,
    headline,
    how_to_read,
    p_value,
    percent,
    scope,
    sentence,
    signed,
    span,
)


def render_page(report: Report) -> str:
    """The whole page as text."""
    sections = [
        _opening(report),
        _section("Systems", _systems_table(report)),
        _section("Pictures", _pictures(report)),
        _section("Comparisons", _comparisons(report)) if report.comparisons else "",
        *(_section(heading, _note(text)) for heading, text in report.notes),
        _section("Queries", _queries(report)),
        _section("How to read this", "".join(f"<p>{escape(line)}</p>" for line in how_to_read(report))),
        _section("Where the figures come from", _sources(report)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(report.title)}</title>\n<style>\n{_asset('page_style.css')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + f"\n</main>\n<script>\n{_asset('page_script.js')}</script>\n</body>\n</html>\n"
    )


@cache
def _asset(name: str) -> str:
    return files("disranker.evaluation").joinpath(name).read_text(encoding="utf-8")


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{content}\n</section>"


def _opening(report: Report) -> str:
    items = "".join(
        f'<li class="{_verdict(found)}">{escape(sentence(found))}</li>\n' for found in report.main_comparisons
    )
    return (
        f'<header>\n<h1>{escape(report.title)}</h1>\n<p class="scope">{escape(scope(report))}</p>\n'
        f'<p class="lead">{escape(headline(report))}</p>\n'
        + (f'<ul class="verdicts">\n{items}</ul>\n' if items else "")
        + "</header>"
    )


def _verdict(found: Comparison) -> str:
    if found.p_value >= SIGNIFICANT or found.delta == 0:
        return "even"
    return "better" if found.delta > 0 else "worse"


def _systems_table(report: Report) -> str:
    costs = cost_columns(report)
    heads = ["System", *report.measures, *(heading for heading, _ in costs)]
    best = {
        measure: max(system.measured.aggregate[measure] for system in report.systems.values())
        for measure in report.measures
    }
    rows = []
    for index, (name, system) in enumerate(report.systems.items()):
        mark = ' <span class="tag">baseline</span>' if name == report.baseline else ""
        cells = [f'<th scope="row">{escape(name)}{mark}<small>{escape(system.kind)}</small></th>']
        for measure in report.measures:
            value = system.measured.aggregate[measure]
            style = ' class="best"' if value == best[measure] and len(report.systems) > 1 else ""
            interval = span(*report.intervals[name][measure])
            cells.append(
                f'<td data-head="{escape(measure)}"{style}>{figure(value)}<small>{escape(interval)}</small></td>'
            )
        for heading, column in costs:
            text, detail = column[index]
            small = f"<small>{escape(detail)}</small>" if detail else ""
            empty = "" if text or detail else ' class="none"'
            cells.append(f'<td data-head="{escape(heading)}"{empty}>{escape(text) or NONE}{small}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        _table(heads, rows, "systems") + f'<p class="fine">Small figures: {percent(report.confidence)} intervals.</p>'
    )


def _pictures(report: Report) -> str:
    pictured = [report.primary, *(measure for measure in report.measures if measure.startswith("PNR"))]
    drawn = [(measure, draw_measure(report, measure)) for measure in dict.fromkeys(pictured)]
    speed = draw_speed(report)
    if speed is not None:
        drawn.append((f"{report.primary} against speed", speed))
    figures = "".join(f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>\n" for caption, svg in drawn)
    return f'<div class="pictures">\n{figures}</div>'


def _comparisons(report: Report) -> str:
    main = report.main_comparisons
    rest = [found for found in report.comparisons if found not in main]
    shown = _comparison_table(main)
    if not rest:
        return shown
    more = f"<summary>{len(rest)} more comparisons</summary>"
    return f"{shown}\n<details>{more}\n{_comparison_table(rest)}</details>"


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    reach: dict[str, float] = {}
    for found in comparisons:
        ends = [abs(end) for end in (found.delta, *found.interval) if math.isfinite(end)]
        reach[found.measure] = max([reach.get(found.measure, 0.0), *ends])
    rows = [
        f'<tr class="{_verdict(found)}"><th scope="row">{escape(found.a)}<small>against {escape(found.b)}</small></th>'
        f'<td data-head="Measure">{escape(found.measure)}</td>'
        f'<td data-head="Difference">{signed(found.delta)}<small>{span(*found.interval, sign=True)}</small></td>'
        f'<td class="picture">{_whisker(found, reach[found.measure])}</td>'
        f'<td data-head="p">{escape(p_value(found.p_value).removeprefix("p ").removeprefix("= "))}</td>'
        f'<td data-head="won / tied / lost">{found.wins} / {found.ties} / {found.losses}</td></tr>'
        for found in comparisons
    ]
    return _table(["System", "Measure", "Difference", "", "p", "won / tied / lost"], rows, "comparisons")


def _whisker(found: Comparison, reach: float) -> str:
    """The difference and its interval on a line whose middle is 0."""
    low, high = found.interval
    if not all(math.isfinite(value) for value in (found.delta, low, high)) or reach == 0:
        return ""
    at = [88 + 84 * value / reach for value in (low, high, found.delta)]
    return (
        '<svg viewBox="0 0 176 16" class="whisker" aria-hidden="true">'
        '<line class="zero" x1="88" x2="88" y1="0" y2="16"/>'
        f'<line x1="{at[0]:.1f}" x2="{at[1]:.1f}" y1="8" y2="8"/><circle cx="{at[2]:.1f}" cy="8" r="2.8"/></svg>'
    )


def _queries(report: Report) -> str:
    names = list(report.systems)
    first, last = report.shown[0], report.shown[-1]
    listed = (
        f"The {MAX_QUERIES} of {report.num_queries} queries on which {first} and {last} differ most"
        if report.num_queries > len(report.queries)
        else f"All {report.num_queries} queries"
    )
    folds = " Unfold one to see two rankings side by side." if any(row.rankings for row in report.queries) else ""
    options = [("query", "query"), (f"gain:{names.index(first)}:{names.index(last)}", f"{first} gains most")]
    options.append((f"gain:{names.index(last)}:{names.index(first)}", f"{first} loses most"))
    if first == last:
        options = options[:1]
    choices = "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in options)
    columns = f"--systems: {len(names)}"
    heads = "".join(f"<span>{escape(name)}</span>" for name in names)
    rows = "\n".join(_query_row(row, report) for row in report.queries)
    return (
        f"<p>{escape(listed)}, by {escape(report.primary)}.{folds}</p>\n"
        '<div class="tools" hidden><label>Search <input type="search" id="search" autocomplete="off"></label>'
        f'<label>Order <select id="order">{choices}</select></label><span id="found" aria-live="polite"></span></div>\n'
        f'<div class="queries" style="{columns}">\n'
        f'<div class="query heads" aria-hidden="true"><span>Query</span>{heads}</div>\n'
        f'<div id="rows">\n{rows}\n</div></div>'
    )


def _query_row(row: QueryRow, report: Report) -> str:
    data = escape(json.dumps([value if math.isfinite(value) else None for value in row.values]))
    shade = [min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0 for value in row.values]
    cells = "".join(
        f'<span class="value" data-head="{escape(name)}" style="--share: {share:.2f}">{figure(value, 3)}</span>'
        for name, value, share in zip(report.systems, row.values, shade, strict=True)
    )
    text = f"{escape(row.query)}<small>{escape(row.query_id)}</small>" if row.query else escape(row.query_id)
    head = f'<span class="text">{text}</span>{cells}'
    if not row.rankings:
        return f'<div class="row" data-values="{data}"><div class="query">{head}</div></div>'
    lists = "".join(
        f"<div><h3>{escape(name)}</h3><ol>{''.join(_document(placed) for placed in ranking)}</ol></div>"
        for name, ranking in zip(report.shown, row.rankings, strict=True)
    )
    return (
        f'<details class="row" data-values="{data}"><summary class="query">{head}</summary>'
        f'<div class="rankings" aria-label="first {SHOWN_DOCUMENTS} documents">{lists}</div></details>'
    )


def _document(placed: Placed) -> str:
    label = "?" if placed.label is None else str(placed.label)
    grade = "none" if placed.label is None else str(min(max(placed.label, 0), 4))
    return (
        f'<li><span class="label g{grade}" title="label">{label}</span> {escape(placed.title)} '
        f"<small>{placed.score:.3g}</small></li>"
    )


def _note(text: str) -> str:
    """Paragraphs; one whose lines all begin with | is a Markdown table."""
    parts = []
    for paragraph in text.strip().split("\n\n"):
        lines = [line.strip() for line in paragraph.splitlines() if line.strip()]
        if len(lines) > 1 and all(line.startswith("|") for line in lines):
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            body = [row for row in cells[1:] if not all(set(cell) <= set("-: ") for cell in row)]
            rows = [
                f'<tr><th scope="row">{escape(row[0])}</th>'
                + "".join(
                    f'<td data-head="{escape(head)}">{escape(cell)}</td>'
                    for head, cell in zip(cells[0][1:], row[1:], strict=False)
                )
                + "</tr>"
                for row in body
            ]
            parts.append(_table(cells[0], rows, "note"))
        else:
            parts.append(f"<p>{escape(' '.join(lines))}</p>")
    return "\n".join(parts)


def _sources(report: Report) -> str:
    return "\n".join(_source(system) for system in report.systems.values())


def _source(system: System) -> str:
    entries = [("run", str(system.run_path) if system.run_path else ""), *_flat(system.provenance)]
    lines = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in entries if value)
    return f"<details><summary>{escape(system.name)}</summary><dl>{lines}</dl></details>"


def _flat(content: object, prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as dotted names and texts."""
    if isinstance(content, dict):
        return [
            entry for key, value in content.items() for entry in _flat(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(content, list | tuple):
        return [(prefix, " ".join(str(item) for item in content))]
    return [(prefix, "" if content is None else str(content))]


def _table(heads: Sequence[str], rows: Sequence[str], kind: str) -> str:
    columns = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    return (
        f'<div class="wide"><table class="{kind}">\n<thead><tr>{columns}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )
