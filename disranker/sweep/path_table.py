"""What the rankers on a path are worth: each beside its teacher, and how much of the teacher's value it keeps.

A ranker's teacher is found by the fingerprint in the store that it was distilled from, so it may be of the path or one
of the references.  Values of several seeds are pooled as in a sweep.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from disranker.config.path import PathConfig
from disranker.evaluation.runs import System, read_systems, write_json
from disranker.evaluation.significance import measure_interval
from disranker.evaluation.summary import NONE, count, figure, magnitude, percent, span
from disranker.models.bundle import read_facts
from disranker.settings import provenance
from disranker.shards import MANIFEST_NAME, read_manifest, write_atomic
from disranker.sweep.plan import Step, evaluated_folder
from disranker.sweep.runner import command_line, read_marker
from disranker.sweep.table import CONFIDENCE, SAMPLES, pool
from disranker.train.journal import clock

FORMAT = 1
"""Version of path.json."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One ranker of a path, or a reference."""

    name: str
    is_reference: bool
    teacher: str | None
    """Whose scores it was distilled from; None: from nobody's, or from a ranker that was not measured."""
    values: dict[str, float]
    """measure -> value over all seeds."""
    interval: tuple[float, float]
    """Of the first measure."""
    kept: float | None
    """Share of its teacher's value of the first measure."""
    kept_of_first: float | None
    """Share of the value of the ranker that has no teacher itself, at the beginning of the chain that leads here."""
    parameters: int | None
    pairs_per_second: float | None
    seconds: float | None
    """Of training, mean over the seeds."""


def assemble_path(config: PathConfig) -> list[Hop]:
    """The references, then the rankers in the order of their steps, as they were measured on every seed."""
    names = [*config.references, *config.rankers]
    # A system that an earlier call measured, and that the path has no more, lies in the same folder.
    there = {seed: read_systems(evaluated_folder(config, seed)) for seed in config.seeds}
    by_seed = {seed: {name: systems[name] for name in names} for seed, systems in there.items()}
    shared = len({system.judged_hash for systems in by_seed.values() for system in systems.values()}) == 1
    pooled = {
        name: pool({seed: systems[name].measured for seed, systems in by_seed.items()}, shared=shared) for name in names
    }
    primary = next(iter(pooled[names[0]].aggregate))
    values = {name: pooled[name].aggregate[primary] for name in names}
    first_seed = by_seed[config.seeds[0]]
    teachers = {name: _teacher(first_seed[name], first_seed) for name in names}
    hops = []
    for name in names:
        efficiency = first_seed[name].efficiency
        hops.append(
            Hop(
                name=name,
                is_reference=name in config.references,
                teacher=teachers[name],
                values=pooled[name].aggregate,
                interval=measure_interval(pooled[name], primary, SAMPLES, 0, CONFIDENCE),
                kept=_share(values, name, teachers[name]),
                kept_of_first=_share(values, name, _first(teachers, name)),
                parameters=efficiency.parameters,
                pairs_per_second=efficiency.pairs_per_second,
                seconds=_training_seconds([systems[name] for systems in by_seed.values()]),
            )
        )
    return hops


def write_path(config: PathConfig, hops: Sequence[Hop], plan: Sequence[Step]) -> str:
    """Write path.json and path.md into the folder of the path; what path.md says."""
    markers = {step.name: read_marker(step) for step in plan}
    steps = [
        {"step": step.name, "command": command_line(step), "seconds": markers[step.name]["seconds"]} for step in plan
    ]
    content = {
        "format": FORMAT,
        "title": config.title,
        "hops": [asdict(hop) for hop in hops],
        "confidence": CONFIDENCE,
        "samples": SAMPLES,
        "steps": steps,
        "config": config.model_dump(mode="json"),
        "provenance": provenance(),
    }
    out = Path(config.out)
    write_json(out / "path.json", content)
    text = render_path(config, hops, seconds=sum(step["seconds"] for step in steps))
    with write_atomic(out / "path.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def render_path(config: PathConfig, hops: Sequence[Hop], *, seconds: float) -> str:
    """The table for people."""
    primary, *others = hops[0].values
    heads = ["", "taught by", f"{primary} ({percent(CONFIDENCE)})", "of its teacher", "of the first", *others]
    heads += ["parameters", "pairs/s", "training"]
    rows = [_cells(hop, primary, others) for hop in hops]
    seeds = f"Seed {config.seeds[0]}" if len(config.seeds) == 1 else f"Seeds {', '.join(map(str, config.seeds))}"
    notes = [
        f"Intervals hold {percent(CONFIDENCE)} of {SAMPLES:,} bootstrap samples of queries. Shares are those of the "
        f"{primary} of the ranker whose scores were learnt, and of the first one in that chain.",
        f"*Slanted* rows are references. {seeds}; {clock(seconds)} of processes; every command is in path.json.",
    ]
    parts = [
        f"# {config.title}",
        "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows]),
        "\n".join(f"- {note}" for note in notes),
    ]
    return "\n\n".join(parts) + "\n"


def _cells(hop: Hop, primary: str, others: Sequence[str]) -> list[str]:
    shares = [NONE if share is None else percent(round(share, 4)) for share in (hop.kept, hop.kept_of_first)]
    cells = [f"*{hop.name}*" if hop.is_reference else hop.name, hop.teacher or NONE]
    cells += [f"{figure(hop.values[primary])} ({span(*hop.interval)})", *shares]
    cells += [figure(hop.values[measure]) for measure in others]
    cells += [magnitude(hop.parameters) or NONE]
    cells += [NONE if hop.pairs_per_second is None else count(round(hop.pairs_per_second))]
    cells += [NONE if hop.seconds is None else clock(hop.seconds)]
    return [cell.replace("|", "\\|") for cell in cells]


def _teacher(student: System, systems: Mapping[str, System]) -> str | None:
    """The measured ranker whose scores a bundle was distilled from."""
    if student.kind != "bundle":
        return None
    store = read_facts(student.provenance["path"]).get("config", {}).get("store")
    if store is None or not Path(store, MANIFEST_NAME).exists():
        return None
    fingerprint = read_manifest(store)["teacher"].get("fingerprint")
    return next((name for name, system in systems.items() if system.provenance.get("fingerprint") == fingerprint), None)


def _first(teachers: Mapping[str, str | None], name: str) -> str | None:
    """The ranker at the beginning of the chain of teachers that leads to this one; None for that one itself."""
    first = teachers[name]
    while first is not None and teachers[first] is not None:
        first = teachers[first]
    return first


def _share(values: Mapping[str, float], name: str, of: str | None) -> float | None:
    if of is None or not values[of] or not math.isfinite(values[of]):
        return None
    return values[name] / values[of]


def _training_seconds(systems: Sequence[System]) -> float | None:
    seconds = [system.provenance.get("training", {}).get("seconds") for system in systems]
    return statistics.mean(seconds) if all(one is not None for one in seconds) else None
