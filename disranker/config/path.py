"""The settings of a path: rankers that are made one from another, each step a stage command of its own."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from disranker.config.parts import Positive
from disranker.config.sweep import StepConfig, check_evaluation, check_steps
from disranker.settings import OutputFolder, Settings


class PathConfig(Settings):
    """A path from teacher to student: its steps in order, and what every ranker on it keeps of the one before it.

    It is a sweep without variants: the same steps, skipped, gone on with and done anew by the same rules.
    """

    out: OutputFolder
    """Folder of the path; what an earlier call finished there with the same settings is not done again."""
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    """The path is gone on each of them, into OUT/seed-S; it is the stage's seed unless `set` gives one."""
    threads: Positive | None = None
    """OpenMP threads of a step; null leaves that to torch: all cores."""
    steps: Annotated[list[StepConfig], Field(min_length=1)]
    """The steps in order; a later one names what an earlier one wrote as {dir}/NAME.  A ranker stands in the table
    under the name of its step."""
    references: dict[str, dict[str, Any]] = {}
    """Name → system as eval/run.py takes it, measured beside the rankers of the path: the teacher it starts from."""
    evaluate: dict[str, Any]
    """Settings of eval/run.py but for systems, out and seed: judged, measures (retention is told of the first one)."""
    title: str = "Path"
    """Heading of the table."""

    @property
    def rankers(self) -> list[str]:
        """Names of the steps that make a ranker."""
        return [step.folder for step in self.steps if step.makes_ranker]

    @model_validator(mode="after")
    def _steps_are_apart(self) -> Self:
        check_steps("steps", self.steps)
        if not self.rankers:
            raise ValueError("steps make no ranker: one of them must be rank or distill")
        twice = [name for name, number in Counter([*self.rankers, *self.references]).items() if number > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)}: each name belongs to one step or one reference")
        return self

    @model_validator(mode="after")
    def _seeds_are_apart(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds holds one seed twice")
        return self

    @model_validator(mode="after")
    def _evaluation_is_filled_in_here(self) -> Self:
        check_evaluation(self.evaluate, "path")
        return self
