"""Judged and scored documents as columns: what measures read, without a Python object for each document.

    Columns            the documents that a run scored, best first within each query, with their labels; and the judged
                       documents that it lacks
    join_columns       labels and scores of the same (query_id, doc_id), checked, from integer codes
    columns_from_dicts the same from query_id -> doc_id -> value; `tables.py` makes them from Arrow tables
    apply_rules        the queries and documents that a measurement counts, by its `Rules`

Numpy only; measures are in `column_measures.py`.  Letters in shapes: Q queries, R scored rows, U judged rows unscored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from disranker.evaluation.rules import Rules

_NAMED_KEYS = 3  # offenders that an error message lists

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class DocIds(Protocol):
    """The doc_ids behind document codes."""

    def name(self, code: int) -> str:
        """The doc_id itself."""
        ...

    def sort_keys(self, codes: Ints) -> Ints:
        """Numbers in the order of these documents' ids as strings."""
        ...


class SortedDocIds(NamedTuple):
    """doc_ids in the order of strings, so that codes are their own sort keys."""

    ids: Sequence[str]

    def name(self, code: int) -> str:
        return self.ids[code]

    def sort_keys(self, codes: Ints) -> Ints:
        return codes


class Rows(NamedTuple):
    """(query, document, value) columns of equal length; codes count from 0, document codes stay below 2^31."""

    queries: NDArray[np.integer[Any]]
    docs: NDArray[np.integer[Any]]
    values: ArrayLike


@dataclass(frozen=True, slots=True)
class Columns:
    """What a run scored of a judged set; query q has the scored rows `starts[q]` to `starts[q + 1]`, best first.

    Scores are rounded to float32, as trec_eval does, so every measure sees the same ties.
    """

    query_ids: Sequence[str]
    """The judged queries, in the order of strings, [Q]."""
    doc_ids: DocIds
    starts: Ints
    """[Q + 1]."""
    docs: NDArray[np.int32]
    """Document codes, [R]."""
    scores: NDArray[np.float32]
    """[R]."""
    labels: NDArray[np.int32]
    """[R]; 0 where not judged."""
    judged: Mask
    """[R]."""
    unscored_starts: Ints
    """[Q + 1]; judged documents that the run lacks."""
    unscored_labels: NDArray[np.int32]
    """[U]."""

    @property
    def num_queries(self) -> int:
        return len(self.query_ids)

    def row_queries(self) -> Ints:
        """The query of each scored row, [R]."""
        return np.repeat(np.arange(self.num_queries), np.diff(self.starts))

    def key(self, row: int) -> str:
        """A scored row by its names, for messages."""
        query = int(np.searchsorted(self.starts, row, side="right")) - 1
        return show_key(self.query_ids[query], self.doc_ids.name(int(self.docs[row])))

    def select(self, queries: Mask) -> Columns:
        """The queries of a mask [Q]."""
        sizes, unscored_sizes = np.diff(self.starts), np.diff(self.unscored_starts)
        rows = np.repeat(queries, sizes)
        return replace(
            self,
            query_ids=[query for query, kept in zip(self.query_ids, queries.tolist(), strict=True) if kept],
            starts=_bounds(sizes[queries]),
            docs=self.docs[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            judged=self.judged[rows],
            unscored_starts=_bounds(unscored_sizes[queries]),
            unscored_labels=self.unscored_labels[np.repeat(queries, unscored_sizes)],
        )

    def condense(self) -> Columns:
        """Without the scored documents that have no label."""
        if self.judged.all():
            return self
        return replace(
            self,
            starts=np.concatenate([[0], np.cumsum(self.judged, dtype=np.int64)])[self.starts],
            docs=self.docs[self.judged],
            scores=self.scores[self.judged],
            labels=self.labels[self.judged],
            judged=self.judged[self.judged],
        )

    def tied(self) -> Mask:
        """Which scored rows have the same score as a neighbour of their query, [R]."""
        same = self.scores[1:] == self.scores[:-1]
        inner = self.starts[(self.starts > 0) & (self.starts < len(self.scores))]
        same[inner - 1] = False  # the last row of a query and the first of the next
        return np.concatenate([same, [False]])[: len(self.scores)] | np.concatenate([[False], same])[: len(self.scores)]


def join_columns(query_ids: Sequence[str], doc_ids: DocIds, judged: Rows, scored: Rows) -> Columns:
    """Labels and scores joined by (query, document).

    `query_ids` are the names of the query codes, in the order of strings; `judged.values` are labels, whole numbers;
    `scored.values` are scores.

    Raises:
        ValueError: NaN or infinite scores (in float32), labels that are missing or no whole numbers, the same document
            twice for a query, no common query, or scored queries that nobody judged; the first few are named.
    """

    def key(rows: Rows) -> Callable[[int], str]:
        return lambda row: show_key(query_ids[int(rows.queries[row])], doc_ids.name(int(rows.docs[row])))

    labels = _check_labels(np.asarray(judged.values), key(judged))
    scores = _check_scores(np.asarray(scored.values), key(scored))
    _check_queries(query_ids, judged, scored)

    found, was_judged, was_scored = _match(judged, scored, labels, key)
    # A query code that has no row at all is no judged query.
    is_judged = np.zeros(len(query_ids), dtype=bool)
    is_judged[judged.queries] = True
    unscored = np.flatnonzero(~was_scored)
    unscored = unscored[np.argsort(judged.queries[unscored], kind="stable")]
    order = _place(scored.queries, scores, scored.docs, doc_ids)
    columns = Columns(
        query_ids=query_ids,
        doc_ids=doc_ids,
        starts=_bounds(np.bincount(scored.queries, minlength=len(query_ids))),
        docs=scored.docs[order].astype(np.int32, copy=False),
        scores=scores[order],
        labels=found[order],
        judged=was_judged[order],
        unscored_starts=_bounds(np.bincount(judged.queries[unscored], minlength=len(query_ids))),
        unscored_labels=labels[unscored],
    )
    return columns if is_judged.all() else columns.select(is_judged)


def columns_from_dicts(
    judgments: Mapping[str, Mapping[str, int]], scores: Mapping[str, Mapping[str, float]]
) -> Columns:
    """The columns of labels and scores, both query_id -> doc_id -> value; raises what `join_columns` raises."""
    wrong = [
        f"{show_key(query, doc)}: {label!r}"
        for query, documents in judgments.items()
        for doc, label in documents.items()
        if label is None or not math.isfinite(label) or int(label) != label
    ]
    wrong += [f"query_id {query!r}: no document at all" for query, documents in judgments.items() if not documents]
    refuse(wrong, "labels are missing or are no whole numbers")
    query_ids = sorted({*judgments, *(query for query, documents in scores.items() if documents)})
    doc_ids = sorted({doc for table in (judgments, scores) for documents in table.values() for doc in documents})
    code_of_query = {query: code for code, query in enumerate(query_ids)}
    code_of_doc = {doc: code for code, doc in enumerate(doc_ids)}

    def flatten(table: Mapping[str, Mapping[str, float]]) -> Rows:
        sizes = np.array([len(documents) for documents in table.values()], dtype=np.int64)
        codes = np.array([code_of_query.get(query, -1) for query in table], dtype=np.int64)  # -1: has no documents
        docs = [code_of_doc[doc] for documents in table.values() for doc in documents]
        values = [value for documents in table.values() for value in documents.values()]
        return Rows(np.repeat(codes, sizes), np.array(docs, dtype=np.int64), np.array(values, dtype=np.float64))

    return join_columns(query_ids, SortedDocIds(doc_ids), flatten(judgments), flatten(scores))


def apply_rules(columns: Columns, rules: Rules) -> tuple[Columns, dict[str, int]]:
    """The queries and rows that count, in the order that counts, and what each rule met.

    Raises:
        ValueError: what a rule refuses; no query is left.
    """
    unjudged = np.flatnonzero(~columns.judged)
    counts = {
        "num_documents": len(columns.docs),
        "num_unjudged": len(unjudged),
        "num_unscored": len(columns.unscored_labels),
        "num_tied_documents": int(columns.tied().sum()),
    }
    if rules.unjudged == "error":
        refuse_rows(
            unjudged, columns.key, "scored documents have no label; judge them, drop them, or count them as label 0"
        )
    if rules.unjudged == "skip":
        columns = columns.condense()
    if rules.ties == "pessimistic":
        columns = _place_worst(columns)

    missing = np.diff(columns.starts) == 0
    relevant = np.zeros(columns.num_queries, dtype=bool)
    relevant[columns.row_queries()[columns.labels > 0]] = True
    unscored_queries = np.repeat(np.arange(columns.num_queries), np.diff(columns.unscored_starts))
    relevant[unscored_queries[columns.unscored_labels > 0]] = True
    if rules.missing == "error":
        refuse_rows(
            np.flatnonzero(missing),
            lambda query: f"query_id {columns.query_ids[query]!r}",
            "judged queries have no document in the run; score them, or count them as 0 or skip them (missing)",
        )
    skipped = missing & (rules.missing == "skip") | ~relevant & (rules.no_relevant == "skip")
    if skipped.all():
        raise ValueError(
            f"no query is left to measure: {int(missing.sum())} of {len(missing)} are missing from the run, "
            f"{int((~relevant).sum())} have no label above 0, and the rules skip these: {rules}"
        )
    counts = {
        "num_queries": int((~skipped).sum()),
        "num_queries_skipped": int(skipped.sum()),
        "num_queries_missing": int(missing.sum()),
        "num_queries_without_relevant": int((~relevant).sum()),
        **counts,
    }
    return (columns.select(~skipped) if skipped.any() else columns), counts


def _match(
    judged: Rows, scored: Rows, labels: NDArray[np.int32], key: Callable[[Rows], Callable[[int], str]]
) -> tuple[NDArray[np.int32], Mask, Mask]:
    """The label of each scored row (0 without one), whether it has one, and whether each judged row is scored."""
    judged_keys, scored_keys = _pair_keys(judged), _pair_keys(scored)
    if np.array_equal(judged_keys, scored_keys):  # the judged rows were scored, in their order
        _refuse_repeats(np.sort(judged_keys), judged, judged_keys, "documents are judged twice for one query", key)
        return labels, np.ones(len(labels), dtype=bool), np.ones(len(labels), dtype=bool)
    order, scored_order = np.argsort(judged_keys), np.argsort(scored_keys)
    in_order, scored_in_order = judged_keys[order], scored_keys[scored_order]
    _refuse_repeats(in_order, judged, judged_keys, "documents are judged twice for one query", key)
    _refuse_repeats(scored_in_order, scored, scored_keys, "documents are scored twice for one query", key)
    places = np.minimum(np.searchsorted(in_order, scored_in_order), len(in_order) - 1)
    meets = in_order[places] == scored_in_order
    judged_rows, scored_rows = order[places[meets]], scored_order[meets]
    found = np.zeros(len(scored_keys), dtype=np.int32)
    was_judged, was_scored = np.zeros(len(scored_keys), dtype=bool), np.zeros(len(judged_keys), dtype=bool)
    found[scored_rows] = labels[judged_rows]
    was_judged[scored_rows] = True
    was_scored[judged_rows] = True
    return found, was_judged, was_scored


def _place(queries: Any, scores: NDArray[np.float32], docs: Any, doc_ids: DocIds) -> Ints:
    """The order of rows by query, then score descending, then doc_id descending."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 and 0 are equal
    # As unsigned numbers, falling with the score: all bits of a negative float, or all but the sign of a positive one.
    falling = np.where(bits >> 31, bits, ~bits & np.uint32(0x7FFFFFFF))
    keys = queries.astype(np.uint64) << np.uint64(32) | falling
    order = np.argsort(keys)
    keys = keys[order]
    same = keys[1:] == keys[:-1]
    tied = np.flatnonzero(np.concatenate([same, [False]]) | np.concatenate([[False], same])) if len(keys) else order
    if len(tied):
        rows = order[tied]
        order[tied] = rows[np.lexsort((-doc_ids.sort_keys(docs[rows].astype(np.int64)), keys[tied]))]
    return order


def _place_worst(columns: Columns) -> Columns:
    """The same rows with equal scores in the order of their labels, lowest first."""
    order = np.lexsort((columns.labels, -columns.scores, columns.row_queries()))  # stable: doc_id decides what is left
    return replace(
        columns, docs=columns.docs[order], labels=columns.labels[order], judged=columns.judged[order]
    )  # the scores stay as they are


def _check_labels(labels: NDArray[Any], key: Callable[[int], str]) -> NDArray[np.int32]:
    if not np.issubdtype(labels.dtype, np.integer):
        values = labels.astype(np.float64)
        wrong = np.flatnonzero(~np.isfinite(values) | (values != np.floor(values)))
        refuse_rows(wrong, lambda row: f"{key(row)}: {labels[row]}", "labels are missing or are no whole numbers")
    limits = np.iinfo(np.int32)
    wrong = np.flatnonzero((labels < limits.min) | (labels > limits.max))
    refuse_rows(wrong, lambda row: f"{key(row)}: {labels[row]}", "labels do not fit into 32 bits")
    return labels.astype(np.int32)


def _check_scores(scores: NDArray[Any], key: Callable[[int], str]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        rounded = scores.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(rounded))
    refuse_rows(wrong, lambda row: f"{key(row)}: {scores[row]}", "scores are NaN or infinite in float32")
    return rounded


def _check_queries(query_ids: Sequence[str], judged: Rows, scored: Rows) -> None:
    is_judged, is_scored = np.zeros((2, len(query_ids)), dtype=bool)
    is_judged[judged.queries] = True
    is_scored[scored.queries] = True
    if not (is_judged & is_scored).any():
        first = [repr(query_ids[int(np.argmax(mask))]) if mask.any() else "None" for mask in (is_scored, is_judged)]
        raise ValueError(
            f"no query is both scored and judged: {int(is_scored.sum())} scored (first: {first[0]}), "
            f"{int(is_judged.sum())} judged (first: {first[1]}); are these the same set?"
        )
    refuse_rows(
        np.flatnonzero(is_scored & ~is_judged),
        lambda query: f"query_id {query_ids[query]!r}",
        "scored queries have no judgment; drop them",
    )


def _pair_keys(rows: Rows) -> Ints:
    return rows.queries.astype(np.int64) << 32 | rows.docs


def _refuse_repeats(
    in_order: Ints, rows: Rows, keys: Ints, what: str, key: Callable[[Rows], Callable[[int], str]]
) -> None:
    repeated = in_order[1:][in_order[1:] == in_order[:-1]]
    if len(repeated):
        refuse_rows(np.flatnonzero(np.isin(keys, repeated)), key(rows), what)


def _bounds(sizes: NDArray[Any]) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def show_key(query_id: str, doc_id: str) -> str:
    """A (query, document) pair as error messages show it."""
    return f"(query_id {query_id!r}, doc_id {doc_id!r})"


def refuse_rows(rows: Ints, show: Callable[[int], str], what: str) -> None:
    """Raises ValueError when there are offending rows, naming the first few."""
    if len(rows):
        refuse([show(int(row)) for row in rows[: _NAMED_KEYS + 1]], what, len(rows))


def refuse(offenders: Iterable[str], what: str, count: int | None = None) -> None:
    """Raises ValueError when there are offenders, naming the first few of `count`."""
    named = list(offenders)
    if named:
        more = ", …" if len(named) > _NAMED_KEYS else ""
        raise ValueError(f"{count or len(named)} {what}: {', '.join(named[:_NAMED_KEYS])}{more}")
