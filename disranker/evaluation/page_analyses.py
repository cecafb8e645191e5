"""The analyses of the systems on the report's page: slices, cut-offs, efficiency, clicks, interleaving."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from disranker.evaluation.analyses import Clicks, Cutoffs
from disranker.evaluation.assembly import Report
from disranker.evaluation.calibration import Reliability
from disranker.evaluation.counterfactual import Estimate
from disranker.evaluation.cutoffs import Confusion, Operating
from disranker.evaluation.efficiency import LENGTHS, Latency
from disranker.evaluation.interleaving import Interleaving
from disranker.evaluation.markdown import bare_p
from disranker.evaluation.page_parts import cell, figures, paragraph, row, table, whisker_cell, widest
from disranker.evaluation.plots_analyses import draw_reliability
from disranker.evaluation.runs import System
from disranker.evaluation.slices import Slice, SliceTable
from disranker.evaluation.standings import Standings
from disranker.evaluation.summary import (
    SIGNIFICANT,
    count,
    device,
    figure,
    interleaving_sentence,
    milliseconds,
    percent,
    share,
    signed,
    span,
    speed_over_teacher,
    times,
)

_METRICS = {
    "clicks_per_page": "Clicks a page",
    "page_ctr_if_independent": "Page CTR, if independent",
    "long_clicks_per_page": "Long clicks a page",
    "dwell_seconds_per_page": "Dwell seconds a page",
}


def analysis_sections(report: Report) -> list[tuple[str, str]]:
    """(heading, content) of the sections whose input is there."""
    analyses = report.analyses
    return [
        ("Slices", "\n".join(_slice_table(table) for table in analyses.slices)),
        ("Cut-offs and calibration", _cutoffs(analyses.cutoffs) if analyses.cutoffs else ""),
        ("Efficiency", _efficiency(report.standings, report.teacher)),
        ("Clicks", _clicks(analyses.clicks) if analyses.clicks else ""),
        ("Interleaving", _interleaving(analyses.interleaving) if analyses.interleaving else ""),
    ]


# --- slices -----------------------------------------------------------------------------------------------------------


def _slice_table(found: SliceTable) -> str:
    reach = widest(end for each in found.slices for end in (each.delta, *(each.delta_interval or ())))
    heads = ["", "Queries", found.measure]
    if found.baseline is not None:
        heads += [found.baseline, "Difference", "", "p (Holm)"]
    rows = [_slice_row(each, found, reach) for each in found.slices if each.num_queries]
    empty = [each.name for each in found.slices if not each.num_queries]
    missing = paragraph(f"No query: {', '.join(empty)}.", "fine") if empty else ""
    return f"<h3>By {escape(found.slicing)}</h3>" + table(heads, rows, "comparisons slices") + missing


def _slice_row(each: Slice, found: SliceTable, reach: float) -> str:
    cells = [
        cell("Queries", count(each.num_queries)),
        cell(
            found.measure,
            "" if each.value is None else figure(each.value),
            "" if each.interval is None else span(*each.interval),
        ),
    ]
    if found.baseline is not None:
        cells += [
            cell(found.baseline, "" if each.baseline is None else figure(each.baseline)),
            cell(
                "Difference",
                "" if each.delta is None else signed(each.delta),
                "" if each.delta_interval is None else span(*each.delta_interval, sign=True),
            ),
            whisker_cell(each.delta, each.delta_interval, reach),
            cell("p (Holm)", "" if each.p_holm is None else bare_p(each.p_holm)),
        ]
    clear = each.p_holm is not None and each.p_holm < SIGNIFICANT and bool(each.delta)
    kind = ("better" if (each.delta or 0) > 0 else "worse") if clear else "even"
    return row(each.name, cells, each.note, kind=kind)


# --- cut-offs ---------------------------------------------------------------------------------------------------------


def _cutoffs(found: Cutoffs) -> str:
    own = found.systems[found.system]
    parted = [
        row(
            name,
            [
                cell("AUROC", figure(each.auroc)),
                cell("Average precision", figure(each.average_precision)),
                cell("Best F1", figure(each.best.f1), f"at {each.best.threshold:.3g}"),
            ],
        )
        for name, each in found.systems.items()
    ]
    chosen = [_operating("chosen on the other half", found.chosen)]
    chosen += [_operating("given", each) for each in own.thresholds]
    words = (
        f"A document is positive from label {own.rel} on: {count(own.num_positive)} of "
        f"{count(own.num_positive + own.num_negative)} are. Best F1 is at the threshold that suits these very rows."
    )
    shown = (
        f"Documents with at least such a score of {found.system} are shown. The chosen threshold had the best F1 on "
        f"{count(found.num_fit_queries)} of the queries and is judged on the other {count(found.num_held_queries)}, as "
        "are the grades; given ones are judged on all."
    )
    calibrated = found.calibration
    held = [
        ("sigmoid of the score", "", calibrated.before),
        (
            "Platt",
            f"scale {figure(calibrated.fitted_platt.scale, 2)}, bias {figure(calibrated.fitted_platt.bias, 2)}",
            calibrated.platt,
        ),
        ("temperature", figure(calibrated.fitted_temperature.temperature, 2), calibrated.temperature),
        ("isotonic", f"{len(calibrated.fitted_isotonic.scores)} points", calibrated.isotonic),
    ]
    reliability = [_reliability(name, detail, each) for name, detail, each in held]
    return "\n".join(
        [
            '<div class="columns"><div>',
            table(["System", "AUROC", "Average precision", "Best F1"], parted, "short"),
            paragraph(words, "fine"),
            "</div><div>",
            table(["Score", "Precision", "Recall", "F1", "shown", "hidden"], chosen, "short"),
            paragraph(shown, "fine"),
            '</div></div><div class="columns">',
            figures([(f"Probability that a document is positive, {found.system}", draw_reliability(calibrated))]),
            "<div>",
            table(["As a probability", "Brier", "ECE"], reliability, "short"),
            paragraph("Fitted on one half of the queries, judged on the other; ECE over bins of equal size.", "fine"),
            "</div><div>",
            _confusion(found.confusion),
            "</div></div>",
        ]
    )


def _operating(how: str, each: Operating) -> str:
    cells = [
        cell("Precision", "" if each.precision is None else figure(each.precision)),
        cell("Recall", figure(each.recall)),
        cell("F1", figure(each.f1)),
        cell("shown", f"{each.true_positives + each.false_positives:,}", f"{each.false_positives:,} wrongly"),
        cell("hidden", f"{each.true_negatives + each.false_negatives:,}", f"{each.false_negatives:,} wrongly"),
    ]
    return row(f"{each.threshold:.4g}", cells, how)


def _reliability(name: str, detail: str, each: Reliability) -> str:
    return row(name, [cell("Brier", figure(each.brier)), cell("ECE", figure(each.ece))], detail)


def _confusion(found: Confusion) -> str:
    rows = [
        row(
            str(label),
            [
                cell(f"grade {grade}", f"{number:,}", kind="best" if grade == label else "")
                for grade, number in zip(found.grades, numbers, strict=True)
            ],
        )
        for label, numbers in zip(found.grades, found.counts, strict=True)
    ]
    words = (
        f"Grades that the score predicts: {share(found.accuracy)} are the label, {share(found.within_one)} are at most "
        f"1 away."
    )
    return table(["Label / grade", *map(str, found.grades)], rows, "grid", cards=False) + paragraph(words, "fine")


# --- efficiency -------------------------------------------------------------------------------------------------------


def _efficiency(standings: Standings, teacher: str | None) -> str:
    """Empty where no system has a latency, a price or a teacher to be faster than: the systems' table says the rest."""
    timed = {name: each for name, each in standings.systems.items() if each.efficiency.pairs_per_second}
    latencies = {name: each.efficiency.latency for name, each in timed.items() if each.efficiency.latency}
    priced = any(each.efficiency.price_per_hour is not None for each in timed.values())
    speed_ups = {name: speed_over_teacher(standings, name, teacher) for name in timed if name != teacher}
    parts = []
    if priced or any(speed_ups.values()):
        rows = [_cost_row(name, each, speed_ups.get(name), teacher) for name, each in timed.items()]
        parts.append(table(["System", "Pairs/s", "Against the teacher", "A million pairs"], rows))
    if latencies:
        first = next(iter(latencies.values()))
        # Another run may have timed other numbers of documents; each gets its columns.
        numbers = sorted({each.documents for latency in latencies.values() for each in latency.cells})
        asked = [(number, length) for number in numbers for length in LENGTHS]
        words = (
            "Milliseconds of one request of so many documents, median; small: 95th and 99th percentile. The documents "
            f"of a request are all from the short, middle or long third of the rows by {first.length_unit}; untimed "
            f"calls before a cell: {first.warm_up_calls}, then timed ones for {first.seconds_per_cell:g} seconds."
        )
        parts += [
            table(
                ["System", *(f"{number} {length}" for number, length in asked)],
                [_latency_row(name, latency, asked) for name, latency in latencies.items()],
                "latency",
                cards=False,
            ),
            paragraph(words, "fine"),
        ]
    return "\n".join(parts)


def _cost_row(name: str, system: System, faster: float | None, teacher: str | None) -> str:
    cost, million = system.efficiency, system.efficiency.cost_per_million_pairs
    price = f"at {cost.price_per_hour:g} {cost.currency} an hour".replace("  ", " ") if million is not None else ""
    cells = [
        cell("Pairs/s", count(cost.pairs_per_second), device(system)),
        cell("Against the teacher", "" if faster is None else times(faster)),
        cell("A million pairs", "" if million is None else f"{million:.3g} {cost.currency}".strip(), price),
    ]
    return row(name, cells, tag="teacher" if name == teacher else "")


def _latency_row(name: str, latency: Latency, asked: Sequence[tuple[int, str]]) -> str:
    found = {(each.documents, each.length): each for each in latency.cells}
    cells = []
    for number, length in asked:
        each = found.get((number, length))
        tail = "" if each is None else f"{milliseconds(each.p95_ms)} \u00b7 {milliseconds(each.p99_ms)}"
        cells.append(cell(f"{number} {length}", "" if each is None else milliseconds(each.p50_ms), tail))
    return row(name, cells)


# --- clicks and interleaving ------------------------------------------------------------------------------------------


def _clicks(found: Clicks) -> str:
    first = next(iter(found.estimates.values()))
    metrics = list(first.metrics)
    rows = [
        row(
            name,
            [
                *(_estimate(_METRICS.get(metric, metric), of.metrics[metric]) for metric in metrics),
                cell("In the log", share(of.supported_share), f"{share(of.clipped_share)} clipped"),
                cell("Effective sample", count(of.effective_sample_size), f"of {count(of.num_impressions)}"),
            ],
        )
        for name, of in found.estimates.items()
    ]
    how = "given" if found.estimated is None else f"estimated in {count(found.estimated.iterations)} steps"
    if found.estimated is not None and not found.estimated.converged:
        how += ", which did not converge"
    likely = ", ".join(figure(value, 2) for value in found.propensities)
    words = (
        "What users would have done with each ranking, from the clicks on the ranking that they saw: inverse "
        f"propensity scoring under the position-based model, {count(first.num_queries)} queries with "
        f"{count(first.page_views)} page views (not in the log: {count(first.num_queries_without_log)} queries), the "
        f"first {first.depth} positions, weights {'not clipped' if first.clip is None else f'up to {first.clip:g}'}. "
        f"Below each value its {percent(first.confidence)} interval. The page CTR takes clicks on one page as "
        f"independent. How likely each position is examined ({how}): {likely}."
    )
    if first.clicked_only:
        words += " The log holds clicked documents alone, which makes estimates rough."
    heads = ["System", *(_METRICS.get(metric, metric) for metric in metrics), "In the log", "Effective sample"]
    logged = [f"{_METRICS.get(metric, metric)} {figure(of.logged, 3)}" for metric, of in first.metrics.items()]
    return (
        table(heads, rows, "") + paragraph(f"The log itself: {', '.join(logged)}.", "fine") + paragraph(words, "fine")
    )


def _estimate(head: str, found: Estimate) -> str:
    return cell(head, figure(found.value, 3), span(*found.interval))


def _interleaving(found: Interleaving) -> str:
    words = (
        f"{count(found.num_sessions)} sessions over {count(found.num_queries)} queries, lists of {found.length}, team "
        f"drafts; sessions won {count(found.wins)}, tied {count(found.ties)}, lost {count(found.losses)}; seed "
        f"{found.seed}. The users are those of the built-in world: they know labels and nothing else, so this is no "
        "test on live traffic."
    )
    return paragraph(interleaving_sentence(found)) + paragraph(words, "fine")
