"""How clicks become evidence: which rows of a log are trained on and what each weighs; off unless it is asked for."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from disranker.config.parts import Positive, Share
from disranker.settings import InputPath, Settings

AboveZero = Annotated[float, Field(gt=0.0)]


class PositionConfig(Settings):
    """A click counts for all who would have clicked had they looked: its weight is 1 / propensity of its position."""

    propensities: list[AboveZero] | None = None
    """How likely each position is examined, from the first; only their ratios matter.  Without this and
    `propensities_file` they are estimated from the log."""
    propensities_file: InputPath | None = None
    """The same as CSV, TSV, JSONL or Parquet with columns position, propensity: each position once, from 1."""
    depth: Annotated[int, Field(ge=2)] = 10
    """Positions whose propensity is estimated.  Clicks below the last propensity count as clicks there."""
    clip: Annotated[float, Field(ge=1.0)] | None = 10.0
    """Largest weight of a click, in clicks at position 1: less variance for some bias; null bounds none."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.propensities is not None and self.propensities_file is not None:
            raise ValueError("give one of propensities and propensities_file, or none to estimate them")
        if self.propensities == []:
            raise ValueError("propensities is empty; give one a position, or null to estimate them")
        if self.depth != type(self).model_fields["depth"].default and not self.are_estimated:
            raise ValueError("depth is the number of propensities when they are given; leave it out")
        return self

    @property
    def are_estimated(self) -> bool:
        """Whether the log tells the propensities."""
        return self.propensities is None and self.propensities_file is None


class DwellConfig(Settings):
    """Short visits are no answers: a threshold on the dwell time, a weight by it, or both."""

    min_seconds: Annotated[float, Field(ge=0.0)] = 0.0
    """Rows whose clicks stay shorter on average are left out."""
    weight: Literal["linear", "log"] | None = None
    """linear: min(seconds, cap) / cap; log: log(1 + min(seconds, cap)) / log(1 + cap); null: no weight."""
    cap_seconds: AboveZero = 60.0
    """Dwell time from which staying longer means nothing (`weight`)."""

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.min_seconds == 0 and self.weight is None:
            raise ValueError("dwell does nothing: set min_seconds or weight, or leave dwell null")
        if self.weight is None and self.cap_seconds != type(self).model_fields["cap_seconds"].default:
            raise ValueError("cap_seconds belongs to weight: set that too, or leave it out")
        return self


class ClickThroughConfig(Settings):
    """Documents that are shown often and clicked rarely are weak evidence: thresholds on the smoothed CTR, or a weight.

    CTR = (clicks + prior_impressions x prior_ctr) / (impressions + prior_impressions), over all rows of a query and a
    document; with `position`, impressions count by their propensity.
    """

    min_ctr: Share = 0.0
    """Rows of pairs with a lower CTR are left out."""
    min_impressions: Positive = 1
    """Rows of pairs that were shown less often are left out."""
    prior_impressions: Annotated[float, Field(ge=0.0)] = 10.0
    """Impressions that the prior counts for; 0 turns smoothing off."""
    prior_ctr: Share | None = None
    """CTR of a pair of which nothing is known; null takes that of the whole log."""
    weight: bool = False
    """Weigh rows by the CTR of their pair."""

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.min_ctr == 0 and self.min_impressions == 1 and not self.weight:
            raise ValueError("ctr does nothing: set min_ctr, min_impressions or weight, or leave ctr null")
        return self


class EvidenceConfig(Settings):
    """Which clicks are trained on, and what each weighs; weights multiply and are scaled to a mean of 1."""

    require_title: bool = True
    """Skip a row without a title as one without a query is skipped; false takes its summary alone."""
    position: PositionConfig | None = None
    """Correct for position bias; needs `position`, and `impressions` to estimate propensities.  {} estimates."""
    dwell: DwellConfig | None = None
    """Go by `dwell_seconds`."""
    ctr: ClickThroughConfig | None = None
    """Go by clicks / impressions; needs `impressions`."""
    near_duplicates: Annotated[float, Field(ge=0.8, lt=1.0)] | None = None
    """Leave out documents that are this similar to one with more clicks: Jaccard similarity of the sets of
    5-character pieces of title and summary, estimated (MinHash) with a standard error of 0.04; 0.9 is usual."""
    max_per_query: Positive | None = None
    """Rows of one query at most, drawn by a hash of seed, query and document."""
    max_per_document: Positive | None = None
    """Rows of one document at most, drawn likewise from what `max_per_query` leaves."""

    @property
    def is_off(self) -> bool:
        """Whether every clicked row is trained on with weight 1."""
        parts = (self.position, self.dwell, self.ctr, self.near_duplicates, self.max_per_query, self.max_per_document)
        return all(part is None for part in parts)

    @property
    def weighs(self) -> bool:
        """Whether rows may weigh other than 1."""
        by_dwell = self.dwell is not None and self.dwell.weight is not None
        by_ctr = self.ctr is not None and self.ctr.weight
        return self.position is not None or by_dwell or by_ctr

    @property
    def logged(self) -> tuple[str, ...]:
        """The optional columns of a click log that every row must have."""
        position = self.position is not None
        estimated = self.position is not None and self.position.are_estimated
        needs = {
            "position": position,
            "impressions": estimated or self.ctr is not None,
            "dwell_seconds": self.dwell is not None,
        }
        return tuple(name for name, needed in needs.items() if needed)
