"""The table of a sweep as files: sweep.json with every figure, sweep.md to read, two pictures to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from disranker.config.sweep import SweepConfig
from disranker.evaluation.runs import write_json
from disranker.evaluation.summary import MINUS, NONE, count, figure, magnitude, p_value, percent, signed, span
from disranker.settings import provenance
from disranker.shards import write_atomic
from disranker.sweep.distributions import QUANTILES
from disranker.sweep.picture import draw_scores, draw_table
from disranker.sweep.table import CONFIDENCE, SAMPLES, Row, SweepTable
from disranker.train.journal import clock

FORMAT = 1
"""Version of sweep.json."""


def write_table(config: SweepConfig, table: SweepTable) -> None:
    """Write the four files into the folder of the sweep."""
    out = Path(config.out)
    content = {
        "format": FORMAT,
        **asdict(table),
        "confidence": CONFIDENCE,
        "samples": SAMPLES,
        "config": config.model_dump(mode="json"),
        "provenance": provenance(),
    }
    write_json(out / "sweep.json", content)
    files = {"sweep.md": render_markdown(table), "sweep.svg": draw_table(table), "scores.svg": draw_scores(table)}
    for name, text in files.items():
        with write_atomic(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def render_markdown(table: SweepTable) -> str:
    """The table for people: the primary measure seed by seed and against the baseline, then the other measures."""
    primary, others = table.measures[0], table.measures[1:]
    heads = ["", f"{primary} ({percent(CONFIDENCE)})", *(f"seed {seed}" for seed in table.seeds)]
    heads += [f"{MINUS} {table.baseline} ({percent(CONFIDENCE)})", "p, Holm", *others]
    heads += ["steps", "pairs", "seconds"]
    if table.retention_of:
        heads.insert(2, f"of {table.retention_of}")
    rows = [_cells(table, row, primary, others) for row in table.rows]
    parts = [
        f"# {table.title}",
        f"Seeds {', '.join(map(str, table.seeds))}; {count(table.num_units)} queries{_whose(table)}; "
        f"baseline {table.baseline}.",
        "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows]),
        "\n".join(f"- {name} is not in the table: {why}." for name, why in table.missing.items()),
        _scores_table(table),
        "\n".join(f"- {line}" for line in _how_to_read(table)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _whose(table: SweepTable) -> str:
    if len(table.seeds) == 1:
        return ""
    return ", the same in every seed" if table.unit == "query" else ", every seed has its own"


def _cells(table: SweepTable, row: Row, primary: str, others: Sequence[str]) -> list[str]:
    comparison = row.comparisons.get(primary)
    name = f"*{row.name}*" if row.is_reference else row.name
    cells = [name, f"{figure(row.values[primary])} ({span(*row.intervals[primary])})"]
    if table.retention_of:
        cells.append(percent(round(row.retention[primary], 4)) if primary in row.retention else NONE)
    cells += [figure(value) for value in row.by_seed[primary].values()]
    if comparison is None or comparison.p_holm is None:
        cells += ["baseline" if row.name == table.baseline else NONE, NONE]
    else:
        cells.append(f"{signed(comparison.delta)} ({span(*comparison.interval, sign=True)})")
        cells.append(p_value(comparison.p_holm).removeprefix("p ").removeprefix("= "))
    cells += [figure(row.values[measure]) for measure in others]
    training = row.training
    cells += [magnitude(training.get("steps")) or NONE, magnitude(training.get("pairs")) or NONE]
    cells.append(f"{training['seconds']:.0f}" if "seconds" in training else NONE)
    return [cell.replace("|", "\\|") for cell in cells]


def _scores_table(table: SweepTable) -> str:
    """How the systems spread their scores, and how far they order documents as the named one does."""
    heads = ["scores", "mean", "std", "within queries", *(f"{percent(share)}" for share in QUANTILES)]
    if table.retention_of:
        heads.append(f"tau-b with {table.retention_of}")
    rows = []
    for row in table.rows:
        of = row.scores
        cells = [row.name, figure(of.mean), figure(of.std), percent(round(of.within_queries, 3))]
        cells += map(figure, of.quantiles)
        if table.retention_of:
            cells.append(NONE if of.tau is None else figure(of.tau))
        rows.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows])


def _how_to_read(table: SweepTable) -> list[str]:
    seconds = sum(step["seconds"] or 0.0 for step in table.steps)
    return [
        f"Values are over all seeds (PNR pools the pairs of all). Intervals hold {percent(CONFIDENCE)} of "
        f"{SAMPLES:,} bootstrap samples; p is from a two-sided paired randomisation test against {table.baseline}, "
        f"corrected over the variants (Holm). Both draw one {table.unit} as their unit: they speak of other queries; "
        "the columns of the seeds show what another seed would change.",
        "*Slanted* rows are references. Steps, pairs and seconds are those of the last training step, mean over the "
        "seeds; other processes may have run at the same time.",
        "Scores: mean and standard deviation of the raw ones; the share of their variance that lies between documents "
        "of one query; quantiles in standard deviations from the mean. tau-b is Kendall's, mean over queries.",
        f"{len(table.steps)} steps, {clock(seconds)} of processes; code: {', '.join(table.commits)}. Every command, "
        "seed and runtime is in sweep.json.",
    ]
