"""The terms of stage 3: signals of a teacher, and stage 2's losses on labels beside them; a weighted sum is learned.

What a term computes is in `disranker.losses.distill`, `disranker.losses.states` and `disranker.losses.ranking`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from disranker.config.losses import LossTerm, as_terms
from disranker.config.parts import Positive, Weight
from disranker.settings import Settings

TermName = Literal[
    "point-mse",
    "margin-mse",
    "score-differences",
    "kl",
    "cross-entropy",
    "weighted-kl",
    "ranknet",
    "adr-mse",
    "pooled-mse",
    "pooled-cosine",
    "hidden-mse",
    "rkd-distance",
    "rkd-angle",
    "attention-relation",
]

NEED_DISTANCES: frozenset[TermName] = frozenset(
    {"point-mse", "margin-mse", "score-differences", "kl", "cross-entropy", "weighted-kl"}
)
"""Terms that read how far apart teacher scores are, which an ordering does not say."""
NEED_REPRESENTATIONS: frozenset[TermName] = frozenset({"pooled-mse", "pooled-cosine", "rkd-distance", "rkd-angle"})
"""Terms that read the teacher's pooled states from the store."""
NEED_TEACHER: frozenset[TermName] = frozenset({"hidden-mse", "attention-relation"})
"""Terms that run the teacher beside the student."""
LEAST_DOCUMENTS: Mapping[TermName, int] = {
    **dict.fromkeys(("point-mse", "pooled-mse", "pooled-cosine", "hidden-mse", "attention-relation"), 1),
    **dict.fromkeys(("margin-mse", "score-differences", "kl", "cross-entropy", "weighted-kl", "ranknet", "adr-mse"), 2),
    **dict.fromkeys(("rkd-distance", "rkd-angle"), 3),
}
"""Scored documents that a group must have for the term to learn from it."""

_OWNERS: dict[str, tuple[TermName, ...]] = {
    "against": ("margin-mse",),
    "temperature": ("kl", "cross-entropy", "weighted-kl", "adr-mse"),
    "layers": ("hidden-mse",),
    "relation_heads": ("attention-relation",),
}
# What a term takes when nothing is said; filled in, so that the settings beside a bundle say what it was trained with.
_DEFAULTS: dict[str, Any] = {"against": "all", "temperature": 1.0}


class Window(Settings):
    """The optimizer steps in which a term counts."""

    start: Annotated[int, Field(ge=0)] = 0
    """First optimizer step, from 0, in which the term counts."""
    end: Positive | None = None
    """First optimizer step in which it counts no more; null means to the end."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.end is not None and self.start >= self.end:
            raise ValueError(f"start {self.start} is not before end {self.end}: the term would never count")
        return self

    def covers(self, step: int) -> bool:
        """Whether the term counts in that step, from 0."""
        return self.start <= step and (self.end is None or step < self.end)


class TeacherTerm(Settings):
    """One signal of the teacher and its share in the sum."""

    name: TermName
    """Scores: point-mse, margin-mse, score-differences, kl, cross-entropy, weighted-kl.  The teacher's order alone:
    ranknet, adr-mse.  Its stored pooled states: pooled-mse, pooled-cosine, rkd-distance, rkd-angle.  `teacher` run
    beside the student: hidden-mse, attention-relation."""
    weight: Weight = 1.0
    """Factor of this term in the sum; 0 only logs it."""
    against: Literal["all", "first"] | None = None
    """margin-mse: differences of all pairs of a group, or of every document against the teacher's best of the group;
    all where nothing is said."""
    temperature: Annotated[float, Field(gt=0.0)] | None = None
    """kl, cross-entropy, weighted-kl: divides the scores of teacher and student before the softmax; higher looks
    further down the list, and 1 is high already for a teacher whose scores have a standard deviation of 1 over the
    store.  adr-mse: divides differences of scores; lower is closer to true positions.  1 where nothing is said."""
    layers: dict[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None
    """hidden-mse: the student's layer -> the teacher's, 0 for the embeddings, 1 for the first layer, as in
    {3: 6, 6: 12}; required there."""
    relation_heads: Positive | None = None
    """attention-relation: heads that queries, keys and values are cut into, on both sides; null means as many as the
    student has attention heads."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        mine = {name: default for name, default in _DEFAULTS.items() if given.get("name") in _OWNERS[name]}
        return {**given, **{name: default for name, default in mine.items() if given.get(name) is None}}

    @model_validator(mode="after")
    def _parameters_are_its_own(self) -> Self:
        for parameter, owners in _OWNERS.items():
            if self.name not in owners and getattr(self, parameter) is not None:
                raise ValueError(f"{parameter} belongs to {' and '.join(owners)}; {self.name} has none")
        if self.name == "hidden-mse" and not self.layers:
            example = "{name: hidden-mse, layers: {3: 6, 6: 12}}"
            raise ValueError(f"hidden-mse needs layers, the student's layer -> the teacher's: write {example}")
        return self

    def __repr__(self) -> str:
        # How `--help` shows the default: as YAML takes it.
        given = {name: value for name, value in self if value is not None and (name, value) != ("start", 0)}
        return "{" + ", ".join(f"{name}: {value}" for name, value in given.items()) + "}"

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of this term that are set."""
        values = {parameter: getattr(self, parameter) for parameter in _OWNERS}
        return {parameter: value for parameter, value in values.items() if value is not None}


class DistillTerm(Window, TeacherTerm):
    """A signal of the teacher, in a window of steps."""


class SupervisedTerm(Window, LossTerm):
    """One of stage 2's losses on the labels of `judged`, in a window of steps."""


DistillTerms = Annotated[list[DistillTerm], BeforeValidator(as_terms)]
"""Signals of the teacher; a name stands for a term with nothing but that name."""
SupervisedTerms = Annotated[list[SupervisedTerm], BeforeValidator(as_terms)]
"""Losses on labels; a name stands for a term with nothing but that name."""
Term = DistillTerm | SupervisedTerm


def check_sum(distill: Sequence[DistillTerm], supervised: Sequence[SupervisedTerm], num_steps: int | None) -> None:
    """Refuse a sum that has a term twice, and one of which some step would learn nothing.

    `num_steps` is the length of the run where it is known.

    Raises:
        ValueError: it has, or a window begins behind the last step, or a step has no term with a weight.
    """
    if not distill:
        raise ValueError("distill is an empty list: name a term, or train on labels alone with rank/train.py")
    for field, terms in (("distill", distill), ("supervised", supervised)):
        names = [term.name for term in terms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{field} has {twice[0]} twice: give each term once, with the weight that it is to have")
        for term in terms:
            if num_steps is not None and term.start >= num_steps:
                raise ValueError(
                    f"{term.name} of {field} starts at step {term.start}, and the run has {num_steps} steps, 0 to "
                    f"{num_steps - 1}: it would never count"
                )
    every: list[Term] = [*distill, *supervised]
    weighed = [term for term in every if term.weight > 0.0]
    if not weighed:
        raise ValueError("every weight of distill and supervised is 0: nothing would be learned")
    # Only where a window ends can a gap begin.
    ends = [term.end for term in weighed if term.end is not None]
    for step in sorted({0, *ends}):
        if num_steps is not None and step < num_steps and not any(term.covers(step) for term in weighed):
            raise ValueError(f"no term with a weight counts in step {step}: close the gap between start and end")


def describe_sum(distill: Sequence[DistillTerm], supervised: Sequence[SupervisedTerm]) -> str:
    """The sum in one line, as in `point-mse + 0.5 x kl (temperature 2) from step 100; labels: ranknet`."""
    lines = [" + ".join(map(_describe, distill))]
    if supervised:
        lines.append("labels: " + " + ".join(map(_describe, supervised)))
    return "; ".join(lines)


def _describe(term: Term) -> str:
    values = {name: value for name, value in term.parameters.items() if value != "all"}
    parameters = ", ".join(f"{name} {_shown(value)}" for name, value in values.items())
    factor = "" if term.weight == 1.0 else f"{term.weight:g} x "
    begin = f" from step {term.start}" if term.start else ""
    end = f" before step {term.end}" if term.end is not None else ""
    return f"{factor}{term.name}" + (f" ({parameters})" if parameters else "") + begin + end


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
