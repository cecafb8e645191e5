"""What stage 3 trains on: candidates with the teacher's scores, judged pairs beside them; what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from disranker.config.distill import DistillConfig
from disranker.config.distill_terms import LEAST_DOCUMENTS, NEED_DISTANCES, NEED_REPRESENTATIONS, describe_sum
from disranker.config.losses import check_labels
from disranker.config.robustness import describe_robustness
from disranker.data.batches import DistillItems, Targets
from disranker.data.groups import PairSet, collect, collect_judged, describe_groups, describe_order
from disranker.data.readers import read_candidates, read_judged
from disranker.data.sampling import GroupSampler, Sampling
from disranker.teacher.store import Store
from disranker.text.encode import PairEncoder
from disranker.train.run import encode_once

Groups = Sequence[tuple[str, NDArray[np.int64]]]
# Losses on labels that learn from a single document.
_OF_ONE_DOCUMENT = ("bce", "mse", "ordinal")


@dataclass(frozen=True, slots=True)
class DistillPairs:
    """The pairs of stage 3, candidates first, and what is known of each."""

    pair_set: PairSet
    groups: Groups
    targets: Targets
    store: Store
    facts: dict[str, str]
    """Lines for the plan."""


def read_distill_pairs(config: DistillConfig) -> DistillPairs:
    """The candidates and the judged pairs that are none, with scores and labels.

    Raises:
        ValueError: a candidate has no score or none to learn from, a pair is judged under another text, or there is
            nothing for a term to learn from.
    """
    store = Store(config.store)
    _check_kind(config, store)
    pair_set = collect(read_candidates(config.candidates))
    scores = _standardised(store, pair_set)
    labels = np.full(len(pair_set), np.nan, dtype=np.float32)
    facts = {"scored": describe_groups(pair_set)}
    if config.judged:
        pair_set, scores, labels, facts["judged"] = _with_judged(config, pair_set, scores)
    groups = pair_set.groups()
    facts |= check_groups(config, groups, ~np.isnan(scores), mend="score more candidates of each query")
    if config.judged:
        facts |= _check_order(config, groups, labels)
    facts["loss"] = describe_sum(config.distill, config.supervised)
    passes = describe_robustness(config.perturbation, config.consistency)
    if passes is not None:
        facts["passes"] = passes
    return DistillPairs(pair_set, groups, _targets(config, store, pair_set, scores, labels), store, facts)


def encode_unmined(config: DistillConfig, out: Path, encoder: PairEncoder) -> DistillItems:
    """The groups of stage 3 with documents drawn at random: of one size with those that are mined while it runs."""
    pairs = read_distill_pairs(config)
    table = encode_once(out, encoder, lambda: pairs.pair_set.pairs)
    sampler = GroupSampler(
        pairs.groups,
        pairs.targets.teacher_scores,
        docs_per_query=config.docs_per_query,
        seed=config.training.seed,
        sampling=Sampling(),
    )
    return DistillItems(table, pairs.targets, sampler)


def _check_kind(config: DistillConfig, store: Store) -> None:
    names = [term.name for term in config.distill if term.name in NEED_DISTANCES]
    if store.manifest["teacher"].get("kind") == "ordering" and names:
        raise ValueError(
            f"{store.folder} holds an ordering: the distances between its scores, by which {' and '.join(names)} would "
            "learn, mean nothing; name terms that read the order alone, as in distill: [ranknet, adr-mse]"
        )


def _standardised(store: Store, pair_set: PairSet) -> NDArray[np.float32]:
    if not store.manifest["scores"]["std"] > 0.0:
        raise ValueError(
            f"the scores of {store.folder} have no spread: there is nothing to learn; score again with another teacher"
        )
    scores = store.standardised(pair_set.pairs)
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        named = ", ".join(f"({pair_set.query_ids[row]}, {pair_set.doc_ids[row]})" for row in wrong[:3])
        raise ValueError(
            f"{len(wrong):,} of {len(pair_set):,} scores in {store.folder} are no finite numbers, first: {named}; "
            "remove the store and score again"
        )
    if scores.min() == scores.max():
        raise ValueError(
            f"all {len(pair_set):,} candidates have the same score in {store.folder}: there is nothing to learn"
        )
    return scores


def _with_judged(
    config: DistillConfig, candidates: PairSet, scores: NDArray[np.float32]
) -> tuple[PairSet, NDArray[np.float32], NDArray[np.float32], str]:
    """Candidates and behind them the judged pairs that are none, their scores and labels, NaN where there is none."""
    judged, judged_labels = collect_judged(read_judged(config.judged))
    check_labels(config.supervised, float(judged_labels.max()))
    rows = _rows_of(judged, candidates)
    both, new = rows >= 0, np.flatnonzero(rows < 0)
    labels = np.full(len(candidates), np.nan, dtype=np.float32)
    labels[rows[both]] = judged_labels[both]
    return (
        candidates + judged.take(new.tolist()),
        np.concatenate([scores, np.full(len(new), np.nan, dtype=np.float32)]),
        np.concatenate([labels, judged_labels[new]]),
        f"{describe_groups(judged)}; {both.sum():,} pairs are scored, too",
    )


def _rows_of(judged: PairSet, candidates: PairSet) -> NDArray[np.int64]:
    """[judged] the row of the same query_id and doc_id among the candidates, -1 where there is none."""
    wanted = {ids: at for at, ids in enumerate(zip(judged.query_ids, judged.doc_ids, strict=True))}
    queries = dict(zip(judged.query_ids, (pair.query for pair in judged.pairs), strict=True))
    rows = np.full(len(judged), -1, dtype=np.int64)
    for row, (query_id, doc_id) in enumerate(zip(candidates.query_ids, candidates.doc_ids, strict=True)):
        pair = candidates.pairs[row]
        if queries.get(query_id, pair.query) != pair.query:
            raise ValueError(
                f"query_id {query_id} is {queries[query_id]!r} in judged and {pair.query!r} in candidates: give each "
                "query text its own query_id"
            )
        at = wanted.get((query_id, doc_id))
        if at is None:
            continue
        if judged.pairs[at] != pair:
            raise ValueError(
                f"query_id {query_id} with doc_id {doc_id} has one text in judged ({judged.pairs[at].title!r}) and "
                f"another in candidates ({pair.title!r}): label and score would be of different documents"
            )
        rows[at] = row
    return rows


def check_groups(config: DistillConfig, groups: Groups, taught: NDArray[np.bool_], *, mend: str) -> dict[str, str]:
    """Make sure that every term has a group to learn from; a line for the plan where some groups are too small for one.

    `taught` [N] says which rows the teacher has scored; `mend` is what to do about small groups.

    Raises:
        ValueError: a term has none.
    """
    sizes = np.array([int(taught[rows].sum()) for _, rows in groups])
    sizes = sizes[sizes > 0]
    short: dict[str, list[str]] = {}
    for term in config.distill:
        least = LEAST_DOCUMENTS[term.name]
        num_short = int((sizes < least).sum())
        if num_short == len(sizes):
            raise ValueError(
                f"{term.name} compares {least} scored documents of a query, and every query has {sizes.max()} at "
                f"most: there is nothing to learn from; {mend}, or take point-mse"
            )
        if num_short:
            short.setdefault(f"{num_short:,} of {len(sizes):,} queries have fewer than {least}", []).append(term.name)
    said = "; ".join(f"{count} scored documents, nothing for {', '.join(names)}" for count, names in short.items())
    return {"too few": said} if said else {}


def _check_order(config: DistillConfig, groups: Groups, labels: NDArray[np.float32]) -> dict[str, str]:
    judged = [(query_id, rows[~np.isnan(labels[rows])]) for query_id, rows in groups]
    judged = [(query_id, rows) for query_id, rows in judged if len(rows)]
    comparing = [term.name for term in config.supervised if term.name not in _OF_ONE_DOCUMENT]
    if comparing and all(np.ptp(labels[rows]) == 0.0 for _, rows in judged):
        raise ValueError(
            f"no query of judged has documents of different labels, and {' and '.join(comparing)} of supervised "
            "would learn from those alone: there is nothing to learn from"
        )
    # A step's terms on labels are divided by all its queries, so this share says how small they are.
    judged_share = f"{len(judged):,} of {len(groups):,} queries are judged"
    return {"labels": f"{judged_share}; {describe_order(judged, labels)}"}


def _targets(
    config: DistillConfig, store: Store, pair_set: PairSet, scores: NDArray[np.float32], labels: NDArray[np.float32]
) -> Targets:
    if not any(term.name in NEED_REPRESENTATIONS for term in config.distill):
        return Targets(scores, labels)
    return Targets(scores, labels, lambda rows: store.representations([pair_set.pairs[row] for row in rows]))
