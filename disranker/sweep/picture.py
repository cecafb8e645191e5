"""The table of a sweep as pictures: each system's mean and interval, and how it spreads its scores."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from disranker.evaluation.summary import figure
from disranker.sweep.distributions import BIN_EDGES
from disranker.sweep.table import SweepTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _MUTED, _RULE, _ACCENT = "#1f2328", "#6e7781", "#d0d7de", "#0b66c3"
_WIDTH_INCHES = 7.0
_ROW_INCHES = 0.34
_SETTINGS: dict[Any, Any] = {  # matplotlib's own key type is a long list of literals
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "disranker",  # without it element ids differ from run to run
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "xtick.color": _MUTED,
    "ytick.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}


def draw_table(table: SweepTable) -> str:
    """The primary measure as SVG text, best row first; references are grey, the dashed line is the baseline."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    primary = table.measures[0]
    with rc_context(_SETTINGS):
        picture = Figure(figsize=(_WIDTH_INCHES, _ROW_INCHES * len(table.rows) + 1.0), layout="constrained")
        axes = picture.add_subplot()
        baseline = table.row(table.baseline)
        if baseline is not None:
            axes.axvline(baseline.values[primary], color=_MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        for place, row in enumerate(table.rows):
            colour = _MUTED if row.is_reference or row.name == table.baseline else _ACCENT
            axes.plot(row.intervals[primary], [place, place], color=colour, linewidth=2.0, solid_capstyle="butt")
            axes.plot(row.values[primary], place, marker="o", markersize=6, color=colour, markeredgewidth=0)
            for value in row.by_seed[primary].values():
                axes.plot(value, place + 0.28, marker="o", markersize=2.5, color=_MUTED, markeredgewidth=0)
        axes.set_yticks(range(len(table.rows)), [f"{row.name}  {figure(row.values[primary])}" for row in table.rows])
        axes.set_ylim(len(table.rows) - 0.4, -0.6)
        axes.set_xlabel(f"{primary} with interval; small dots: each seed")
        axes.tick_params(length=0)
        axes.grid(axis="x", color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        return _as_svg(picture)


def draw_scores(table: SweepTable) -> str:
    """The histogram of every system's standardised scores as SVG text, on that of the system others keep a share of."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    whole = table.row(table.retention_of or "")
    with rc_context(_SETTINGS):
        picture = Figure(figsize=(_WIDTH_INCHES, _ROW_INCHES * 1.6 * len(table.rows) + 1.0), layout="constrained")
        every = picture.subplots(len(table.rows), sharex=True, squeeze=False)[:, 0]
        for axes, row in zip(every, table.rows, strict=True):
            if whole is not None:
                axes.stairs(whole.scores.histogram, BIN_EDGES, fill=True, color=_RULE)
            colour = _MUTED if row is whole or row.is_reference else _ACCENT
            axes.stairs(row.scores.histogram, BIN_EDGES, color=colour, linewidth=1.2)
            axes.set_yticks([])
            axes.set_ylabel(row.name, rotation=0, ha="right", va="center", color=_INK)
            axes.tick_params(length=0)
        behind = f"; grey: {whole.name}" if whole is not None else ""
        every[-1].set_xlabel(f"score, in standard deviations from the mean{behind}")
        return _as_svg(picture)


def _as_svg(picture: Figure) -> str:
    buffer = io.StringIO()
    picture.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
