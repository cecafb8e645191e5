"""How groups are sampled and which negatives are added to them; everything is off unless it is asked for."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from disranker.config.parts import Positive
from disranker.settings import InputPath, Settings


class HardNegatives(Settings):
    """Documents that a first stage or a first teacher puts high and nobody has judged; they count as label 0."""

    runs: list[InputPath]
    """TREC runs; every judged query must be in one of them."""
    candidates: list[InputPath]
    """Where the texts of the runs' documents are, under the same query_id and doc_id."""
    num_per_query: Positive
    """Documents that a group gets, drawn anew in every epoch from those at the positions below."""
    first_position: Positive = 1
    """First position of a run to draw from; the documents above may be unjudged positives."""
    last_position: Positive = 100
    """Last position of a run to draw from."""

    @model_validator(mode="after")
    def _positions_in_order(self) -> Self:
        if self.first_position > self.last_position:
            raise ValueError(f"first_position {self.first_position} is behind last_position {self.last_position}")
        if self.num_per_query > self.last_position - self.first_position + 1:
            places = f"positions {self.first_position} to {self.last_position}"
            raise ValueError(f"num_per_query is {self.num_per_query}, more documents than {places} have in a run")
        return self


class Guard(Settings):
    """Leaves out negatives whose score comes near that of a query's positives: they may be positives themselves."""

    scores: InputPath
    """A store, or a TREC run, with a score for every positive and every negative, random ones too."""
    margin: Annotated[float, Field(ge=0.0)]
    """How far below the lowest positive of its query a negative has to be, in units of these scores."""
    positive_label: Positive = 1
    """Lowest label of a positive; queries without one are left as they are."""


class SamplingConfig(Settings):
    """Which documents of a query are in its group; a function of (seed, epoch, query_id) alone."""

    quotas: dict[int, Positive] = {}
    """Label -> how many judged documents of that label a group has at most, drawn anew in every epoch, as in
    {0: 8}; labels that are not named have no quota."""
    hard_negatives: HardNegatives | None = None
    """Unjudged documents of runs as negatives."""
    random_negatives: Annotated[int, Field(ge=0)] = 0
    """Judged documents of other queries that a query gets as negatives of label 0, drawn once; 0 turns it off."""
    guard: Guard | None = None
    """Check the negatives by scores."""

    @model_validator(mode="after")
    def _something_to_guard(self) -> Self:
        if self.guard is not None and self.num_negatives == 0:
            raise ValueError("guard checks negatives, and there are none: set hard_negatives or random_negatives")
        return self

    @property
    def num_negatives(self) -> int:
        """Negatives that a group has at most."""
        return self.random_negatives + (self.hard_negatives.num_per_query if self.hard_negatives else 0)
