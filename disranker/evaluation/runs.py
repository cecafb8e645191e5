"""Evaluated systems on disk: `DIR/NAME.trec`, every scored row, and `DIR/NAME.metrics.json`, what they are worth.

The two files hold all that a report needs; nothing is computed again from models.  In the JSON, figures that are not
finite stand as the strings "inf" and "nan", so that any JSON reader takes the file; docs/report.md names every field.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from disranker.data.trec import read_trec_run, write_trec_run
from disranker.evaluation.efficiency import Latency, LatencyCell, cost_per_million_pairs
from disranker.evaluation.measures import DEFAULT_RULES, Measured, group_scores
from disranker.evaluation.pairs import PairCounts
from disranker.evaluation.rules import Rules

FORMAT = 2
"""Version of metrics.json; a reader refuses any other."""

_METRICS = ".metrics.json"
_RUN = ".trec"
_NAME = re.compile(r"[^\s/\\:*?\"<>|.][^\s/\\:*?\"<>|]*")


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What a system costs; `None` where it was not measured or has no meaning (BM25 has no parameters)."""

    parameters: int | None = None
    bytes: int | None = None
    """Size on disk."""
    pairs_per_second: float | None = None
    seconds: float | None = None
    """Time to score all rows, after loading."""
    device: str | None = None
    threads: int | None = None
    dtype: str | None = None
    price_per_hour: float | None = None
    """Of the machine, in `currency`."""
    currency: str = ""
    latency: Latency | None = None

    @property
    def cost_per_million_pairs(self) -> float | None:
        """In `currency`; None without a price or a speed."""
        if self.price_per_hour is None or not self.pairs_per_second:
            return None
        return cost_per_million_pairs(self.pairs_per_second, self.price_per_hour)


@dataclass(frozen=True, slots=True)
class System:
    """One evaluated system."""

    name: str
    kind: str
    """What it is: `baseline`, `teacher`, `student`, `export`, `run`, …; shown, never interpreted."""
    measured: Measured
    efficiency: Efficiency = field(default_factory=Efficiency)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the figures come from; known keys: path, fingerprint, judged {path, hash}, command, seed, version,
    training {steps, pairs, tokens, …}."""
    run_path: Path | None = None
    """The TREC run with the scores, once on disk."""
    rules: Rules = DEFAULT_RULES
    """By which it was measured."""

    @property
    def judged_hash(self) -> str | None:
        judged = self.provenance.get("judged")
        return judged.get("hash") if isinstance(judged, Mapping) else None

    def read_scores(self) -> dict[str, dict[str, float]]:
        """The scored rows, query_id -> doc_id -> score; ValueError for a system that is not on disk."""
        if self.run_path is None:
            raise ValueError(f"system {self.name!r} has no run file")
        return read_trec_run(self.run_path)


def write_system(
    out_dir: str | os.PathLike[str],
    system: System,
    query_ids: Sequence[str],
    doc_ids: Sequence[str],
    scores: ArrayLike,
) -> System:
    """Writes the run and the metrics of a system, one entry of the three columns a scored row; gives it with its path.

    Older files of that name are replaced; the metrics come last, so a killed call leaves no metrics without a run.
    Raises ValueError for a name that is no file name, ids with white space, NaN scores or rows that come twice.
    """
    if not _NAME.fullmatch(system.name):
        raise ValueError(
            f"system name {system.name!r} must be a file name without spaces, not starting with a dot, "
            'and without / \\ : * ? " < > |'
        )
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    run_path = folder / f"{system.name}{_RUN}"
    write_trec_run(run_path, group_scores(query_ids, doc_ids, scores), tag=system.name)

    measured = system.measured
    content = {
        "format": FORMAT,
        "system": system.name,
        "kind": system.kind,
        "measures": measured.aggregate,
        "counts": measured.counts,
        "rules": asdict(system.rules),
        "efficiency": asdict(system.efficiency),
        "provenance": dict(system.provenance),
        "per_query": {
            query: {
                **{measure: values[query] for measure, values in measured.per_query.items()},
                "pairs": list(measured.pairs[query]),  # concordant, discordant, tied
            }
            for query in sorted(measured.pairs)
        },
    }
    write_json(folder / f"{system.name}{_METRICS}", content)
    return replace(system, run_path=run_path)


def read_systems(folder: str | os.PathLike[str]) -> dict[str, System]:
    """All systems of a folder by name, in the order of the names; ValueError for none, or a broken file."""
    paths = sorted(Path(folder).glob(f"*{_METRICS}"))
    if not paths:
        raise ValueError(f"{folder}: no evaluated system (*{_METRICS}) in this folder; evaluate one into it first")
    systems = [_read_system(path) for path in paths]
    return {system.name: system for system in sorted(systems, key=lambda system: system.name)}


def _read_system(path: Path) -> System:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(
                f"format {content['format']!r}, but this version reads {FORMAT}; evaluate the system again"
            )
        per_query = content["per_query"]
        measured = Measured(
            aggregate={measure: float(value) for measure, value in content["measures"].items()},
            per_query={
                measure: {query: float(values[measure]) for query, values in per_query.items()}
                for measure in content["measures"]
            },
            pairs={query: PairCounts(*values["pairs"]) for query, values in per_query.items()},
            counts=content["counts"],
        )
        name, kind, provenance = content["system"], content["kind"], content["provenance"]
        efficiency, rules = _read_efficiency(content["efficiency"]), Rules(**content["rules"])
    except KeyError as error:
        raise ValueError(f"{path}: {error} is missing; evaluate the system again") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if path.name != f"{name}{_METRICS}":
        raise ValueError(f"{path}: holds the metrics of system {name!r}; file names and system names go together")
    run_path = path.with_name(f"{name}{_RUN}")
    if not run_path.exists():
        raise ValueError(f"{run_path}: the run of system {name!r} is missing; evaluate the system again")
    return System(name, kind, measured, efficiency, provenance, run_path, rules)


def _read_efficiency(content: Mapping[str, Any]) -> Efficiency:
    latency = content["latency"]
    if latency is not None:
        latency = Latency(**{**latency, "cells": tuple(LatencyCell(**cell) for cell in latency["cells"])})
    return Efficiency(**{**content, "latency": latency})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON atomically, readable, keys in the given order; figures that are not finite become strings."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(_finite(content), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # "inf", "-inf", "nan": float() reads them back
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
