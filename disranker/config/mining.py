"""Which queries and documents stage 3 spends its steps on; everything is off unless it is asked for.

What each choice means exactly stands at its fields; `disranker.data.mining` makes it so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from disranker.config.parts import Positive, TrainingConfig
from disranker.settings import Settings

_Kept = Annotated[float, Field(gt=0.0, le=1.0)]


class QueryChoice(Settings):
    """Keeps a share of the queries by how sure the teacher is of them; queries that it did not score all stay."""

    keep: Literal["certain", "uncertain"]
    """certain drops the queries that the teacher itself cannot decide, uncertain those that it finds obvious."""
    share: _Kept
    """Share of the queries that is kept, rounded up."""
    by: Literal["margin", "entropy"] = "margin"
    """margin: the teacher's best score minus the mean of the query's other scores, in its standard deviations; entropy:
    of the softmax over the query's standardised scores, divided by ln D."""


class DocumentChoice(Settings):
    """Keeps a share of each query's documents by how far the teacher sets them apart from their neighbours."""

    keep: Literal["certain", "uncertain"]
    """A document's margin is the distance of its score to the nearest other score of its query; certain keeps the large
    margins, uncertain the small ones.  Documents that the teacher did not score all stay."""
    share: _Kept
    """Share of a query's documents that is kept, rounded up, two at least."""


class Disagreement(Settings):
    """Draws more often what student and teacher disagree on, anew in every epoch.

    At the start of an epoch the student scores all its training pairs.  Its scores and the teacher's are standardised
    and centred within each query; a document's disagreement is the absolute difference, a query's the mean over its
    documents.  What the teacher has not scored counts as the middle.  It costs a forward pass over all pairs an epoch,
    about a third of training on them once.  Probabilities in proportion to an error are those of prioritized replay
    (Schaul et al. 2016, arXiv 1511.05952); no weights undo them here, for hard examples are to count more.
    """

    of: Literal["queries", "documents"]
    """queries: an epoch has about as many groups as there are queries, each as often as its probability says;
    documents: the `docs_per_query` of a larger group are drawn by their probabilities."""
    even_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Share of the probability that is spread evenly; the rest goes in proportion to disagreement."""
    from_epoch: Annotated[int, Field(ge=0)] = 1
    """First epoch, from 0, that is drawn so.  Before it draws are even: a student that starts from nothing has no
    opinion yet.  0 is for one that starts from trained weights."""


class Mix(Settings):
    """Documents of a group by their place in the teacher's list of the query; docs_per_query is the sum of the three.

    Of a smaller group all documents are taken.  Equal scores are placed by chance, anew in every epoch.
    """

    top: Annotated[int, Field(ge=0)]
    """Documents from the top of the list."""
    middle: Annotated[int, Field(ge=0)]
    """Documents drawn from the middle third of the list; what it lacks is drawn from the rest."""
    random: Annotated[int, Field(ge=0)]
    """Documents drawn from all that are left, those without a teacher's score too."""

    @property
    def total(self) -> int:
        """Documents of a group."""
        return self.top + self.middle + self.random


class Curriculum(Settings):
    """Easy queries first (Bengio et al. 2009; Hacohen and Weinshall 2019, arXiv 1904.03626).

    Queries without teacher scores, or of one document, are neither: they count as the middle.
    """

    by: Literal["margin", "disagreement"] = "margin"
    """margin: easy is where the teacher's best score is far above the mean of the query's others; disagreement: easy is
    where the student, as it is at the start of the epoch, agrees with the teacher (as in `disagreement`)."""
    over: Literal["epochs", "steps"] = "epochs"
    """epochs: the first epoch sees the easiest `start_share` of the queries, each further one more of them, in random
    order; steps: an epoch sees all queries, from the easiest to the hardest."""
    epochs: Positive = 2
    """Epochs that the curriculum lasts; those after it see all queries in random order."""
    start_share: _Kept | None = None
    """over epochs: share of the queries in the first epoch, rounded up; it grows by equal steps to 1 in the first epoch
    after the curriculum; 0.3 where nothing is said."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("over", "epochs") == "epochs" and given.get("start_share") is None:
            return {**given, "start_share": 0.3}
        return given

    @model_validator(mode="after")
    def _start_share_is_of_epochs(self) -> Self:
        if self.over == "steps" and self.start_share is not None:
            raise ValueError("start_share belongs to a curriculum over epochs; over steps an epoch sees all queries")
        return self


class MiningConfig(Settings):
    """The choice of examples.

    A function of (seed, epoch, query_id), of the teacher's scores, and of the student's at the start of an epoch where
    disagreement is asked for.
    """

    queries: QueryChoice | None = None
    """Drop queries by the teacher's certainty, once."""
    documents: DocumentChoice | None = None
    """Drop documents by the teacher's certainty, once."""
    disagreement: Disagreement | None = None
    """Draw more often what student and teacher disagree on: the absolute difference of their scores, both standardised
    and centred within the query; of a query, the mean over its documents.  The student scores its training pairs at the
    start of each epoch for it."""
    mix: Mix | None = None
    """Take a group's documents from the top, the middle and anywhere of the teacher's list; with disagreement of
    documents, what is drawn anywhere is drawn by it."""
    curriculum: Curriculum | None = None
    """From easy to hard queries."""

    @model_validator(mode="after")
    def _something_is_chosen(self) -> Self:
        if all(part is None for _, part in self):
            parts = ", ".join(MiningConfig.model_fields)
            raise ValueError(f"mining chooses nothing: give one of {parts}, or leave it out")
        return self

    @model_validator(mode="after")
    def _mix_leaves_something_to_draw(self) -> Self:
        by_document = self.disagreement is not None and self.disagreement.of == "documents"
        if by_document and self.mix is not None and self.mix.random == 0:
            raise ValueError(
                "disagreement of documents draws what mix takes from anywhere, and mix.random is 0: raise it, or take "
                "disagreement of queries"
            )
        return self

    @property
    def by_disagreement(self) -> bool:
        """Whether anything goes by what the student says."""
        return self.disagreement is not None or (self.curriculum is not None and self.curriculum.by == "disagreement")

    def needs_student(self, epoch: int) -> bool:
        """Whether the student scores its training pairs at the start of that epoch, from 0."""
        drawn = self.disagreement is not None and epoch >= self.disagreement.from_epoch
        ordered = self.curriculum is not None and self.curriculum.by == "disagreement"
        return drawn or (ordered and self.curriculum is not None and epoch < self.curriculum.epochs)


def check_mining(mining: MiningConfig, docs_per_query: int, training: TrainingConfig) -> None:
    """Refuse a choice that does not go with the rest of the settings.

    Raises:
        ValueError: `mix` does not make docs_per_query documents, or the length of the run cannot be known ahead.
    """
    if mining.mix is not None and mining.mix.total != docs_per_query:
        parts = f"{mining.mix.top} + {mining.mix.middle} + {mining.mix.random} = {mining.mix.total}"
        raise ValueError(f"mining.mix takes {parts} documents, but docs_per_query is {docs_per_query}: make them equal")
    if mining.by_disagreement and training.epochs is not None:
        raise ValueError(
            "mining by disagreement decides at the start of each epoch what is in it, so nobody can know ahead how "
            "many steps training.epochs make: set training.steps instead"
        )
