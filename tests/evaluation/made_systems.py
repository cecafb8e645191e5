"""Made-up judgments and systems on disk for the tests of the report: nothing is scored by a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from disranker.config.evaluation import ReportConfig
from disranker.data.readers import write_records
from disranker.evaluation.efficiency import Latency, LatencyCell
from disranker.evaluation.measures import group_labels, group_scores, measure_run
from disranker.evaluation.rules import Rules
from disranker.evaluation.runs import Efficiency, System, write_system
from disranker.schema import Click, Judgment
from disranker.shards import file_hash

LATENCY = Latency(
    cells=tuple(
        LatencyCell(documents, length, 20.5, 40, 3.25 * documents, 4.5 * documents, 6.0 * documents, 250.0)
        for length in ("short", "middle", "long")
        for documents in (1, 10)
    ),
    length_unit="characters",
    warm_up_calls=1,
    seconds_per_cell=0.5,
    seed=0,
)


def make_judgments(num_queries: int = 14, num_docs: int = 8) -> list[Judgment]:
    rng = np.random.default_rng(0)
    return [
        Judgment(f"q{q:02}", f"d{q}-{d}", f"东京 <query> {q}", f"title {q}-{d} & <i>", "", int(rng.integers(0, 4)))
        for q in range(num_queries)
        for d in range(num_docs)
    ]


def write_judgments(path: Path, judgments: Sequence[Judgment]) -> Path:
    write_records(path, Judgment, judgments)
    return path


def write_clicks(path: Path, judgments: Sequence[Judgment]) -> Path:
    """Every query in three orders, so that documents stand at several positions."""
    rng = np.random.default_rng(3)
    clicks = []
    for query in dict.fromkeys(each.query_id for each in judgments):
        own = [each for each in judgments if each.query_id == query]
        for shown in (own, own[::-1], [*own[3:], *own[:3]]):
            for position, each in enumerate(shown, start=1):
                number = int(rng.binomial(20, (0.1 + 0.2 * each.label) / position))
                if number:
                    clicks.append(Click(each.query, each.title, each.summary, number, 20, position, 12.5 * number))
    write_records(path, Click, clicks)
    return path


def write_systems(
    folder: Path,
    noises: Mapping[str, float],
    judgments: Sequence[Judgment],
    hash: str = "h",
    measures: Sequence[str] = ("nDCG@5", "nDCG@10", "PNR"),
    rules: Rules = Rules(),  # noqa: B008 - frozen
    **efficiency: Any,
) -> Path:
    """A system for each name, whose score is the label and so much noise."""
    rng = np.random.default_rng(1)
    columns = [j.query_id for j in judgments], [j.doc_id for j in judgments]
    for name, noise in noises.items():
        scores = np.array([j.label for j in judgments]) + noise * rng.normal(size=len(judgments))
        measured = measure_run(group_labels(judgments), group_scores(*columns, scores), measures, rules)
        cost = Efficiency(22_700_000, 91_000_000, 1000 / (noise + 0.1), 1.0, "cpu", 2, "float32", **efficiency)
        provenance = {
            "path": f"bundles/{name}",
            "judged": {"path": "judged.parquet", "hash": hash},
            "training": {"steps": 1200, "pairs": 5000},
        }
        system = System(name, "student", measured, cost, provenance, rules=rules)
        write_system(folder, system, *columns, scores)
    return folder


NOISES = {"oracle-东京": 0.0, "good": 0.8, "poor": 9.0}


def make_set(folder: Path, noises: Mapping[str, float] = NOISES, **efficiency: Any) -> dict[str, Any]:
    """Judgments and systems below a folder, and the settings that report on them."""
    judgments = make_judgments()
    judged = write_judgments(folder / "judged.parquet", judgments)
    systems = write_systems(folder / "systems", noises, judgments, file_hash(judged), **efficiency)
    return {"evaluated": [systems], "judged": [judged], "out": str(folder / "out"), "samples": 200}


def make_everything(folder: Path) -> ReportConfig:
    """Settings of a report that has every section."""
    noises = {"teacher": 0.3, "student": 0.9, "labels-only": 1.6}
    made = make_set(folder, noises, price_per_hour=0.5, currency="EUR", latency=LATENCY)
    clicks = write_clicks(folder / "clicks.parquet", make_judgments())
    table = folder / "queries.csv"
    rows = [f"q{number:02},{'brand' if number % 2 else 'how-to'},{number}" for number in range(14)]
    table.write_text("\n".join(["query_id,intent,volume", *rows]) + "\n")
    return ReportConfig.model_validate(
        {
            **made,
            "title": "All",
            "baseline": "labels-only",
            "teacher": "teacher",
            "student": "student",
            "more_sets": {"other": [write_systems(folder / "other", noises, make_judgments(9, 6), "g")]},
            "slices": {"by": ["length", "clicks", "relevant"], "table": table, "columns": ["intent", "volume"]},
            "cutoffs": {"relevant": 2, "thresholds": [0.5]},
            "cascade": {"rules": ["band", "margin", "depth"], "cut": 3, "shares": [0.3, 0.6]},
            "clicks": {"log": [clicks], "depth": 6},
            "interleaving": {"sessions": 4},
            "notes": {"Parity <x>": "Fine & well.\n\n| Export | Gap |\n|---|---|\n| int8 | 0.04 |"},
            "generated": "today",
        }
    )
