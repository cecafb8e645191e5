"""The terms that a ranking loss is the weighted sum of; the losses themselves are in `disranker.losses.ranking`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from disranker.config.parts import Positive, Weight
from disranker.settings import Settings

LossName = Literal["hinge", "gap-hinge", "ranknet", "bce", "mse", "ordinal", "softmax", "lambda", "approx-ndcg"]

_OWNERS: dict[str, tuple[LossName, ...]] = {
    "margin": ("hinge", "gap-hinge"),
    "max_label": ("bce", "ordinal"),
    "k": ("lambda",),
    "mu": ("lambda",),
    "temperature": ("approx-ndcg",),
}
# What a loss takes when nothing is said; filled in, so that the settings beside a bundle say what it was trained with.
_DEFAULTS: dict[str, float] = {"margin": 1.0, "mu": 10.0, "temperature": 0.1}


class LossTerm(Settings):
    """One loss and its share in the sum."""

    name: LossName
    """Pairs: hinge (the paper's), gap-hinge, ranknet.  Documents: bce, mse, ordinal.  Lists: softmax, lambda,
    approx-ndcg."""
    weight: Weight = 1.0
    """Factor of this loss in the sum; 0 only logs it."""
    margin: Annotated[float, Field(gt=0.0)] | None = None
    """hinge, gap-hinge: how far apart a pair has to be, in units of the score; 1 where nothing is said."""
    max_label: Positive | None = None
    """bce, ordinal: the highest grade that labels can have; required there."""
    k: Positive | None = None
    """lambda: position at which NDCG is cut off; null means nowhere."""
    mu: Weight | None = None
    """lambda: weight of NDCG-Loss2 beside LambdaRank, which 0 leaves alone; 10 where nothing is said."""
    temperature: Annotated[float, Field(gt=0.0)] | None = None
    """approx-ndcg: divides differences of scores; lower is closer to NDCG; 0.1 where nothing is said."""

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
        if self.name in _OWNERS["max_label"] and self.max_label is None:
            example = f"{{name: {self.name}, max_label: 4}}"
            raise ValueError(f"{self.name} needs max_label, the highest grade that labels can have: write {example}")
        return self

    def __repr__(self) -> str:
        # How `--help` shows the default: as YAML takes it.
        given = {name: value for name, value in self if value is not None}
        return "{" + ", ".join(f"{name}: {value}" for name, value in given.items()) + "}"

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters of this loss, as its function takes them."""
        values = {parameter: getattr(self, parameter) for parameter in _OWNERS}
        return {parameter: value for parameter, value in values.items() if value is not None}


def as_terms(given: Any) -> Any:
    """A name alone, or in a list, as a term with that name."""
    items = [given] if isinstance(given, str) else given
    return [{"name": item} if isinstance(item, str) else item for item in items] if isinstance(items, list) else items


LossTerms = Annotated[list[LossTerm], BeforeValidator(as_terms)]
"""Terms of a sum; a name stands for a term with nothing but that name."""


def check_terms(terms: Sequence[LossTerm]) -> None:
    """Refuse a sum that is empty, has a loss twice or learns nothing.

    Raises:
        ValueError: it is, does or would.
    """
    if not terms:
        raise ValueError("loss is an empty list: name at least one")
    names = [term.name for term in terms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"loss has {twice[0]} twice: give each loss once, with the weight that it is to have")
    if not any(term.weight for term in terms):
        raise ValueError("every weight of loss is 0: nothing would be learned")


def check_labels(terms: Sequence[LossTerm], highest_label: float) -> None:
    """Refuse labels that a loss has no place for.

    Raises:
        ValueError: a label is above the `max_label` of a loss.
    """
    for term in terms:
        if term.max_label is not None and highest_label > term.max_label:
            limit = f"max_label of {term.name} is {term.max_label}"
            raise ValueError(f"the labels go up to {highest_label:g}, but {limit}: raise it to the highest grade")


def describe_terms(terms: Sequence[LossTerm]) -> str:
    """The sum in one line, as in `hinge (margin 1) + 0.5 x lambda (mu 10, k 10)`."""
    shown = []
    for term in terms:
        parameters = ", ".join(f"{name} {value:g}" for name, value in term.parameters.items())
        factor = "" if term.weight == 1.0 else f"{term.weight:g} x "
        shown.append(f"{factor}{term.name}" + (f" ({parameters})" if parameters else ""))
    return " + ".join(shown)
