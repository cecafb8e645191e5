"""The settings of a sweep: many variants on many seeds; and of its steps, which paths have, too."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from disranker.config.parts import Positive
from disranker.settings import InputPath, OutputFolder, Settings

RESERVED = ("eval", "evaluated", "steps", "variants")
"""Folders and step names that a sweep uses itself."""

_STEP_NAME = re.compile(r"[\w-]+")
_VARIANT_NAME = re.compile(r"[\w+=@-][\w+=@.-]*")


class StepConfig(Settings):
    """One command of a sweep or of a path; its output folder and its seed are filled in."""

    stage: Literal["world", "pretrain", "shrink", "warmup", "rank", "score", "distill", "export"]
    """The command; `world` is `disranker world`, the others are stages."""
    name: str | None = None
    """Name of the output folder; null means that of the stage."""
    config: InputPath | None = None
    """YAML file of the stage."""
    set: dict[str, Any] = {}
    """Dotted name → value, as on the stage's command line.  In texts {seed} is the seed, {seed_dir} the folder that
    the steps of a path, or the `prepare` steps of a sweep, write to at this seed, and {dir} that of this variant."""

    @property
    def folder(self) -> str:
        """The name of the output folder."""
        return self.name or self.stage

    @property
    def makes_ranker(self) -> bool:
        """Whether a ranker is what it writes."""
        return self.stage in ("rank", "distill")


def check_steps(where: str, steps: Sequence[StepConfig]) -> None:
    """Make sure that every step has a folder of its own.

    Raises:
        ValueError: a name is none for a folder, is taken, or comes twice.
    """
    folders = [step.folder for step in steps]
    unfit = [name for name in folders if not _STEP_NAME.fullmatch(name) or name in RESERVED]
    if unfit:
        raise ValueError(
            f"{where}: {', '.join(map(repr, unfit))}: a step is named with letters, digits, _ and -, "
            f"and not {', '.join(RESERVED)}"
        )
    twice = [name for name, number in Counter(folders).items() if number > 1]
    if twice:
        raise ValueError(f"{where}: several steps write to {', '.join(twice)}; give each a name")


def check_evaluation(evaluate: Mapping[str, Any], who: str) -> None:
    """Make sure that nothing is said of the evaluation which a sweep or a path fills in.

    Raises:
        ValueError: something is.
    """
    taken = sorted({"out", "systems", "seed"} & evaluate.keys())
    if taken:
        raise ValueError(f"evaluate: the {who} gives {', '.join(taken)} itself")


class SweepConfig(Settings):
    """Variants trained and measured on every seed, each step a stage command of its own, and one table of them."""

    out: OutputFolder
    """Folder of the sweep; what an earlier call finished there with the same settings is not done again."""
    seeds: Annotated[list[int], Field(min_length=1)]
    """Every step is run on each; it is the stage's seed unless `set` gives one."""
    jobs: Positive = 2
    """Processes at once."""
    threads: Positive = 1
    """OpenMP threads of a process: two runs of one thread beat one run of two where the models are small."""
    prepare: list[StepConfig] = []
    """Steps that all variants build on, done once a seed."""
    each: list[StepConfig] = []
    """Steps of every variant of `vary`; the last one makes the ranker that is measured."""
    vary: dict[str, dict[str, Any]] = {}
    """Name of a variant → the settings, as under `set`, in which it differs from `each`."""
    vary_step: str | None = None
    """Name of the step of `each` that the settings of `vary` are for; null means the last."""
    variants: dict[str, list[StepConfig]] = {}
    """Name of a variant → steps of its own; the last one makes the ranker that is measured."""
    references: dict[str, dict[str, Any]] = {}
    """Name → system as eval/run.py takes it (bm25, random, a bundle of `prepare`), measured once a seed."""
    evaluate: dict[str, Any]
    """Settings of eval/run.py but for systems, out and seed: judged, measures (the first one sorts the table)."""
    baseline: str
    """The variant or reference that every variant is compared with."""
    retention_of: str | None = None
    """The variant or reference of whose value every system keeps a share; null leaves the shares out."""
    title: str = "Sweep"
    """Heading of the table."""

    @model_validator(mode="after")
    def _names_are_apart(self) -> Self:
        names = Counter([*self.vary, *self.variants, *self.references])
        twice = [name for name, number in names.items() if number > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)}: each name belongs to one variant or one reference")
        unfit = [name for name in names if not _VARIANT_NAME.fullmatch(name)]
        if unfit:
            raise ValueError(f"{', '.join(map(repr, unfit))}: a variant is named with letters, digits and . _ + = @ -")
        if not self.vary and not self.variants:
            raise ValueError("there is nothing to sweep: give vary (with each) or variants")
        return self

    @model_validator(mode="after")
    def _named_systems_exist(self) -> Self:
        names = [*self.vary, *self.variants, *self.references]
        for field in ("baseline", "retention_of"):
            name = getattr(self, field)
            if name is not None and name not in names:
                raise ValueError(f"{field} {name!r} is no variant and no reference; there are {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _vary_has_its_step(self) -> Self:
        if bool(self.each) != bool(self.vary):
            raise ValueError("each and vary go together: the steps, and in what the variants differ")
        folders = [step.folder for step in self.each]
        if self.vary_step is not None and self.vary_step not in folders:
            raise ValueError(f"vary_step {self.vary_step!r} is no step of each; there are {', '.join(folders)}")
        return self

    @model_validator(mode="after")
    def _steps_are_apart(self) -> Self:
        chains = {"prepare": self.prepare, "each": self.each}
        chains |= {f"variants.{name}": steps for name, steps in self.variants.items()}
        for where, steps in chains.items():
            check_steps(where, steps)
            if where != "prepare" and steps and not steps[-1].makes_ranker:
                raise ValueError(f"{where}: the last step must make a ranker (rank or distill), not {steps[-1].stage}")
        empty = [name for name, steps in self.variants.items() if not steps]
        if empty:
            raise ValueError(f"variants: {', '.join(empty)} has no step")
        return self

    @model_validator(mode="after")
    def _seeds_are_apart(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds holds one seed twice")
        return self

    @model_validator(mode="after")
    def _evaluation_is_filled_in_here(self) -> Self:
        check_evaluation(self.evaluate, "sweep")
        return self
