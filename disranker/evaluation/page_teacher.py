"""Teacher and student on the report's page: what the student kept, and what a cascade of the two would be worth."""

from __future__ import annotations

from collections.abc import Sequence

from disranker.evaluation.agreement import Agreement, Correlation
from disranker.evaluation.assembly import Report
from disranker.evaluation.cascade import CascadeCurve, CascadePoint
from disranker.evaluation.disagreement import DocumentGap, QueryLoss
from disranker.evaluation.page_parts import cell, figures, folded, paragraph, row, table
from disranker.evaluation.plots_analyses import draw_cascade, draw_grades, draw_histogram
from disranker.evaluation.summary import NONE, count, figure, share, signed, span

_NAMES = {"kendall_tau_b": "Kendall\u2019s tau-b", "spearman_rho": "Spearman\u2019s rho"}


def teacher_sections(report: Report) -> list[tuple[str, str]]:
    """(heading, content) of the sections whose input is there."""
    analyses, sections = report.analyses, []
    if analyses.agreement is not None:
        sections.append(("Teacher and student", _agreement(analyses.agreement, report)))
    if analyses.cascade:
        sections.append(("Cascade", _cascade(analyses.cascade, report.standings.measures, report.standings.primary)))
    return sections


def _agreement(found: Agreement, report: Report) -> str:
    texts = {each.query_id: each.query for each in report.queries if each.query}
    titles = {(each.query_id, doc.doc_id): doc.title for each in report.queries for doc in each.documents}
    retained = [
        row(
            each.measure,
            [
                cell(found.teacher, figure(each.teacher)),
                cell(found.student, figure(each.student)),
                cell("kept", share(each.retention), f"{share(each.interval[0])} to {share(each.interval[1])}"),
            ],
        )
        for each in found.retention
    ]
    orders = [_correlation(each) for each in (found.kendall, found.spearman)]
    pictures = [
        ("Scores, each system standardised over all documents", draw_histogram(found)),
        (f"Scores by label: {found.teacher} left, {found.student} right", draw_grades(found)),
    ]
    lost = [_query_loss(each, texts, found) for each in found.query_losses]
    gaps = [_document_gap(each, texts, titles) for each in found.score_gaps]
    moved = [_document_gap(each, texts, titles) for each in found.position_gaps]
    heads = ["Document", "Label", "Teacher", "Student", "Gap", "Query"]
    parts = [
        '<div class="columns">',
        table(["Quality", found.teacher, found.student, "kept"], retained, "short"),
        table(["Order within a query", "mean", "median", "5% to 95%"], orders, "short"),
        "</div>",
        figures(pictures),
        folded(
            f"{len(lost)} queries that lost most", table(["Query", found.teacher, found.student, "lost"], lost, "texts")
        )
        if lost
        else paragraph(f"{found.student} is worse than {found.teacher} on no query.", "fine"),
        folded(f"{len(gaps)} documents whose scores differ most", table(heads, gaps, "texts")) if gaps else "",
        folded(f"{len(moved)} documents whose positions differ most", table(heads, moved, "texts")) if moved else "",
    ]
    return "\n".join(part for part in parts if part)


def _correlation(found: Correlation) -> str:
    name = _NAMES.get(found.name, found.name)
    left_out = [(found.num_constant, "with constant scores"), (found.num_single, "with one document")]
    without = ", ".join(f"{count(number)} {why}" for number, why in left_out if number)
    detail = f"{count(found.num_queries)} queries" + (f"; without {without}" if without else "")
    middle = found.quantiles[2] if found.quantiles else None
    reach = f"{figure(found.quantiles[0], 2)} to {figure(found.quantiles[-1], 2)}" if found.quantiles else ""
    cells = [
        cell("mean", figure(found.mean, 3), span(*found.interval)),
        cell("median", "" if middle is None else figure(middle, 3)),
        cell("5% to 95%", reach),
    ]
    return row(name, cells, detail)


def _query_loss(each: QueryLoss, texts: dict[str, str], found: Agreement) -> str:
    cells = [
        cell(found.teacher, figure(each.teacher, 3)),
        cell(found.student, figure(each.student, 3)),
        cell("lost", figure(each.loss, 3)),
    ]
    return row(texts.get(each.query_id, each.query_id), cells, each.query_id if each.query_id in texts else "")


def _document_gap(each: DocumentGap, texts: dict[str, str], titles: dict[tuple[str, str], str]) -> str:
    cells = [
        cell("Label", NONE if each.label is None else str(each.label)),
        cell("Teacher", f"{each.teacher_score:.3g}", f"position {each.teacher_position}"),
        cell("Student", f"{each.student_score:.3g}", f"position {each.student_position}"),
        cell("Gap", signed(each.score_gap), "deviations"),
        cell("Query", texts.get(each.query_id, each.query_id), kind="long"),
    ]
    return row(titles.get((each.query_id, each.doc_id), each.doc_id), cells)


def _cascade(curves: Sequence[CascadeCurve], measures: Sequence[str], primary: str) -> str:
    first = curves[0]
    points = [
        _cascade_row("student", first.points[0], measures, is_end=True),
        *(_cascade_row(curve.rule, point, measures) for curve in curves for point in curve.points[1:-1]),
        _cascade_row("teacher", first.points[-1], measures, is_end=True),
    ]
    heads = ["Rule", "Up to", "Pairs", "Queries", *measures, "Cost"]
    words = (
        "The student ranks everything, the teacher re-orders what is uncertain among the positions that it had. "
        "band: documents whose score is near the cut; margin: whole queries with a small gap at the cut; depth: the "
        "first documents of every query. Cost is in that of the teacher alone, the student\u2019s pairs included."
    )
    cut = next((curve.cut for curve in curves if curve.cut is not None), None)
    if cut is not None:
        words += f" The cut lies after position {cut}."
    picture = figures([(primary, draw_cascade(curves, primary))])
    return paragraph(words) + f'<div class="beside">{picture}{table(heads, points, "dense", cards=False)}</div>'


def _cascade_row(name: str, point: CascadePoint, measures: Sequence[str], is_end: bool = False) -> str:
    cells = [
        cell("Up to", "" if is_end or point.threshold is None else f"{point.threshold:.3g}"),
        cell("Pairs", share(point.share_of_pairs)),
        cell("Queries", share(point.share_of_queries)),
        *(cell(measure, figure(point.measures[measure])) for measure in measures),
        cell("Cost", "" if point.relative_cost is None else share(point.relative_cost)),
    ]
    return row(name, cells)
