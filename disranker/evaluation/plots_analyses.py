"""The pictures of a report's analyses as SVG text, in the manner of `plots.py`.

Scores of teacher and student, the cascade, the reliability of scores as probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from disranker.evaluation.agreement import Agreement, FiveNumbers
from disranker.evaluation.calibration import CalibrationReport
from disranker.evaluation.cascade import CascadeCurve
from disranker.evaluation.plots import ACCENT, INK, MUTED, RULE, SETTINGS, WIDTH_INCHES, as_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT_INCHES = 3.4
_PLACE = (0.11, 0.16, 0.86, 0.74)  # left, bottom, width, height of the axes in the figure
_LINES = ("-", (0, (5, 2)), (0, (1, 1.6)))


def draw_histogram(agreement: Agreement) -> str:
    """How the standardised scores of teacher and student are spread."""
    found = agreement.histogram
    num_documents = max(agreement.num_documents, 1)
    with _settings():
        picture, axes = _start()
        for counts, colour, name in (
            (found.teacher, MUTED, agreement.teacher),
            (found.student, ACCENT, agreement.student),
        ):
            shares = [100 * number / num_documents for number in counts]
            axes.stairs(shares, found.edges, color=colour, linewidth=1.6, label=name)
            axes.stairs(shares, found.edges, color=colour, fill=True, alpha=0.16, linewidth=0)
        axes.set_ylim(bottom=0)
        _finish(axes, "standard deviations from the mean score", "% of documents")
        _name_lines(axes)
        return as_svg(picture, "histogram", "Scores of teacher and student")


def draw_grades(agreement: Agreement) -> str:
    """Standardised scores by label: median, quartiles and extremes, the teacher left, the student right."""
    with _settings():
        picture, axes = _start()
        for place, grade in enumerate(agreement.grades):
            _box(axes, place - 0.17, grade.teacher, MUTED)
            _box(axes, place + 0.17, grade.student, ACCENT)
        axes.set_xticks(
            range(len(agreement.grades)),
            ["not judged" if grade.label is None else str(grade.label) for grade in agreement.grades],
        )
        axes.set_xlim(-0.6, len(agreement.grades) - 0.4)
        _finish(axes, "label", "standardised score")
        return as_svg(picture, "grades", "Scores by label")


def draw_cascade(curves: Sequence[CascadeCurve], measure: str) -> str:
    """The measure against the share of pairs that is sent on, a line for each rule, from student to teacher."""
    with _settings():
        picture, axes = _start()
        for curve, style, colour in zip(curves, _LINES, (ACCENT, INK, MUTED), strict=False):
            shares = [100 * point.share_of_pairs for point in curve.points]
            values = [point.measures[measure] for point in curve.points]
            axes.plot(
                shares, values, color=colour, linestyle=style, linewidth=1.6, marker="o", markersize=4, label=curve.rule
            )
        axes.set_xticks([0, 25, 50, 75, 100], ["student", "25%", "50%", "75%", "teacher"])
        axes.margins(y=0.08)
        _finish(axes, "pairs sent on to the teacher", "")
        _name_lines(axes)
        return as_svg(picture, "cascade", f"{measure} of the cascade")


def draw_reliability(calibration: CalibrationReport) -> str:
    """Share of positives against the predicted probability, before and after calibration; the diagonal is perfect."""
    with _settings():
        picture, axes = _start()
        axes.plot([0, 1], [0, 1], color=RULE, linewidth=1.2)
        curves = (
            (calibration.before, "sigmoid of the score", MUTED, _LINES[1]),
            (calibration.platt, "Platt", ACCENT, _LINES[0]),
            (calibration.isotonic, "isotonic", INK, _LINES[2]),
        )
        for reliability, name, colour, style in curves:
            axes.plot(
                [each.mean_prob for each in reliability.bins],
                [each.share_positive for each in reliability.bins],
                color=colour,
                linestyle=style,
                linewidth=1.4,
                marker="o",
                markersize=3.5,
                label=name,
            )
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        _finish(axes, "predicted probability", "share of positives")
        _name_lines(axes)
        return as_svg(picture, "reliability", "Reliability of scores as probabilities")


def _settings() -> AbstractContextManager[None]:
    from matplotlib import rc_context

    return rc_context(SETTINGS)


def _start() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(WIDTH_INCHES, _HEIGHT_INCHES))
    return picture, picture.add_axes(_PLACE)


def _finish(axes: Axes, below: str, beside: str) -> None:
    axes.set_xlabel(below, fontsize=10, labelpad=3)
    axes.set_ylabel(beside, fontsize=10, labelpad=3)
    axes.tick_params(which="both", length=0, labelsize=10)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def _name_lines(axes: Axes) -> None:
    """Names above the axes, where no line can run through them."""
    axes.legend(
        frameon=False,
        fontsize=10,
        ncols=3,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        handlelength=2.0,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def _box(axes: Axes, place: float, found: FiveNumbers, colour: str) -> None:
    axes.plot([place, place], [found.lowest, found.first_quartile], color=colour, linewidth=1.1)
    axes.plot([place, place], [found.third_quartile, found.highest], color=colour, linewidth=1.1)
    height = found.third_quartile - found.first_quartile
    axes.bar(place, height, width=0.26, bottom=found.first_quartile, color=colour, alpha=0.3, linewidth=0)
    axes.plot([place - 0.13, place + 0.13], [found.median, found.median], color=colour, linewidth=2.2)
