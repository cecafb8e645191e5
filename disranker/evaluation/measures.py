"""How good is a ranking: the positive-negative ratio (PNR), and any ir-measures measure, from scores and graded labels.

    measure_run        from query_id -> doc_id -> value, for sets that fit into dictionaries
    measure_columns    from columns (`columns.py`, `tables.py`), for millions of documents; the same values

nDCG, P, RR, AP, R and Success are computed for all queries at once (`column_measures.py`), PNR and PairAccuracy too
(`pairs.py`, `pnr_measure.py`); every other measure goes to ir-measures.  Only numpy is imported here; ir-measures is
loaded when a measure's name is read, and when `PNR` (the ir-measures object) is first asked for.

What holds for every figure; `Rules` (`rules.py`) has one setting each for what may be done otherwise:
- Gain.  `nDCG@k` is ir-measures' default and has LINEAR gain (the label itself) and discount log2(1 + place);
  `nDCG(dcg='exp-log2')@k` has gain 2^label - 1.  Negative labels have no gain.
- Ties.  Scores are rounded to float32 (trec_eval does, so every measure sees the same ties); equal ones are placed by
  `Rules.ties`, whichever library computes the measure, PNR and PairAccuracy count them by their own rule.  The order of
  the input never matters.
- A judged document that the run lacks stays in the ideal ranking of nDCG, and is in no pair of PNR.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from disranker.evaluation import column_measures
from disranker.evaluation.columns import Columns, apply_rules, columns_from_dicts, refuse, show_key
from disranker.evaluation.pairs import PairCounts, PnrResult, count_query_pairs, pnr
from disranker.evaluation.rules import Rules

if TYPE_CHECKING:
    from ir_measures import Measure

__all__ = [  # and PNR, see __getattr__
    "DEFAULT_MEASURES",
    "DEFAULT_RULES",
    "Measured",
    "PairCounts",
    "PnrResult",
    "Rules",
    "group_labels",
    "group_scores",
    "measure_columns",
    "measure_name",
    "measure_run",
    "pnr",
    "rank_documents",
]

DEFAULT_MEASURES = ("nDCG@5", "nDCG@10", "PNR")
DEFAULT_RULES = Rules()

_ROWS_AT_ONCE = 200_000  # handed to ir-measures as dictionaries, about 100 bytes a row


def __getattr__(name: str) -> Any:
    """`PNR` is made on first use, so that this module needs numpy alone."""
    if name == "PNR":
        from disranker.evaluation.pnr_measure import register_pnr

        return register_pnr()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Labelled(Protocol):
    @property
    def query_id(self) -> str: ...
    @property
    def doc_id(self) -> str: ...
    @property
    def label(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run is worth: each measure over all queries and by query."""

    aggregate: dict[str, float]
    """measure -> value; measures are named as ir-measures names them, `nDCG@10`."""
    per_query: dict[str, dict[str, float]]
    """measure -> query_id -> value, the same queries in each; PNR of a query may be `inf` or `nan`."""
    pairs: dict[str, PairCounts]
    """query_id -> what PNR pools; 0, 0, 0 for a judged query that the run lacks."""
    counts: dict[str, int]
    """What was measured and what the rules met, see `measure_columns`."""


def group_labels(judgments: Iterable[_Labelled]) -> dict[str, dict[str, int]]:
    """Labels by query and document from judged records; the same document judged twice is a ValueError."""
    grouped: dict[str, dict[str, int]] = {}
    repeated: list[str] = []
    for judgment in judgments:
        documents = grouped.setdefault(judgment.query_id, {})
        if judgment.doc_id in documents:
            repeated.append(show_key(judgment.query_id, judgment.doc_id))
        documents[judgment.doc_id] = judgment.label
    refuse(repeated, "documents are judged twice for one query")
    return grouped


def group_scores(query_ids: Sequence[str], doc_ids: Sequence[str], scores: ArrayLike) -> dict[str, dict[str, float]]:
    """Scores by query and document from three columns; a document scored twice for a query is a ValueError."""
    values = np.asarray(scores, dtype=np.float64)
    if not len(query_ids) == len(doc_ids) == len(values):
        raise ValueError(
            f"{len(query_ids)} query_ids, {len(doc_ids)} doc_ids and {len(values)} scores; give one each per document"
        )
    grouped: dict[str, dict[str, float]] = {}
    repeated: list[str] = []
    for query_id, doc_id, score in zip(query_ids, doc_ids, values.tolist(), strict=True):
        documents = grouped.setdefault(query_id, {})
        if doc_id in documents:
            repeated.append(show_key(query_id, doc_id))
        documents[doc_id] = score
    refuse(repeated, "documents are scored twice for one query")
    return grouped


def rank_documents(scores: Mapping[str, float]) -> list[str]:
    """The doc_ids of one query, best first: by float32 score, ties by doc_id descending (trec_eval's rule)."""
    return sorted(sorted(scores, reverse=True), key=lambda doc_id: np.float32(scores[doc_id]), reverse=True)


def measure_name(measure: str | Measure) -> str:
    """The one name of a measure: `NDCG@10`, `ndcg` aliases and spacing come out as ir-measures writes them."""
    return str(_parse(measure))


def measure_run(
    judgments: Mapping[str, Mapping[str, int]],
    scores: Mapping[str, Mapping[str, float]],
    measures: Sequence[str | Measure] = DEFAULT_MEASURES,
    rules: Rules = DEFAULT_RULES,
) -> Measured:
    """Measures scored documents against graded labels, both query_id -> doc_id -> value.

    `judgments` may hold documents and queries that the run lacks (re-ranking the first 100 of a run, measured with the
    full judgments).

    Raises ValueError, naming the first offenders, for NaN or infinite scores, queries that nobody judged, missing or
    fractional labels, no common query, what the rules refuse, and unknown measures.
    """
    parsed = [_parse(measure) for measure in measures]
    return _measure(columns_from_dicts(judgments, scores), parsed, rules)


def measure_columns(
    columns: Columns, measures: Sequence[str | Measure] = DEFAULT_MEASURES, rules: Rules = DEFAULT_RULES
) -> Measured:
    """Measures scored documents against graded labels, from columns; values and errors are those of `measure_run`.

    `counts` holds, of queries: num_queries (measured), num_queries_skipped (by the rules), num_queries_missing (judged,
    not in the run), num_queries_without_relevant (no label above 0), num_queries_without_pairs (of those measured); of
    documents: num_documents (scored), num_unjudged (scored, no label), num_unscored (judged, not in the run),
    num_tied_documents (with the score of another one of their query).
    """
    return _measure(columns, [_parse(measure) for measure in measures], rules)


def _measure(columns: Columns, measures: Sequence[Measure], rules: Rules) -> Measured:
    columns, counts = apply_rules(columns, rules)
    pairs = _pairs(columns, gap=1)
    per_query = {}
    for measure in measures:
        if measure.NAME in ("PNR", "PairAccuracy"):
            per_query[str(measure)] = _pair_values(measure, columns, pairs)
        else:
            values = _column_values(measure, columns)
            if values is None:
                per_query[str(measure)] = _ir_values(measure, columns)
            else:
                per_query[str(measure)] = dict(zip(columns.query_ids, values.tolist(), strict=True))
    counts["num_queries_without_pairs"] = sum(not any(of_query) for of_query in pairs.values())
    return Measured(
        aggregate={str(measure): _aggregate(measure, per_query[str(measure)]) for measure in measures},
        per_query=per_query,
        pairs=pairs,
        counts=counts,
    )


def _pairs(columns: Columns, gap: int) -> dict[str, PairCounts]:
    counts = count_query_pairs(columns.labels, columns.scores, columns.starts, gap)
    return {query: PairCounts(*row) for query, row in zip(columns.query_ids, counts.tolist(), strict=True)}


def _pair_values(measure: Any, columns: Columns, pairs: dict[str, PairCounts]) -> dict[str, float]:
    from disranker.evaluation.pnr_measure import PairValue

    rule = measure.rule
    counts = pairs if rule.gap == 1 else _pairs(columns, rule.gap)
    return {query: PairValue(of_query, rule) for query, of_query in counts.items()}


def _column_values(measure: Measure, columns: Columns) -> NDArray[np.float64] | None:
    """The measure for all queries at once, [Q], or None where it is left to ir-measures."""
    parameters = dict(measure.params)
    if parameters.pop("judged_only", False):
        columns = columns.condense()
    cutoff, rel = parameters.pop("cutoff", None), parameters.pop("rel", 1)
    if rel < 1 or "gains" in parameters:  # a `rel` of 0 would need to tell label 0 from no label
        return None
    if measure.NAME == "nDCG":
        gain = column_measures.exponential_gain if measure["dcg"] == "exp-log2" else column_measures.linear_gain
        return column_measures.ndcg(columns, cutoff, gain)
    function = {
        "P": column_measures.precision,
        "R": column_measures.recall,
        "Success": column_measures.success,
        "RR": column_measures.reciprocal_place,
        "AP": column_measures.average_precision,
    }.get(str(measure.NAME))
    return function(columns, cutoff, rel) if function else None


def _ir_values(measure: Measure, columns: Columns) -> dict[str, float]:
    """The measure by ir-measures, some queries at a time: its providers want dictionaries."""
    import ir_measures

    values: dict[str, float] = {}
    for queries in _chunks(columns):
        labels, run = _dictionaries(columns, queries)
        try:
            found = {metric.query_id: float(metric.value) for metric in ir_measures.iter_calc([measure], labels, run)}
        except (ValueError, ArithmeticError) as error:  # Accuracy divides by zero where every document is relevant
            raise ValueError(f"measure {measure} cannot be computed on this set: {error}") from error
        values |= {query: found.get(query, measure.DEFAULT) for query in labels}
    return values


def _chunks(columns: Columns) -> Iterator[range]:
    """The queries, as many at a time as make about `_ROWS_AT_ONCE` rows."""
    rows = columns.starts + columns.unscored_starts
    first = 0
    while first < columns.num_queries:
        last = int(np.searchsorted(rows, rows[first] + _ROWS_AT_ONCE, side="right")) - 1
        last = min(max(last, first + 1), columns.num_queries)
        yield range(first, last)
        first = last


def _dictionaries(columns: Columns, queries: range) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Labels and scores of some queries for ir-measures.

    Documents are named by their places, and their scores fall with them, so that every provider keeps our order: some
    break ties by doc_id ascending, some by the order that they are handed.
    """
    labels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for query in queries:
        here = slice(columns.starts[query], columns.starts[query + 1])
        found, judged = columns.labels[here].tolist(), columns.judged[here].tolist()
        unscored = columns.unscored_labels[columns.unscored_starts[query] : columns.unscored_starts[query + 1]].tolist()
        name = columns.query_ids[query]
        labels[name] = {str(place): found[place] for place in range(len(found)) if judged[place]}
        labels[name] |= {f"unscored-{index}": label for index, label in enumerate(unscored)}
        if max(labels[name].values()) < 0:
            # pytrec_eval (0.5.11) reads past its counts of labels when a query has negative ones alone, and may hang.
            labels[name] = dict.fromkeys(labels[name], 0)
        if found:
            run[name] = {str(place): float(len(found) - place) for place in range(len(found))}
    return labels, run


def _aggregate(measure: Measure, values: dict[str, float]) -> float:
    """The measure's own aggregation, in the order of the query ids: providers yield in an order that is not stable."""
    aggregator = measure.aggregator()
    for query in sorted(values):
        aggregator.add(values[query])
    return float(aggregator.result())


def _parse(measure: str | Measure) -> Measure:
    """The measure behind a name; strings are ir-measures expressions."""
    import ir_measures

    from disranker.evaluation.pnr_measure import register_pnr

    register_pnr()
    try:
        parsed = ir_measures.parse_measure(str(measure))
        parsed.validate_params()
        if parsed.params.get("cutoff", 1) < 1:
            raise ValueError("the cut-off must be 1 or more")
    except (NameError, ValueError, AssertionError) as error:
        raise ValueError(
            f"unknown measure {str(measure)!r}: {error}; known are e.g. {', '.join(DEFAULT_MEASURES)}"
        ) from error
    return parsed
