"""PNR as an ir-measures measure, so that it can stand beside theirs in one call.

    from disranker.evaluation.measures import PNR
    ir_measures.calc_aggregate([nDCG @ 10, PNR], qrels, run)
    ir_measures.parse_measure("PNR")              # once registered; PNR(ties='discordant') for another tie rule

ir-measures aggregates by feeding each query's value to `measure.aggregator()`, normally a mean.  A mean of ratios is
not PNR: the industry's figure pools the pairs.  So a query's value is a float that also carries its pair counts, and
the aggregator adds the counts; the aggregate equals `pnr(...).micro`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import ir_measures
import numpy as np
from ir_measures import measures, providers
from ir_measures.measures.base import Agg

from disranker.evaluation.pairs import PairCounts, TieRule, count_pairs, ratio


class PnrValue(float):
    """The PNR of one query, with the pair counts that pooling needs."""

    counts: PairCounts
    ties: TieRule

    def __new__(cls, counts: PairCounts, ties: TieRule) -> PnrValue:
        value = super().__new__(cls, counts.pnr(ties))
        value.counts, value.ties = counts, ties
        return value


class PooledRatio(Agg):
    """Adds up concordant and discordant pairs over queries and divides once."""

    def __init__(self) -> None:
        self.concordant = 0.0
        self.discordant = 0.0

    def add(self, value: float) -> None:
        if isinstance(value, PnrValue):
            concordant, discordant = value.counts.split(value.ties)
            self.concordant += concordant
            self.discordant += discordant
        elif not math.isnan(value):  # nan is `DEFAULT`: a query that the run lacks, which has no pairs
            raise ValueError(f"a PNR of {value} without its pair counts cannot be pooled")

    def result(self) -> float:
        return ratio(self.concordant, self.discordant)


class PositiveNegativeRatio(measures.Measure):
    """Concordant / discordant document pairs over graded labels, pooled over queries (micro)."""

    __name__ = "PNR"
    NAME = __name__
    PRETTY_NAME = "Positive-negative ratio"
    SHORT_DESC = "Pairs of differently labelled documents in the right order, for each pair in the wrong one."
    SUPPORTED_PARAMS = {
        "ties": measures.ParamInfo(
            dtype=str, choices=list(get_args(TieRule)), default="half", desc="what a tie of two scores counts as"
        )
    }
    DEFAULT = math.nan

    def aggregator(self) -> Agg:
        return PooledRatio()


class PnrProvider(providers.Provider):
    """Computes PNR; as in trec_eval, unjudged documents count as label 0 and scores are read as float32."""

    NAME = "disranker"
    SUPPORTED_MEASURES = [PositiveNegativeRatio(ties=providers.base.Any())]

    def _evaluator(self, measures: Iterable[measures.Measure], qrels: Any) -> providers.Evaluator:
        return PnrEvaluator(list(measures), ir_measures.util.QrelsConverter(qrels).as_dict_of_dict())


class PnrEvaluator(providers.Evaluator):
    """PNR of runs against one set of qrels."""

    def __init__(self, measures: list[measures.Measure], qrels: dict[str, dict[str, int]]) -> None:
        super().__init__(measures, set(qrels))
        self.qrels = qrels

    def _iter_calc(self, run: Any) -> Iterator[ir_measures.Metric]:
        scored = ir_measures.util.RunConverter(run).as_dict_of_dict()
        for query_id, documents in scored.items():
            if query_id not in self.qrels or not documents:
                continue
            labels = np.array([self.qrels[query_id].get(doc_id, 0) for doc_id in documents])
            counts = count_pairs(labels, np.array(list(documents.values()), dtype=np.float32))
            for measure in self.measures:
                yield ir_measures.Metric(query_id, measure, PnrValue(counts, measure["ties"]))


def register_pnr() -> measures.Measure:
    """Makes ir-measures know PNR, once however often it is called, and gives the measure."""
    if "PNR" not in measures.registry:
        measures.register(PositiveNegativeRatio())
        ir_measures.DefaultPipeline.providers.append(providers.register(PnrProvider()))
    registered: measures.Measure = measures.registry["PNR"]
    return registered


def tie_rule_of(measure: str) -> TieRule | None:
    """The tie rule of a measure's name when it is a PNR, `None` for every other measure."""
    register_pnr()
    parsed = ir_measures.parse_measure(measure)
    if parsed.NAME != PositiveNegativeRatio.NAME:
        return None
    rule: TieRule = parsed["ties"]
    return rule
