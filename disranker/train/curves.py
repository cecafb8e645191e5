"""The perplexities of a run of stage 1 as a picture: of held-out clicks and of general text, before, during, after."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from disranker.shards import write_atomic

PICTURE_NAME = "perplexity.svg"
"""Where it is in the folder of a bundle."""
_ENDING = "perplexity"
_TITLES = {
    "": "document given query",
    "query": "query given document",
    "document": "document alone",
    "general": "general text",
}
_INK, _MUTED, _RULE = "#1f2328", "#6e7781", "#d0d7de"
_COLOURS = ("#0b66c3", "#c4432b", "#2b8a3e", "#8a5cb8")
_SETTINGS: dict[Any, Any] = {  # matplotlib's own key type is a long list of literals
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "disranker",  # without it element ids differ from run to run
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "axes.edgecolor": _RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write_perplexities(out: Path) -> bool:
    """Draw the evaluations of a finished run from its metrics.jsonl into its folder; False where there are none."""
    curves = read_perplexities(out / "metrics.jsonl")
    if not curves:
        return False
    with write_atomic(out / PICTURE_NAME) as temporary:
        temporary.write_text(draw_perplexities(curves), encoding="utf-8")
    return True


def read_perplexities(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """Name of the text → (steps done, perplexity) of every evaluation in a metrics.jsonl."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        for name, value in entry.get("dev", {}).items():
            if name.endswith(_ENDING):
                curves.setdefault(_title(name), []).append((entry["step"], float(value)))
    return curves


def draw_perplexities(curves: dict[str, list[tuple[int, float]]]) -> str:
    """The curves as SVG text, perplexity on a logarithmic axis, each with its first and its last value in figures."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    with rc_context(_SETTINGS):
        picture = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = picture.add_subplot()
        for (name, points), colour in zip(curves.items(), _COLOURS, strict=False):
            steps, values = zip(*points, strict=True)
            label = f"{name}: {_figure(values[0])} → {_figure(values[-1])}"
            axes.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=3.5, label=label)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="steps", ylabel="perplexity of a held-out token")
        axes.grid(axis="y", color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", length=0)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
        buffer = io.StringIO()
        picture.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()


def _title(name: str) -> str:
    part = name.removesuffix(_ENDING).removesuffix("_")
    return _TITLES.get(part, part)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.3g}"
