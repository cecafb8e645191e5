"""How good is a ranking: the positive-negative ratio (PNR), and any ir-measures measure, from scores and graded labels.

PNR itself stands in `pairs.py`.  Only numpy is imported here; ir-measures is loaded by `measure_run`, and when `PNR`
(the ir-measures object, see `pnr_measure.py`) is first asked for.  Files and comparisons are elsewhere.

Rules that hold for every figure:
- Gain.  `nDCG@k` is ir-measures' default and has LINEAR gain (the label itself) and discount log2(1 + position);
  `nDCG(dcg='exp-log2')@k` has gain 2^label - 1.  Negative labels have no gain.
- Ties.  `measure_run` rounds scores to float32 (trec_eval does, so every measure sees the same ties) and places equal
  scores by doc_id, descending as strings, which is trec_eval's rule.  The order of the input never matters.
- A judged query that the run lacks counts as 0 (nothing, for PNR).  A query without a relevant document has nDCG 0.
- A scored document without a label counts as label 0 in every measure, or is refused (`unjudged`); it is counted.
- A judged document that the run lacks stays in the ideal ranking of nDCG, and is in no pair of PNR.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike

from disranker.evaluation.pairs import PairCounts, PnrResult, count_pairs, pnr

if TYPE_CHECKING:
    from ir_measures import Measure

__all__ = [  # and PNR, see __getattr__
    "DEFAULT_MEASURES",
    "Measured",
    "PairCounts",
    "PnrResult",
    "group_labels",
    "group_scores",
    "measure_name",
    "measure_run",
    "pnr",
    "rank_documents",
]

UnjudgedRule = Literal["zero", "error"]

DEFAULT_MEASURES = ("nDCG@5", "nDCG@10", "PNR")

_NAMED_KEYS = 3  # offenders that an error message lists


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
    """measure -> query_id -> value; PNR of a query may be `inf` or `nan`."""
    pairs: dict[str, PairCounts]
    """query_id -> what PNR pools; 0, 0, 0 for a judged query that the run lacks."""
    counts: dict[str, int]


def group_labels(judgments: Iterable[_Labelled]) -> dict[str, dict[str, int]]:
    """Labels by query and document from judged records; the same document judged twice is a ValueError."""
    grouped: dict[str, dict[str, int]] = {}
    repeated: list[str] = []
    for judgment in judgments:
        documents = grouped.setdefault(judgment.query_id, {})
        if judgment.doc_id in documents:
            repeated.append(_key(judgment.query_id, judgment.doc_id))
        documents[judgment.doc_id] = judgment.label
    _refuse(repeated, "documents are judged twice for one query")
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
            repeated.append(_key(query_id, doc_id))
        documents[doc_id] = score
    _refuse(repeated, "documents are scored twice for one query")
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
    unjudged: UnjudgedRule = "zero",
) -> Measured:
    """Measures scored documents against graded labels, both query_id -> doc_id -> value.

    `judgments` may hold documents and queries that the run lacks (re-ranking the first 100 of a run, measured with the
    full judgments); the module docstring gives the rules.  `counts` holds: num_queries, num_queries_missing (judged,
    not in the run), num_queries_without_relevant (no label above 0), num_queries_without_pairs, num_documents
    (scored), num_unjudged (scored, no label), num_unscored (judged, not in the run).

    Raises ValueError, naming the first offenders, for NaN or infinite scores, queries that nobody judged, missing or
    fractional labels, no common query, unjudged documents where `unjudged="error"`, and unknown measures.
    """
    if unjudged not in get_args(UnjudgedRule):
        raise ValueError(f"unjudged={unjudged!r} is no rule; use one of {', '.join(get_args(UnjudgedRule))}")
    parsed = [_parse(measure) for measure in measures]
    labels = _checked_labels(judgments)
    run = _checked_run(labels, scores)

    without_label = [_key(query, doc) for query in run for doc in run[query] if doc not in labels[query]]
    if unjudged == "error":
        _refuse(without_label, "scored documents have no label; judge them, drop them, or count them as label 0")

    pairs = {query: PairCounts(0, 0, 0) for query in sorted(labels)}
    for query, documents in run.items():
        found = np.array([labels[query].get(doc, 0) for doc in documents], dtype=np.int64)
        pairs[query] = count_pairs(found, np.fromiter(documents.values(), dtype=np.float32, count=len(documents)))

    per_query = {str(measure): _per_query(measure, labels, run, pairs) for measure in parsed}
    return Measured(
        aggregate={str(measure): _aggregate(measure, per_query[str(measure)]) for measure in parsed},
        per_query=per_query,
        pairs=pairs,
        counts={
            "num_queries": len(labels),
            "num_queries_missing": len(labels) - len(run),
            "num_queries_without_relevant": sum(max(documents.values()) <= 0 for documents in labels.values()),
            "num_queries_without_pairs": sum(not any(counts) for counts in pairs.values()),
            "num_documents": sum(len(documents) for documents in run.values()),
            "num_unjudged": len(without_label),
            "num_unscored": sum(doc not in run.get(query, ()) for query, docs in labels.items() for doc in docs),
        },
    )


def _checked_labels(judgments: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    missing: list[str] = []
    for query, documents in judgments.items():
        if not documents:
            missing.append(f"query_id {query!r}: no document at all")
        for doc, label in documents.items():
            if label is None or not math.isfinite(label) or int(label) != label:
                missing.append(f"{_key(query, doc)}: {label!r}")
    _refuse(missing, "labels are missing or are no whole numbers")
    return {query: {doc: int(label) for doc, label in documents.items()} for query, documents in judgments.items()}


def _checked_run(
    labels: dict[str, dict[str, int]], scores: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """The run in float32, documents best first: providers with a stable sort then break ties as trec_eval does."""
    wrong = [
        f"{_key(query, doc)}: {score}"
        for query, docs in scores.items()
        for doc, score in docs.items()
        if not _float32_finite(score)
    ]
    _refuse(wrong, "scores are NaN or infinite in float32")
    run = {query: scores[query] for query in sorted(scores) if scores[query]}
    if not run.keys() & labels.keys():
        raise ValueError(
            f"no query is both scored and judged: {len(run)} scored (first: {_first(run)}), "
            f"{len(labels)} judged (first: {_first(labels)}); are these the same set?"
        )
    _refuse(
        [f"query_id {query!r}" for query in run if query not in labels], "scored queries have no judgment; drop them"
    )
    return {query: {doc: float(np.float32(docs[doc])) for doc in rank_documents(docs)} for query, docs in run.items()}


def _float32_finite(score: float) -> bool:
    return math.isfinite(score) and abs(score) <= float(np.finfo(np.float32).max)


def _per_query(
    measure: Measure, labels: dict[str, dict[str, int]], run: dict[str, dict[str, float]], pairs: dict[str, PairCounts]
) -> dict[str, float]:
    import ir_measures

    if measure.NAME == "PNR":
        from disranker.evaluation.pnr_measure import PnrValue

        return {query: PnrValue(counts, measure["ties"]) for query, counts in pairs.items()}
    computed = measure
    if measure.NAME == "nDCG" and measure["dcg"] == "exp-log2":
        # ir-measures would hand this to a Perl script that wants whole numbers as query ids and prints five digits;
        # the same gains as a mapping go to trec_eval's code instead.
        used = {label for documents in labels.values() for label in documents.values()}
        gains = {label: 2**label - 1 if label > 0 else 0 for label in sorted(used)}
        computed = ir_measures.nDCG(
            **{key: value for key, value in measure.params.items() if key != "dcg"}, gains=gains
        )
    try:
        found = {metric.query_id: float(metric.value) for metric in ir_measures.iter_calc([computed], labels, run)}
    except (ValueError, ArithmeticError) as error:  # Accuracy divides by zero where every document is relevant
        raise ValueError(f"measure {measure} cannot be computed on this set: {error}") from error
    return {query: found.get(query, measure.DEFAULT) for query in sorted(labels)}


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
    except (NameError, ValueError, AssertionError) as error:
        raise ValueError(
            f"unknown measure {str(measure)!r}: {error}; known are e.g. {', '.join(DEFAULT_MEASURES)}"
        ) from error
    return parsed


def _key(query_id: str, doc_id: str) -> str:
    return f"(query_id {query_id!r}, doc_id {doc_id!r})"


def _first(keys: Iterable[str]) -> str:
    return repr(next(iter(keys), None))


def _refuse(offenders: Sequence[str], what: str) -> None:
    if offenders:
        more = ", …" if len(offenders) > _NAMED_KEYS else ""
        raise ValueError(f"{len(offenders)} {what}: {', '.join(offenders[:_NAMED_KEYS])}{more}")
