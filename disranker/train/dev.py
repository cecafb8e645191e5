"""Looking at the dev set while training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from disranker import dist
from disranker.data.batches import fill_steps
from disranker.data.groups import collect_judged
from disranker.data.readers import read_judged
from disranker.data.text_items import TextItems
from disranker.evaluation.measures import group_scores, measure_name, measure_run
from disranker.models.language import LanguageModel
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.text.encode import PairEncoder

_LARGEST_EXPONENT = 700.0  # beyond it exp() is no number; an untrained model is far below


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


def dev_likelihood(
    model: LanguageModel,
    parts: Mapping[str, TextItems],
    token_bytes: NDArray[np.int64],
    *,
    tokens_per_batch: int,
) -> Callable[[], dict[str, float]] | None:
    """A function that gives `perplexity` and `bits_per_byte` of each part, under its name and an underscore.

    None without a part; the part named "" has the plain names.  Before them comes the first part's `log_likelihood`,
    the mean of a token in nats, of which more is better.  Every predicted token counts once; `token_bytes` are the
    [V] bytes of text of each.  The ranks share the batches, so every rank must call it, and all get the same.
    """
    if not parts:
        return None
    batches = {}
    for name, items in parts.items():
        lengths = items.lengths(0)
        batches[name] = fill_steps(np.arange(len(lengths)), lengths, tokens_per_batch)
    bytes_V = torch.from_numpy(token_bytes).to(dist.device())

    # Not inference_mode: what ZeRO-3 gathers in it before the first step can have no gradient afterwards.
    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        measured: dict[str, float] = {}
        for name, items in parts.items():
            sums = np.zeros(3)
            # Under ZeRO-3 all ranks must run in step: where batches run out, a rank runs one that does not count.
            for first in range(0, len(batches[name]), dist.world_size()):
                at = first + dist.process_rank()
                counts = at < len(batches[name])
                text = items.batch(batches[name][at if counts else 0].tolist(), 0, 1.0).to(dist.device())
                losses_N = model(text.packed, text.predict_T)
                bytes_N = bytes_V[text.packed.input_ids[0, text.predict_T]]
                sums += counts * np.array([float(losses_N.sum(dtype=torch.float64)), len(losses_N), int(bytes_N.sum())])
            nats, num_tokens, num_bytes = dist.sum_over_ranks(sums.tolist())
            prefix = f"{name}_" if name else ""
            if not measured:
                measured[f"{prefix}log_likelihood"] = -nats / num_tokens
            measured[f"{prefix}perplexity"] = math.exp(min(nats / num_tokens, _LARGEST_EXPONENT))
            measured[f"{prefix}bits_per_byte"] = nats / math.log(2.0) / num_bytes
        return measured

    return evaluate
