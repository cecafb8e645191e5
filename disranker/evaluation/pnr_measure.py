"""PNR and PairAccuracy as ir-measures measures, so that they can stand beside theirs in one call.

    from disranker.evaluation.measures import PNR
    ir_measures.calc_aggregate([nDCG @ 10, PNR], qrels, run)
    ir_measures.parse_measure("PNR(ties='discordant')")              # once registered

    PNR            concordant / discordant pairs over graded labels; pooled over queries unless avg='macro'
    PairAccuracy   concordant / (concordant + discordant); the mean over queries unless avg='micro'

    ties='half'    a tie of two scores counts half right, half wrong; 'discordant': wrong; 'ignore': not at all
    gap=1          pairs count whose labels differ by at least so much
    avg            micro: pairs pooled over queries; macro: mean of the queries' values, over the queries where it is
                   finite.  That leaves out queries without pairs, and of PNR those without a discordant pair.

ir-measures' own `Accuracy` differs from PairAccuracy: it knows relevant and not relevant only (`rel`) instead of every
two grades, breaks ties by the order of the list instead of counting them half, and counts a query without a relevant
document as 0 here.  On binary labels without ties, pooled: PNR = accuracy / (1 - accuracy).

ir-measures aggregates by feeding each query's value to `measure.aggregator()`, normally a mean.  A mean of ratios is
not PNR: the industry's figure pools the pairs.  So a query's value is a float that also carries its pair counts, and
the aggregator adds the counts; the aggregate equals `pnr(...).micro`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import ir_measures
import numpy as np
from ir_measures import measures, providers
from ir_measures.measures.base import Agg

from disranker.evaluation.pairs import PairCounts, TieRule, count_pairs

Average = Literal["micro", "macro"]
Figure = Literal["PNR", "PairAccuracy"]


@dataclass(frozen=True, slots=True)
class PairRule:
    """What a measure makes of pair counts; the values of its parameters."""

    figure: Figure
    average: Average
    ties: TieRule
    gap: int

    def value(self, counts: PairCounts) -> float:
        """The measure of one query; `nan` without pairs, PNR is `inf` without a discordant one."""
        return counts.pnr(self.ties) if self.figure == "PNR" else counts.accuracy(self.ties)

    def terms(self, counts: PairCounts) -> tuple[float, float]:
        """What a query adds to the aggregate's numerator and denominator."""
        if self.average == "macro":
            value = self.value(counts)
            return (value, 1.0) if math.isfinite(value) else (0.0, 0.0)
        concordant, discordant = counts.split(self.ties)
        return concordant, discordant if self.figure == "PNR" else concordant + discordant


class PairValue(float):
    """The PNR or PairAccuracy of one query, with the pair counts that pooling needs."""

    counts: PairCounts
    rule: PairRule

    def __new__(cls, counts: PairCounts, rule: PairRule) -> PairValue:
        value = super().__new__(cls, rule.value(counts))
        value.counts, value.rule = counts, rule
        return value


class SumOfTerms(Agg):
    """Adds up numerators and denominators over queries and divides once."""

    def __init__(self) -> None:
        self.numerator = 0.0
        self.denominator = 0.0
        self.infinite = False

    def add(self, value: float) -> None:
        if isinstance(value, PairValue):
            numerator, denominator = value.rule.terms(value.counts)
            self.numerator += numerator
            self.denominator += denominator
            self.infinite |= math.isinf(value)
        elif not math.isnan(value):  # nan is `DEFAULT`: a query that the run lacks, which has no pairs
            raise ValueError(f"a value of {value} without its pair counts cannot be pooled")

    def result(self) -> float:
        if self.denominator:
            return self.numerator / self.denominator
        return math.inf if self.infinite else math.nan


def _parameters(average: Average) -> dict[str, measures.ParamInfo]:
    return {
        "ties": measures.ParamInfo(
            dtype=str, choices=list(get_args(TieRule)), default="half", desc="what a tie of two scores counts as"
        ),
        "gap": measures.ParamInfo(dtype=int, default=1, desc="pairs count whose labels differ by at least so much"),
        "avg": measures.ParamInfo(
            dtype=str, choices=list(get_args(Average)), default=average, desc="pairs pooled, or mean over queries"
        ),
    }


class PairMeasure(measures.Measure):
    """A measure made of pair counts."""

    DEFAULT = math.nan
    FIGURE: ClassVar[Figure]

    @property
    def rule(self) -> PairRule:
        return PairRule(self.FIGURE, self["avg"], self["ties"], self["gap"])

    def validate_params(self) -> None:
        super().validate_params()
        assert self["gap"] >= 1, f"invalid param gap={self['gap']}: a pair's labels differ by 1 or more"

    def aggregator(self) -> Agg:
        return SumOfTerms()


class PositiveNegativeRatio(PairMeasure):
    """Concordant / discordant document pairs over graded labels, pooled over queries (micro)."""

    __name__ = "PNR"
    NAME = __name__
    FIGURE = "PNR"
    PRETTY_NAME = "Positive-negative ratio"
    SHORT_DESC = "Pairs of differently labelled documents in the right order, for each pair in the wrong one."
    SUPPORTED_PARAMS = _parameters("micro")


class PairAccuracy(PairMeasure):
    """The share of document pairs with different labels that stand in the right order, mean over queries (macro)."""

    __name__ = "PairAccuracy"
    NAME = __name__
    FIGURE = "PairAccuracy"
    PRETTY_NAME = "Pairwise accuracy over graded labels"
    SHORT_DESC = "The share of pairs of differently labelled documents in the right order."
    SUPPORTED_PARAMS = _parameters("macro")


class PairProvider(providers.Provider):
    """Computes both; as in trec_eval, unjudged documents count as label 0 and scores are read as float32."""

    NAME = "disranker"
    SUPPORTED_MEASURES = [
        PositiveNegativeRatio(ties=providers.base.Any(), gap=providers.base.Any(), avg=providers.base.Any()),
        PairAccuracy(ties=providers.base.Any(), gap=providers.base.Any(), avg=providers.base.Any()),
    ]

    def _evaluator(self, measures: Iterable[measures.Measure], qrels: Any) -> providers.Evaluator:
        return PairEvaluator(list(measures), ir_measures.util.QrelsConverter(qrels).as_dict_of_dict())


class PairEvaluator(providers.Evaluator):
    """PNR and PairAccuracy of runs against one set of qrels."""

    def __init__(self, measures: list[Any], qrels: dict[str, dict[str, int]]) -> None:
        super().__init__(measures, set(qrels))
        self.rules = {measure: measure.rule for measure in measures}
        self.qrels = qrels

    def _iter_calc(self, run: Any) -> Iterator[ir_measures.Metric]:
        scored = ir_measures.util.RunConverter(run).as_dict_of_dict()
        for query_id, documents in scored.items():
            if query_id not in self.qrels or not documents:
                continue
            labels = np.array([self.qrels[query_id].get(doc_id, 0) for doc_id in documents])
            scores = np.array(list(documents.values()), dtype=np.float32)
            counts = {gap: count_pairs(labels, scores, gap) for gap in {rule.gap for rule in self.rules.values()}}
            for measure, rule in self.rules.items():
                yield ir_measures.Metric(query_id, measure, PairValue(counts[rule.gap], rule))


def register_pnr() -> measures.Measure:
    """Makes ir-measures know both measures, once however often it is called, and gives PNR."""
    if "PNR" not in measures.registry:
        measures.register(PositiveNegativeRatio())
        measures.register(PairAccuracy())
        ir_measures.DefaultPipeline.providers.append(providers.register(PairProvider()))
    registered: measures.Measure = measures.registry["PNR"]
    return registered


def pair_rule_of(measure: str) -> PairRule | None:
    """What a measure makes of pair counts, by its name; `None` for a measure that is not made of pairs."""
    register_pnr()
    parsed = ir_measures.parse_measure(measure)
    return parsed.rule if isinstance(parsed, PairMeasure) else None


def tie_rule_of(measure: str) -> TieRule | None:
    """The tie rule of a PNR that is pooled over all pairs; `None` for every measure that is a mean over queries.

    Raises:
        ValueError: a pooled measure for which the pairs of `Measured` are not what is pooled, or not this way.
    """
    rule = pair_rule_of(measure)
    if rule is None or rule.average == "macro":
        return None
    if rule.figure != "PNR" or rule.gap > 1:
        raise ValueError(f"{measure} is pooled over pairs that cannot be resampled; use PNR, or avg='macro'")
    return rule.ties
