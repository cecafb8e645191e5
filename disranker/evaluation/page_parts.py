"""What sections of the report's page are made of: tables, figures, marks.  All text that comes in is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from disranker.evaluation.summary import NONE


def section(heading: str, content: str, name: str) -> str:
    """A section with an address of its own."""
    return f'<section id="{name}">\n<h2>{escape(heading)}</h2>\n{content}\n</section>'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is its class."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def bullets(lines: Iterable[str]) -> str:
    """A plain list."""
    return f'<ul class="plain">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def folded(heading: str, content: str) -> str:
    """Content behind a heading that opens it."""
    return f"<details><summary>{escape(heading)}</summary>\n{content}</details>"


def table(heads: Sequence[str], rows: Sequence[str], kind: str = "", cards: bool = True) -> str:
    """A table; on a phone its rows become cards, whose lines are named by `data-head`, or else it scrolls sideways."""
    columns = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    kinds = _class(f"{kind} cards".strip() if cards else kind)
    return (
        f'<div class="wide"><table{kinds}>\n<thead><tr>{columns}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def row(name: str, cells: Iterable[str], detail: str = "", tag: str = "", kind: str = "") -> str:
    """A table's row: its name with a detail below and a tag beside, then cells."""
    mark = f' <span class="tag">{escape(tag)}</span>' if tag else ""
    small = f"<small>{escape(detail)}</small>" if detail else ""
    return f'<tr{_class(kind)}><th scope="row">{escape(name)}{mark}{small}</th>{"".join(cells)}</tr>'


def cell(head: str, text: str, detail: str = "", kind: str = "") -> str:
    """A table's cell; a dash where there is no text, left out on a phone where there is no detail either."""
    small = f"<small>{escape(detail)}</small>" if detail else ""
    shown = _class(kind or ("" if text or detail else "none"))
    return f'<td data-head="{escape(head)}"{shown}>{escape(text) or NONE}{small}</td>'


def figures(drawn: Iterable[tuple[str, str]]) -> str:
    """Pictures, (caption, SVG), side by side where there is room."""
    inside = "".join(f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>\n" for caption, svg in drawn)
    return f'<div class="pictures">\n{inside}</div>'


def whisker_cell(value: float | None, interval: tuple[float, float] | None, reach: float) -> str:
    """A cell with a difference and its interval on a line whose middle is 0 and whose end is `reach`."""
    drawn = ""
    if value is not None and interval is not None and reach > 0:
        low, high = interval
        if all(math.isfinite(each) for each in (value, low, high)):
            at = [88 + 84 * each / reach for each in (low, high, value)]
            drawn = (
                '<svg viewBox="0 0 176 16" class="whisker" aria-hidden="true">'
                '<line class="zero" x1="88" x2="88" y1="0" y2="16"/>'
                f'<line x1="{at[0]:.1f}" x2="{at[1]:.1f}" y1="8" y2="8"/>'
                f'<circle cx="{at[2]:.1f}" cy="8" r="2.8"/></svg>'
            )
    return f'<td class="picture">{drawn}</td>'


def widest(values: Iterable[float | None]) -> float:
    """The largest finite size among values; 0 without one."""
    return max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
