"""Negatives that are added to judged pairs: unjudged documents of runs, documents of other queries, and a guard.

All of them become pairs of label 0, with their texts, so that they are tokenized with the others once.  A document
that is judged for a query is never a negative of it, under another doc_id neither.  Which of them an epoch sees is the
business of `sampling.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from disranker.config.sampling import Guard, HardNegatives, SamplingConfig
from disranker.data.groups import PairSet
from disranker.data.readers import read_candidates
from disranker.data.sampling import Source
from disranker.data.trec import read_trec_run
from disranker.schema import Pair, stable_seed

Scores = Callable[[PairSet], NDArray[np.floating]]
"""[len(pair_set)] scores; raises ValueError where there is none, and names it."""


@dataclass(frozen=True, slots=True)
class TrainingPairs:
    """Judged pairs with their negatives behind them."""

    pair_set: PairSet
    labels: NDArray[np.float32]
    sources: NDArray[np.int8]
    facts: dict[str, str]
    """Lines for a run's plan."""


@dataclass(slots=True)
class _Query:
    text: str
    doc_ids: set[str] = field(default_factory=set)
    documents: set[tuple[str, str]] = field(default_factory=set)
    """(title, summary) of its documents."""


def add_negatives(
    judged: PairSet, labels: NDArray[np.float32], settings: SamplingConfig, *, seed: int, scores: Scores | None
) -> TrainingPairs:
    """Judged pairs and the negatives that the settings ask for.

    `scores` is what the guard goes by, needed where there is one.  Random negatives are drawn by (seed, query_id).

    Raises:
        ValueError: a query is in no run, a document has no text, there are too few documents to draw from, or a score
            is missing; what and where is named.
    """
    queries = _queries(judged)
    parts = {Source.JUDGED: judged}
    facts: dict[str, str] = {}
    if settings.hard_negatives is not None:
        parts[Source.HARD], facts["hard"] = _read_hard(settings.hard_negatives, queries)
    if settings.random_negatives:
        parts[Source.RANDOM] = _draw_random(judged, queries, settings.random_negatives, seed)
        facts["random"] = f"{settings.random_negatives} a query, {len(parts[Source.RANDOM]):,} pairs of label 0"
    if settings.guard is not None:
        assert scores is not None
        parts, facts["guard"] = _guarded(parts, labels, settings.guard, scores)
    negatives = [part for source, part in parts.items() if source is not Source.JUDGED]
    sources = np.repeat([int(source) for source in parts], [len(part) for part in parts.values()]).astype(np.int8)
    zeros = np.zeros(sum(len(part) for part in negatives), dtype=np.float32)
    return TrainingPairs(sum(negatives, start=judged), np.concatenate([labels, zeros]), sources, facts)


def scores_of_run(path: Path) -> Scores:
    """The scores of a TREC run as a function of pairs.

    Raises:
        InputError: the run cannot be read.
    """
    run = read_trec_run(path)

    def lookup(pair_set: PairSet) -> NDArray[np.float64]:
        keys = list(zip(pair_set.query_ids, pair_set.doc_ids, strict=True))
        missing = [key for key in keys if key[1] not in run.get(key[0], ())]
        if missing:
            raise ValueError(
                f"{len(missing):,} of {len(keys):,} pairs have no score in {path}, first (query_id, doc_id): "
                f"{_named(missing)}; score them, too"
            )
        return np.array([run[query_id][doc_id] for query_id, doc_id in keys], dtype=np.float64)

    return lookup


def _queries(judged: PairSet) -> dict[str, _Query]:
    queries: dict[str, _Query] = {}
    for query_id, doc_id, pair in zip(judged.query_ids, judged.doc_ids, judged.pairs, strict=True):
        query = queries.setdefault(query_id, _Query(pair.query))
        query.doc_ids.add(doc_id)
        query.documents.add((pair.title, pair.summary))
    return queries


def _read_hard(settings: HardNegatives, queries: dict[str, _Query]) -> tuple[PairSet, str]:
    """The unjudged documents of the runs, which become documents of their queries, and a line for the plan."""
    wanted: dict[str, dict[str, Pair | None]] = {}
    num_judged = 0
    for path in settings.runs:
        for query_id, found in read_trec_run(path).items():
            if query_id not in queries:
                continue
            order = sorted(found, key=lambda doc_id: (-found[doc_id], doc_id))
            inside = order[settings.first_position - 1 : settings.last_position]
            unjudged = [doc_id for doc_id in inside if doc_id not in queries[query_id].doc_ids]
            wanted.setdefault(query_id, {}).update(dict.fromkeys(unjudged))
            num_judged += len(inside) - len(unjudged)
    absent = [query_id for query_id in queries if query_id not in wanted]
    if absent:
        runs = ", ".join(str(path) for path in settings.runs)
        raise ValueError(
            f"{len(absent):,} of {len(queries):,} judged queries are in none of sampling.hard_negatives.runs ({runs}), "
            f"first query_id: {', '.join(absent[:3])}; add their results, or take the queries out of the judged pairs"
        )
    _read_texts(settings, wanted, queries)
    rows, num_same_text = [], 0
    for query_id, documents in wanted.items():
        query = queries[query_id]
        for doc_id, pair in documents.items():
            assert pair is not None
            if (pair.title, pair.summary) in query.documents:
                num_same_text += 1
            else:
                rows.append((query_id, doc_id, pair))
    for query_id, doc_id, pair in rows:
        queries[query_id].doc_ids.add(doc_id)
        queries[query_id].documents.add((pair.title, pair.summary))
    places = f"positions {settings.first_position} to {settings.last_position}"
    left = f"{num_judged:,} are judged and {num_same_text:,} have the text of a judged one"
    drawn = f"{settings.num_per_query} a query and epoch of {len(rows):,} at {places} as label 0"
    return _pair_set(rows), f"{drawn}; besides, {left}"


def _read_texts(settings: HardNegatives, wanted: dict[str, dict[str, Pair | None]], queries: dict[str, _Query]) -> None:
    """Fill in the pairs of `wanted` from the candidates."""
    for candidate in read_candidates(settings.candidates):
        documents = wanted.get(candidate.query_id, {})
        if candidate.doc_id not in documents:
            continue
        if candidate.query != queries[candidate.query_id].text:
            raise ValueError(
                f"query_id {candidate.query_id} is {queries[candidate.query_id].text!r} in the judged pairs and "
                f"{candidate.query!r} in sampling.hard_negatives.candidates: they are of different data"
            )
        documents[candidate.doc_id] = candidate.pair
    keys = [(query_id, doc_id, pair) for query_id, documents in wanted.items() for doc_id, pair in documents.items()]
    missing = [(query_id, doc_id) for query_id, doc_id, pair in keys if pair is None]
    if missing:
        files = ", ".join(str(path) for path in settings.candidates)
        raise ValueError(
            f"{len(missing):,} of {len(keys):,} documents of the runs have no text in "
            f"sampling.hard_negatives.candidates ({files}), first (query_id, doc_id): {_named(missing)}; "
            "add them, or lower last_position"
        )


def _draw_random(judged: PairSet, queries: dict[str, _Query], count: int, seed: int) -> PairSet:
    """`count` documents of other queries for every query, none of its own among them."""
    pool: dict[tuple[str, str], str] = {}
    for doc_id, pair in zip(judged.doc_ids, judged.pairs, strict=True):
        pool.setdefault((pair.title, pair.summary), doc_id)
    documents = list(pool.items())
    rows = []
    for query_id, query in queries.items():
        random = np.random.default_rng(stable_seed(seed, "random-negatives", query_id))
        # So many that enough are left when all of its own are among them.
        num_own = len(query.documents) + len(query.doc_ids)
        drawn = random.choice(len(documents), min(len(documents), count + num_own), replace=False)
        others = [
            (query_id, doc_id, Pair(query.text, *document))
            for document, doc_id in (documents[at] for at in drawn.tolist())
            if document not in query.documents and doc_id not in query.doc_ids
        ]
        if len(others) < count:
            raise ValueError(
                f"sampling.random_negatives is {count}, but other queries have only {len(others)} documents that "
                f"query_id {query_id} does not have: lower it, or give more judged pairs"
            )
        rows += others[:count]
    return _pair_set(rows)


def _guarded(
    parts: dict[Source, PairSet], labels: NDArray[np.float32], guard: Guard, scores: Scores
) -> tuple[dict[Source, PairSet], str]:
    """The parts without the negatives that come too near to a positive, and a line for the plan."""
    judged = parts[Source.JUDGED]
    positives = judged.take(np.flatnonzero(labels >= guard.positive_label).tolist())
    lowest: dict[str, float] = {}
    for query_id, score in zip(positives.query_ids, scores(positives).tolist() if len(positives) else [], strict=True):
        lowest[query_id] = min(score, lowest.get(query_id, score))
    kept, shown = {Source.JUDGED: judged}, []
    for source, part in parts.items():
        if source is Source.JUDGED:
            continue
        checked = [row for row, query_id in enumerate(part.query_ids) if query_id in lowest]
        found = scores(part.take(checked)).tolist() if checked else []
        near = {
            row for row, score in zip(checked, found, strict=True) if lowest[part.query_ids[row]] - score < guard.margin
        }
        kept[source] = part.take(row for row in range(len(part)) if row not in near)
        shown.append(f"{len(near):,} of {len(part):,} {source.name.lower()} negatives")
    num_free = len(set(judged.query_ids)) - len(lowest)
    left = f"{' and '.join(shown)} left out, less than {guard.margin:g} below a label of {guard.positive_label} or more"
    return kept, f"{left}; {num_free:,} queries have no such label"


def _pair_set(rows: Iterable[tuple[str, str, Pair]]) -> PairSet:
    query_ids, doc_ids, pairs = [], [], []
    for query_id, doc_id, pair in rows:
        query_ids.append(query_id)
        doc_ids.append(doc_id)
        pairs.append(pair)
    return PairSet(query_ids, doc_ids, pairs)


def _named(keys: list[tuple[str, str]]) -> str:
    return ", ".join(f"({query_id}, {doc_id})" for query_id, doc_id in keys[:3])
