"""Looking at the dev set while training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from disranker import dist
from disranker.data.batches import TextItems, fill_steps
from disranker.data.groups import collect_judged
from disranker.data.readers import read_judged
from disranker.evaluation.measures import group_scores, measure_name, measure_run
from disranker.models.language import LanguageModel
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.text.encode import PairEncoder


def dev_evaluation(
    ranker: Ranker, encoder: PairEncoder, judged_dev: Sequence[Path], measure: str
) -> Callable[[], dict[str, float]] | None:
    """A function that measures the ranker as it is on the dev set by `measure`; None without a dev set.

    The texts are encoded once, here.  Every rank scores everything: under ZeRO-3 all ranks must run in step anyway.

    Raises:
        ValueError: no measure has that name.
    """
    if not judged_dev:
        return None
    measure = measure_name(measure)  # before training, not at the first evaluation
    pair_set, labels = collect_judged(read_judged(judged_dev))
    judgments: dict[str, dict[str, int]] = {}
    for query_id, doc_id, label in zip(pair_set.query_ids, pair_set.doc_ids, labels, strict=True):
        judgments.setdefault(query_id, {})[doc_id] = int(label)
    tokens = encoder.encode(pair_set.pairs)
    scorer = Scorer(ranker, encoder)

    def evaluate() -> dict[str, float]:
        scores = group_scores(pair_set.query_ids, pair_set.doc_ids, scorer.score_tokens(tokens))
        return measure_run(judgments, scores, [measure]).aggregate

    return evaluate


def dev_likelihood(model: LanguageModel, items: TextItems, tokens_per_batch: int) -> Callable[[], dict[str, float]]:
    """A function that gives the mean log-likelihood of a held-out token in nats; larger is better."""
    lengths = items.lengths(0)
    batches = fill_steps(np.arange(len(lengths)), lengths, tokens_per_batch)

    @torch.inference_mode()
    def evaluate() -> dict[str, float]:
        losses, num_tokens = 0.0, 0
        for batch in batches:
            text = items.batch(batch.tolist(), 0, 1.0).to(dist.device())
            losses += float(model(text.packed, text.predict_T).sum())
            num_tokens += int(text.predict_T.sum())
        return {"log_likelihood": -losses / num_tokens}

    return evaluate
