"""A report in words and in Markdown: sentences, figures as people read them, tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from disranker.evaluation.assembly import Report
from disranker.evaluation.runs import System
from disranker.evaluation.significance import Comparison

SIGNIFICANT = 0.05
"""Below this p-value a sentence says "beats"; above it, "cannot be told apart"."""


MINUS = "\u2212"  # as wide as a plus, so columns of differences line up
NONE = "\u2013"
"""What stands where there is no figure."""


def sentence(comparison: Comparison) -> str:
    """One comparison in plain words."""
    measure = comparison.measure
    queries = f"{comparison.wins} queries won, {comparison.losses} lost"
    if comparison.p_value < SIGNIFICANT and comparison.delta != 0:
        verb = "beats" if comparison.delta > 0 else "falls short of"
        return (
            f"{comparison.a} {verb} {comparison.b} by {figure(abs(comparison.delta), 3)} {measure} "
            f"({p_value(comparison.p_value)}; {queries})."
        )
    return (
        f"{comparison.a} cannot be told apart from {comparison.b}: {signed(comparison.delta)} {measure} "
        f"({p_value(comparison.p_value)}; {queries})."
    )


def headline(report: Report) -> str:
    """The first sentence of a report: which system is best, and how good."""
    best = next(iter(report.systems))
    value = figure(report.systems[best].measured.aggregate[report.primary])
    low, high = report.intervals[best][report.primary]
    of = f"{best} ranks best of {len(report.systems)} systems" if len(report.systems) > 1 else f"{best} was measured"
    return f"{of}: {report.primary} {value} ({percent(report.confidence)} interval {span(low, high)})."


def how_to_read(report: Report) -> list[str]:
    """What the figures are, one sentence or two each."""
    lines = [
        "Higher is better everywhere. nDCG@k has linear gain (the label itself) unless its name says exp-log2 "
        f"(2^label {MINUS} 1), and counts the first k places.",
        "PNR is the number of document pairs in the right order for each pair in the wrong order, over pairs with "
        "different labels, pooled over all queries; a tie of two scores counts half right, half wrong, unless the "
        "name says otherwise. Random order has PNR 1.",
        f"Intervals hold {percent(report.confidence)} of bootstrap samples of the queries. p is from a two-sided "
        "paired randomisation test over queries; it is not corrected for the number of comparisons made.",
    ]
    counts = next(iter(report.systems.values())).measured.counts
    if any(system.measured.counts.get("num_unjudged") for system in report.systems.values()):
        most = max(system.measured.counts.get("num_unjudged", 0) for system in report.systems.values())
        lines.append(f"Scored documents without a label (up to {count(most)} in a system) count as label 0.")
    if counts.get("num_queries_without_pairs"):
        lines.append(
            f"{count(counts['num_queries_without_pairs'])} of {count(counts['num_queries'])} queries have no two "
            "documents with different labels and do not enter PNR."
        )
    return lines


def scope(report: Report) -> str:
    """How much was measured, in one line."""
    counts = next(iter(report.systems.values())).measured.counts
    parts = [
        f"{count(report.num_queries)} queries",
        f"{count(counts['num_documents'])} scored documents" if counts.get("num_documents") else "",
        f"{len(report.systems)} systems",
        f"baseline {report.baseline}" if report.baseline else "",
        report.generated or "",
    ]
    return " · ".join(part for part in parts if part)


def cost_columns(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the systems cost: (heading, one (figure, detail) per system); a column without any figure is left out."""
    systems = list(report.systems.values())
    training = [_training(system) for system in systems]
    columns = [
        ("Parameters", [(magnitude(of.efficiency.parameters), magnitude(of.efficiency.bytes, "B")) for of in systems]),
        ("Pairs/s", [(count(of.efficiency.pairs_per_second), _device(of)) for of in systems]),
        ("Steps", [(count(of.get("steps")), _seen(of)) for of in training]),
    ]
    return [(heading, cells) for heading, cells in columns if any(text or detail for text, detail in cells)]


def render_markdown(report: Report) -> str:
    """The report for a pull request."""
    costs = cost_columns(report)
    rows = []
    for index, (name, system) in enumerate(report.systems.items()):
        cells = [f"**{_cell(name)}**" if index == 0 else _cell(name), _cell(system.kind)]
        for measure in report.measures:
            low, high = report.intervals[name][measure]
            cells.append(f"{figure(system.measured.aggregate[measure])} ({span(low, high)})")
        for _, column in costs:
            text, detail = column[index]
            cells.append(_cell(f"{text or NONE} ({detail})" if detail else text or NONE))
        rows.append(cells)
    parts = [
        f"# {report.title}",
        scope(report),
        f"**{headline(report)}**",
        "\n".join(f"- {sentence(comparison)}" for comparison in report.main_comparisons),
        "## Systems",
        _table(["System", "Kind", *report.measures, *(heading for heading, _ in costs)], rows),
        "## Comparisons" if report.comparisons else "",
        _table(
            ["A", "B", "Measure", f"A {MINUS} B", f"{percent(report.confidence)} interval", "p", "won / tied / lost"],
            [
                [
                    _cell(found.a),
                    _cell(found.b),
                    found.measure,
                    signed(found.delta),
                    span(*found.interval, sign=True),
                    p_value(found.p_value).removeprefix("p ").removeprefix("= "),
                    f"{found.wins} / {found.ties} / {found.losses}",
                ]
                for found in report.comparisons
            ],
        )
        if report.comparisons
        else "",
        *(f"## {heading}\n\n{text.strip()}" for heading, text in report.notes),
        "## How to read this",
        "\n".join(f"- {line}" for line in how_to_read(report)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# --- figures ----------------------------------------------------------------------------------------------------------


def figure(value: float, digits: int | None = None) -> str:
    """A measure's value: four decimals below 1, three from there; infinity and a dash where there is none."""
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if digits is None:
        digits = 4 if abs(value) <= 1 else 3
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float) -> str:
    """A difference with its sign."""
    text = figure(value, 3)
    if text.strip(f"{MINUS}0.") == "" and not math.isnan(value):
        return "±0.000"
    return text if value < 0 or math.isnan(value) else f"+{text}"


def span(low: float, high: float, sign: bool = False) -> str:
    """An interval."""
    write = signed if sign else (lambda value: figure(value, 3))
    return f"{write(low)} to {write(high)}"


def p_value(value: float) -> str:
    """`p = 0.0031`, `p = 0.042`, `p < 0.0001`."""
    if value < 0.0001:
        return "p < 0.0001"
    return f"p = {value:.4f}" if value < 0.01 else f"p = {value:.3f}"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{share * 100:g}%"


def count(value: float | None) -> str:
    """A count with thousands apart; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def magnitude(value: float | None, unit: str = "") -> str:
    """22.7 M, 91 MB (powers of 1000); empty for None."""
    if value is None:
        return ""
    for factor, letter in ((1e9, "G" if unit else "B"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            scaled = value / factor
            return f"{scaled:.3g} {letter}{unit}" if scaled < 1000 else f"{scaled:,.0f} {letter}{unit}"
    return f"{value:,.0f} {unit}".strip()


def _device(system: System) -> str:
    efficiency = system.efficiency
    threads = f"{efficiency.threads} thread{'s' if efficiency.threads != 1 else ''}" if efficiency.threads else None
    return ", ".join(part for part in (efficiency.device, threads, efficiency.dtype) if part)


def _training(system: System) -> dict[str, Any]:
    training = system.provenance.get("training")
    return dict(training) if isinstance(training, dict) else {}


def _seen(training: dict[str, Any]) -> str:
    """Pairs, or tokens, that the training went over."""
    for unit in ("pairs", "tokens"):
        if training.get(unit) is not None:
            return f"{magnitude(training[unit])} {unit}"
    return ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
