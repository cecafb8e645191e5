"""A report in words: sentences, and figures as people read them.  `markdown.py` and `page.py` set them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from disranker.evaluation.agreement import Agreement
from disranker.evaluation.assembly import Report
from disranker.evaluation.cascade import CascadeCurve
from disranker.evaluation.efficiency import speed_up
from disranker.evaluation.interleaving import Interleaving
from disranker.evaluation.power import PowerPlan
from disranker.evaluation.runs import System
from disranker.evaluation.significance import Comparison
from disranker.evaluation.standings import Standings

SIGNIFICANT = 0.05
"""Below this p-value, corrected where there are several, a sentence says "beats"; above it, "cannot be told apart"."""

MINUS = "\u2212"  # as wide as a plus, so columns of differences line up
NONE = "\u2013"
"""What stands where there is no figure."""


def told_apart(comparison: Comparison) -> bool:
    """Whether a difference is more than chance, after correction where there are several comparisons."""
    return deciding_p(comparison) < SIGNIFICANT and comparison.delta != 0


def deciding_p(comparison: Comparison) -> float:
    """The p-value that decides: Holm's, where there are several comparisons."""
    return comparison.p_value if comparison.p_holm is None else comparison.p_holm


def sentence(comparison: Comparison) -> str:
    """One comparison in plain words."""
    measure = comparison.measure
    p = deciding_p(comparison)
    corrected = " after Holm\u2019s correction" if p != comparison.p_value else ""
    queries = f"{p_value(p)}{corrected}; {comparison.wins} queries won, {comparison.losses} lost"
    if told_apart(comparison):
        verb = "beats" if comparison.delta > 0 else "falls short of"
        return f"{comparison.a} {verb} {comparison.b} by {figure(abs(comparison.delta), 3)} {measure} ({queries})."
    return f"{comparison.a} cannot be told apart from {comparison.b}: {signed(comparison.delta)} {measure} ({queries})."


def gsb_line(comparison: Comparison) -> str:
    """Good, same and bad queries of a comparison; empty where they were not counted."""
    found = comparison.good_same_bad
    if found is None:
        return ""
    return (
        f"Good {found.good} \u00b7 same {found.same} \u00b7 bad {found.bad} at \u00b1{found.threshold:g} a query; "
        f"(G {MINUS} B) / all = {signed_percent(found.figure)}"
    )


def power_line(plan: PowerPlan) -> str:
    """What so many queries can show."""
    if plan.note or plan.queries_needed is None:
        return plan.note[:1].upper() + plan.note[1:]
    enough = (
        f"{count(plan.queries_needed)} queries would be needed to see a difference of {figure(abs(plan.delta), 3)}"
        if plan.queries_needed > plan.num_queries
        else f"{count(plan.queries_needed)} queries would have been enough to see {figure(abs(plan.delta), 3)}"
    )
    smallest = "" if plan.smallest_delta is None else figure(plan.smallest_delta, 3)
    able = f"; these {count(plan.num_queries)} can show {smallest} or more" if smallest else ""
    return f"{enough}{able} (power {percent(plan.power)})"


def headline(standings: Standings) -> str:
    """The first sentence of a report: which system is best, and how good."""
    best = next(iter(standings.systems))
    value = figure(standings.systems[best].measured.aggregate[standings.primary])
    low, high = standings.intervals[best][standings.primary]
    number = len(standings.systems)
    of = f"{best} ranks best of {number} systems" if number > 1 else f"{best} was measured"
    return f"{of}: {standings.primary} {value} ({percent(standings.confidence)} interval {span(low, high)})."


def findings(report: Report) -> list[str]:
    """What the analyses found, one sentence each, for the top of the report."""
    analyses, standings = report.analyses, report.standings
    found = []
    if analyses.agreement is not None:
        found.append(retention_sentence(analyses.agreement, standings))
    if analyses.cascade:
        found.append(cascade_sentence(analyses.cascade, standings.primary))
    if analyses.clicks is not None and len(report.focus) > 1:
        names = [name for name in report.focus if name in analyses.clicks.estimates]
        shown = [analyses.clicks.estimates[name].metrics["clicks_per_page"] for name in names]
        parts = [
            f"{name} {figure(each.value, 3)} ({span(*each.interval)})" for name, each in zip(names, shown, strict=True)
        ]
        found.append(f"Estimated clicks a page: {', '.join(parts)}; the log itself shows {figure(shown[0].logged, 3)}.")
    if analyses.interleaving is not None:
        found.append(interleaving_sentence(analyses.interleaving))
    return [each for each in found if each]


def retention_sentence(agreement: Agreement, standings: Standings) -> str:
    """What the student kept of its teacher, and how much faster it is."""
    first = agreement.retention[0]
    low, high = first.interval
    kept = f"{agreement.student} keeps {share(first.retention)} of {agreement.teacher}\u2019s {first.measure}"
    faster = speed_over_teacher(standings, agreement.student, agreement.teacher)
    speed = "" if faster is None else f", at {times(faster)} its speed"
    return f"{kept} ({percent(first.confidence)} interval {share(low)} to {share(high)}){speed}."


def speed_over_teacher(standings: Standings, name: str, teacher: str | None) -> float | None:
    """How many times faster than the teacher a system is; None where either speed is not known."""
    if teacher is None:
        return None
    own, other = (standings.systems[each].efficiency.pairs_per_second for each in (name, teacher))
    return speed_up(own, other) if own and other else None


def cascade_sentence(curves: Sequence[CascadeCurve], measure: str) -> str:
    """The smallest share, by any rule, that closes half of the gap; empty where the teacher is not better."""
    start, end = (curves[0].points[place].measures[measure] for place in (0, -1))
    if not end > start:
        return ""
    enough = [
        (curve, point) for curve in curves for point in curve.points if point.measures[measure] >= (start + end) / 2
    ]
    curve, half = min(enough, key=lambda each: each[1].share_of_pairs)
    return (
        f"Sending {share(half.share_of_pairs)} of the pairs on to the teacher (rule {curve.rule}) reaches {measure} "
        f"{figure(half.measures[measure])}; the student alone has {figure(start)}, the teacher {figure(end)}."
    )


def interleaving_sentence(found: Interleaving) -> str:
    """Whom the simulated users prefer."""
    low, high = found.interval
    verdict = (
        f"prefer {found.a if found.preference > 0.5 else found.b}"
        if found.p_value < SIGNIFICANT
        else "have no clear preference"
    )
    return (
        f"Simulated users {verdict}: {found.a} wins {share(found.preference)} of interleaved sessions against "
        f"{found.b}, ties split ({percent(found.confidence)} interval {share(low)} to {share(high)}; "
        f"{p_value(found.p_value)})."
    )


def how_to_read(report: Report) -> list[str]:
    """What the figures are, one sentence or two each."""
    standings = report.standings
    return [
        "Higher is better everywhere. nDCG@k has linear gain (the label itself) unless its name says exp-log2 "
        f"(2^label {MINUS} 1), and counts the first k positions.",
        "PNR is the number of document pairs in the right order for each pair in the wrong order, over pairs with "
        "different labels, pooled over all queries; a tie of two scores counts half right, half wrong, unless the "
        "name says otherwise. Random order has PNR 1.",
        f"Intervals hold {percent(standings.confidence)} of bootstrap samples of the queries. p is from a two-sided "
        "paired randomisation test over queries; \u201cHolm\u201d is p corrected for the number of comparisons by that "
        "measure. t is the paired t-test, d the mean difference in standard deviations of the differences "
        "(Cohen\u2019s d_z); a pooled PNR is no mean over queries and has neither.",
        "Good, same and bad count queries by a difference that is worth noticing; won, tied and lost by any.",
    ]


_RULES = {
    "unjudged": {
        "zero": "Scored documents without a label count as label 0",
        "skip": "Scored documents without a label were taken out of the lists (condensed lists)",
        "error": "Scored documents without a label were refused",
    },
    "missing": {
        "zero": "Judged queries that a run lacks count as 0",
        "skip": "Judged queries that a run lacks are in no figure",
        "error": "Judged queries that a run lacks were refused",
    },
    "no_relevant": {
        "zero": "Queries without a label above 0 count as 0",
        "skip": "Queries without a label above 0 are in no figure",
    },
    "ties": {
        "doc_id": "Documents with equal scores are placed by doc_id, descending",
        "pessimistic": "Documents with equal scores are placed worst label first",
    },
}


def rules_and_counts(standings: Standings) -> list[str]:
    """Each rule of the measurement with how often it was met; counts are the largest of any system."""
    rules, counts = standings.rules, standings.counts
    met = {
        "unjudged": ("num_unjudged", "documents"),
        "missing": ("num_queries_missing", "queries"),
        "no_relevant": ("num_queries_without_relevant", "queries"),
        "ties": ("num_tied_documents", "documents"),
    }
    lines = []
    for name, (counted, unit) in met.items():
        number = counts.get(counted)
        suffix = "" if number is None else f": {count(number) if number else 'none'}{f' ({unit})' if number else ''}"
        lines.append(f"{_RULES[name][getattr(rules, name)]}{suffix}.")
    others = (
        ("num_queries_without_pairs", "queries have no two documents with different labels and do not enter PNR"),
        ("num_unscored", "judged documents were not scored; they stay in the ideal ranking"),
        ("num_queries_skipped", "queries were skipped by these rules"),
    )
    return lines + [f"{count(counts[name])} {text}." for name, text in others if counts.get(name)]


def scope(standings: Standings, generated: str | None = None) -> str:
    """How much was measured, in one line."""
    documents = standings.counts.get("num_documents")
    number = len(standings.systems)
    parts = [
        f"{count(standings.num_queries)} queries",
        f"{count(documents)} scored documents" if documents else "",
        f"{number} system{'s' if number != 1 else ''}",
        f"baseline {standings.baseline}" if standings.baseline else "",
        generated or "",
    ]
    return " \u00b7 ".join(part for part in parts if part)


def cost_columns(standings: Standings) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the systems are: (heading, one (figure, detail) per system); a column without any figure is left out."""
    systems = list(standings.systems.values())
    training = [_training(system) for system in systems]
    columns = [
        ("Parameters", [(magnitude(of.efficiency.parameters), magnitude(of.efficiency.bytes, "B")) for of in systems]),
        ("Pairs/s", [(count(of.efficiency.pairs_per_second), device(of)) for of in systems]),
        ("Steps", [(count(of.get("steps")), _seen(of)) for of in training]),
    ]
    return [(heading, cells) for heading, cells in columns if any(text or detail for text, detail in cells)]


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


def share(value: float) -> str:
    """A computed share in percent, one decimal; a dash where there is none."""
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return "\u221e"
    return f"{value * 100:.1f}%".replace("-", MINUS)


def signed_percent(value: float) -> str:
    """A share with its sign."""
    return share(value) if value <= 0 else f"+{share(value)}"


def times(value: float) -> str:
    """A ratio: `2.3 times`, `0.012 times`."""
    return f"{value:,.0f} times" if value >= 100 else f"{value:.2g} times"


def milliseconds(value: float) -> str:
    """A latency in milliseconds, three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def device(system: System) -> str:
    """What a system ran on: device, threads, type of the weights."""
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
