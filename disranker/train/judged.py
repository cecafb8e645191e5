"""What stage 2 trains on: judged pairs, with the negatives and the sampling that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from disranker.config.losses import check_labels
from disranker.config.rank import RankConfig
from disranker.data.batches import GroupItems
from disranker.data.groups import PairSet, collect_judged, describe_groups, describe_order
from disranker.data.negatives import TrainingPairs, add_negatives, scores_of_run
from disranker.data.readers import read_judged
from disranker.data.sampling import Sampling, check_quotas, describe_quotas
from disranker.data.tokens import TokenTable
from disranker.teacher.store import Store
from disranker.text.encode import PairEncoder
from disranker.train.run import encode_once


def read_training_pairs(config: RankConfig) -> TrainingPairs:
    """The pairs of stage 2, negatives behind the judged ones, and lines for its plan.

    Raises:
        ValueError: the labels do not go with the losses or the quotas, or what the negatives need is missing.
    """
    judged, labels = collect_judged(read_judged(config.judged))
    check_labels(config.loss, float(labels.max(initial=0.0)))
    check_quotas(config.sampling.quotas, labels)
    guard = config.sampling.guard
    scores = _scores(guard.scores) if guard is not None else None
    pairs = add_negatives(judged, labels, config.sampling, seed=config.training.seed, scores=scores)
    facts = {"judged": describe_groups(judged)}
    if config.sampling.quotas:
        facts["quotas"] = describe_quotas(config.sampling.quotas, judged.groups(), labels)
    facts |= {**pairs.facts, "one label": describe_order(pairs.pair_set.groups(), pairs.labels)}
    return TrainingPairs(pairs.pair_set, pairs.labels, pairs.sources, facts)


def encode_items(
    config: RankConfig, pairs: TrainingPairs, out: Path, encoder: PairEncoder
) -> tuple[TokenTable, GroupItems]:
    """The encoded pairs, in a cache under `out`, and the groups of them that stage 2 trains on."""
    table = encode_once(out, encoder, lambda: pairs.pair_set.pairs)
    items = GroupItems(
        table,
        pairs.pair_set.groups(),
        pairs.labels,
        docs_per_query=config.docs_per_query,
        seed=config.training.seed,
        sampling=make_sampling(config, pairs),
    )
    return table, items


def make_sampling(config: RankConfig, pairs: TrainingPairs) -> Sampling:
    """What the settings draw anew in every epoch."""
    hard = config.sampling.hard_negatives
    return Sampling(config.sampling.quotas, pairs.sources, hard.num_per_query if hard is not None else 0)


def _scores(path: Path) -> Callable[[PairSet], NDArray[np.floating]]:
    if not path.is_dir():
        return scores_of_run(path)
    store = Store(path)
    return lambda pair_set: store.lookup(pair_set.pairs)
