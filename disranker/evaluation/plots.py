"""The pictures of a report as SVG text: measures with their intervals, and quality against speed.

Text stays text, so that the reader's fonts draw it (Chinese too) and it can be searched; colours become CSS variables
(--ink, --muted, --rule, --accent), so that the page decides on light and dark.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from html import escape
from typing import TYPE_CHECKING, Any

from disranker.evaluation.standings import Standings
from disranker.evaluation.summary import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for the page's variables; no other part of a figure uses them.
COLOURS = {"#010101": "var(--ink)", "#020202": "var(--muted)", "#030303": "var(--rule)", "#040404": "var(--accent)"}
INK, MUTED, RULE, ACCENT = COLOURS

WIDTH_INCHES = 5.0  # at 72 points an inch: 360 CSS pixels, a phone's width, so text keeps its size there
SETTINGS: dict[Any, Any] = {  # matplotlib's own key type is a long list of literals
    "svg.fonttype": "none",
    "svg.hashsalt": "disranker",  # without it element ids differ from run to run
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib; only measures text, see as_svg
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
}


def draw_measure(standings: Standings, measure: str) -> str:
    """Bars of one measure with intervals, best first; the baseline is grey."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = list(standings.systems)
    ordered = sorted(names, key=lambda name: -standings.systems[name].measured.aggregate[measure])
    with rc_context(SETTINGS):
        height = _height_inches(standings)
        picture = Figure(figsize=(WIDTH_INCHES, height))
        axes = picture.add_axes((0.025, 0.34 / height, 0.95, 0.98 - 0.34 / height))
        finite = [high for of in standings.intervals.values() for high in of[measure] if math.isfinite(high)]
        limit = max([*finite, 1e-9]) * 1.02
        for row, name in enumerate(ordered):
            value = standings.systems[name].measured.aggregate[measure]
            low, high = (min(edge, limit) for edge in standings.intervals[name][measure])
            colour = MUTED if name == standings.baseline else ACCENT
            if math.isfinite(value):
                axes.barh(row, value, height=0.34, color=colour, alpha=0.8, linewidth=0)
            if math.isfinite(low) and math.isfinite(high):
                axes.plot([low, high], [row, row], color=INK, linewidth=1.3, solid_capstyle="butt")
                for edge in (low, high):
                    axes.plot([edge, edge], [row - 0.1, row + 0.1], color=INK, linewidth=1.3)
            axes.text(0, row - 0.27, name, va="bottom", ha="left")
            axes.text(limit, row - 0.27, figure(value), va="bottom", ha="right", color=MUTED)
        axes.set(xlim=(0, limit), ylim=(len(ordered) - 0.7, -0.75), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="x", length=0, labelsize=10)
        axes.grid(axis="x", color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)
        return as_svg(picture, f"measure-{standings.measures.index(measure)}", f"{measure} of each system")


def draw_speed(standings: Standings) -> str | None:
    """The primary measure against pairs per second (logarithmic); None where fewer than two systems have a speed."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    points: list[tuple[str, float, float]] = []
    for name, system in standings.systems.items():
        speed, value = system.efficiency.pairs_per_second, system.measured.aggregate[standings.primary]
        if speed and speed > 0 and math.isfinite(value):
            points.append((name, speed, value))
    if len(points) < 2:
        return None
    with rc_context(SETTINGS):
        picture = Figure(figsize=(WIDTH_INCHES, _height_inches(standings)))
        axes = picture.add_axes((0.1, 0.12, 0.83, 0.86))
        axes.set_xscale("log")
        for name, speed, value in points:
            colour = MUTED if name == standings.baseline else ACCENT
            low, high = standings.intervals[name][standings.primary]
            axes.plot([speed, speed], [low, high], color=colour, linewidth=1.1, alpha=0.55)
            axes.plot([speed], [value], marker="o", markersize=6.5, color=colour, markeredgewidth=0)
        speeds = [speed for _, speed, _ in points]
        axes.set_xlim(min(speeds) / 2.2, max(speeds) * 2.2)
        axes.set_xlabel("pairs per second", fontsize=10, labelpad=3)
        axes.xaxis.set_major_locator(LogLocator(base=10, numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="both", length=0, labelsize=10)
        axes.grid(color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        _label_points(axes, points)
        return as_svg(picture, "speed", f"{standings.primary} against speed")


def _height_inches(standings: Standings) -> float:
    """One height for all pictures, so that they stand in a row."""
    return max(3.2, 0.5 * len(standings.systems) + 0.45)


def _label_points(axes: Axes, points: list[tuple[str, float, float]]) -> None:
    """Names beside their points, moved until they cover neither each other nor a point."""
    to_points = 72 / axes.figure.dpi
    places = [axes.transData.transform((speed, value)) * to_points for _, speed, value in points]
    right_edge = axes.bbox.x1 * to_points
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for (name, speed, value), (x, y) in zip(points, places, strict=True):
        width = sum(11.0 if ord(letter) > 0x2E7F else 6.2 for letter in name)
        options = [
            (side, rise)
            for rise in (0, 11, -11, 20, -20, 29, -29)
            for side in ("left", "right")  # ha="left": the text begins at the point
        ]
        for side, rise in options:
            start = x + 7 if side == "left" else x - 7 - width
            box = (start, y + rise - 5, start + width, y + rise + 5)
            inside = start >= axes.bbox.x0 * to_points and start + width <= right_edge
            if inside and not any(_overlap(box, other) for other in taken):
                break
        else:  # no free place: beside the point, whatever it covers
            side, rise = "left" if x + 7 + width <= right_edge else "right", 0
            box = (x, y, x, y)
        taken.append(box)
        axes.annotate(
            name,
            (speed, value),
            xytext=(7 if side == "left" else -7, rise),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=10.5,
        )


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def as_svg(picture: Figure, prefix: str, label: str) -> str:
    """The figure as an inline <svg>, with its ids made unique to `prefix`."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # matplotlib measures text with its own font, which lacks Chinese; the reader's browser has it.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        picture.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = svg.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif")
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, variable)
    return re.sub(
        r"<svg [^>]*?viewBox=\"([^\"]+)\"[^>]*>", rf'<svg viewBox="\1" role="img" aria-label="{escape(label)}">', svg
    )
