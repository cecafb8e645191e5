"""A report as Markdown for a pull request: the sentences and the systems open, everything longer folded."""

from __future__ import annotations

from collections.abc import Sequence

from disranker.evaluation.assembly import Report
from disranker.evaluation.significance import Comparison
from disranker.evaluation.standings import Standings
from disranker.evaluation.summary import (
    MINUS,
    NONE,
    cost_columns,
    figure,
    findings,
    gsb_line,
    headline,
    how_to_read,
    p_value,
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


def render_markdown(report: Report) -> str:
    """The report for a pull request."""
    standings = report.standings
    main = standings.main_comparisons
    rest = [found for found in standings.comparisons if found not in main]
    parts = [
        f"# {report.title}",
        scope(standings, report.generated),
        f"**{headline(standings)}**",
        "\n".join(f"- {line}" for line in _summary_lines(report)),
        "## Systems",
        _systems_table(standings),
        f"## Comparisons\n\n{_comparisons_table(main, standings)}" if main else "",
        _folded(f"{len(rest)} more comparisons", _comparisons_table(rest, standings)) if rest else "",
        *(_more_set(name, others) for name, others in report.more_sets.items()),
        *(f"## {heading}\n\n{text.strip()}" for heading, text in report.notes),
        _slices(report),
        _folded("Rules and counts", _bullets(rules_and_counts(standings))),
        _folded("How to read this", _bullets(how_to_read(report))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary_lines(report: Report) -> list[str]:
    lines = []
    for comparison, plan in zip(report.standings.main_comparisons, report.standings.plans, strict=True):
        # How many queries would have been enough is of use where they were too few.
        power = "" if told_apart(comparison) else f" {power_line(plan)}."
        lines.append(f"{sentence(comparison)} {gsb_line(comparison)}.{power}")
    return lines + findings(report)


def _systems_table(standings: Standings) -> str:
    costs = cost_columns(standings)
    rows = []
    for index, (name, system) in enumerate(standings.systems.items()):
        cells = [f"**{_cell(name)}**" if index == 0 else _cell(name), _cell(system.kind)]
        for measure in standings.measures:
            low, high = standings.intervals[name][measure]
            cells.append(f"{figure(system.measured.aggregate[measure])} ({span(low, high)})")
        for _, column in costs:
            text, detail = column[index]
            cells.append(_cell(f"{text or NONE} ({detail})" if detail else text or NONE))
        rows.append(cells)
    return _table(["System", "Kind", *standings.measures, *(heading for heading, _ in costs)], rows)


def _comparisons_table(comparisons: Sequence[Comparison], standings: Standings) -> str:
    heads = ["A", "B", "Measure", f"A {MINUS} B", f"{percent(standings.confidence)} interval"]
    return _table(
        [*heads, "p", "p (Holm)", "p (t-test)", "d", "won / tied / lost", "(G " + MINUS + " B) / all"],
        [
            [
                _cell(found.a),
                _cell(found.b),
                found.measure,
                signed(found.delta),
                span(*found.interval, sign=True),
                bare_p(found.p_value),
                bare_p(found.p_holm),
                bare_p(found.t_p_value),
                NONE if found.effect_size is None else figure(found.effect_size, 2),
                f"{found.wins} / {found.ties} / {found.losses}",
                NONE if found.good_same_bad is None else signed_percent(found.good_same_bad.figure),
            ]
            for found in comparisons
        ],
    )


def _more_set(name: str, standings: Standings) -> str:
    lines = [headline(standings), *(sentence(found) for found in standings.main_comparisons)]
    return f"## Judged set {name}\n\n{scope(standings)}\n\n{_bullets(lines)}\n\n{_systems_table(standings)}"


def _slices(report: Report) -> str:
    rows = [
        [
            table.slicing,
            each.name,
            str(each.num_queries),
            NONE if each.value is None else figure(each.value),
            NONE if each.delta is None else signed(each.delta),
            NONE if each.delta_interval is None else span(*each.delta_interval, sign=True),
            bare_p(each.p_holm),
        ]
        for table in report.analyses.slices
        for each in table.slices
    ]
    if not rows:
        return ""
    first = report.analyses.slices[0]
    against = f"against {first.baseline}" if first.baseline else "Difference"
    return _folded(
        f"{first.system} by slice of the queries",
        _table(["By", "Slice", "Queries", first.measure, against, "interval", "p (Holm)"], rows),
    )


def bare_p(value: float | None) -> str:
    """A p-value for a column that is headed p; a dash for None."""
    return NONE if value is None else p_value(value).removeprefix("p ").removeprefix("= ")


def _folded(heading: str, content: str) -> str:
    return f"<details><summary>{_cell(heading)}</summary>\n\n{content}\n\n</details>"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
