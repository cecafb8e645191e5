"""The searchable list of queries on the report's page; a row opens to the rankings of two systems side by side.

The rankings stand in the page as JSON and are drawn by `page_script.js` when a row is opened, so that any two systems
can be chosen; without JavaScript the list stands complete, without rankings.
"""

from __future__ import annotations

import json
import math
from html import escape

from disranker.evaluation.assembly import MAX_QUERIES, QueryRow, Report
from disranker.evaluation.summary import figure


def render_queries(report: Report) -> str:
    """The whole section below its heading."""
    standings = report.standings
    names = list(standings.systems)
    first, last = report.focus[0], report.focus[-1]
    listed = (
        f"The {MAX_QUERIES} of {standings.num_queries} queries on which {first} and {last} differ most"
        if standings.num_queries > len(report.queries)
        else f"All {standings.num_queries} queries"
    )
    unfolds = any(each.rankings for each in report.queries)
    hint = " Unfold one to see two rankings side by side." if unfolds else ""
    rows = "\n".join(_query_row(each, names) for each in report.queries)
    heads = "".join(f"<span>{escape(name)}</span>" for name in names)
    return (
        f"<p>{escape(listed)}, by {escape(standings.primary)}.{hint}</p>\n"
        + _tools(names, first, last)
        + f'<div class="queries" style="--systems: {len(names)}">\n'
        f'<div class="query heads" aria-hidden="true"><span>Query</span>{heads}</div>\n'
        f'<div id="rows">\n{rows}\n</div></div>\n'
        + ("<noscript><p>Rankings are drawn by JavaScript, which is off.</p></noscript>\n" if unfolds else "")
        + f'<script type="application/json" id="rankings">{_rankings(report)}</script>'
    )


def _tools(names: list[str], first: str, last: str) -> str:
    def choices(chosen: str) -> str:
        return "".join(
            f'<option value="{number}"{" selected" if name == chosen else ""}>{escape(name)}</option>'
            for number, name in enumerate(names)
        )

    orders = [("query", "query"), ("gain", "left gains most"), ("loss", "left loses most")]
    order = "".join(f'<option value="{value}">{text}</option>' for value, text in orders)
    pair = (
        f'<label>Compare <select id="left">{choices(first)}</select></label>'
        f'<label>with <select id="right">{choices(last)}</select></label>'
        f'<label>Order <select id="order">{order}</select></label>'
    )
    return (
        '<div class="tools" hidden><label>Search <input type="search" id="search" autocomplete="off"></label>'
        f'{pair if len(names) > 1 else ""}<span id="found" aria-live="polite"></span></div>\n'
    )


def _query_row(row: QueryRow, names: list[str]) -> str:
    data = escape(json.dumps([value if math.isfinite(value) else None for value in row.values]))
    shade = [min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0 for value in row.values]
    cells = "".join(
        f'<span class="value" data-head="{escape(name)}" style="--share: {share:.2f}">{figure(value, 3)}</span>'
        for name, value, share in zip(names, row.values, shade, strict=True)
    )
    text = f"{escape(row.query)}<small>{escape(row.query_id)}</small>" if row.query else escape(row.query_id)
    head = f'<span class="text">{text}</span>{cells}'
    start = f'class="row" data-query="{escape(row.query_id)}" data-values="{data}"'
    if not row.rankings:
        return f'<div {start}><div class="query">{head}</div></div>'
    return f'<details {start}><summary class="query">{head}</summary><div class="rankings"></div></details>'


def _rankings(report: Report) -> str:
    """By query_id: documents as [doc_id, title, label or null], and by system its ranking as [document, score]."""
    content = {
        "systems": list(report.standings.systems),
        "queries": {
            row.query_id: {
                "documents": [[each.doc_id, each.title, each.label] for each in row.documents],
                "rankings": [
                    [[document, float(f"{score:.4g}")] for document, score in ranking] for ranking in row.rankings
                ],
            }
            for row in report.queries
            if row.rankings
        },
    }
    # No text of a document can end the script element.
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
