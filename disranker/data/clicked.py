"""Judged pairs from a click log, to start a ranker on before any teacher or judge has spoken.

A click says that somebody found the document worth a look, and nothing of those that were not clicked.  So there are
positives alone here; negatives are drawn by stage 2 (`sampling.random_negatives`), as in contrastive training.
"""

from __future__ import annotations

from collections.abc import Iterator

from disranker.data.readers import Paths, read_clicks
from disranker.schema import Judgment, Pair, pair_key, stable_seed


def judge_clicks(path: Paths) -> Iterator[Judgment]:
    """A judgment of label 1 for every (query, title, summary) that was clicked, each once; streamed.

    Queries and documents are named by hashes of their texts: a log has no ids.  Remembers some 100 bytes a pair.

    Raises:
        InputError: at the first fault of the log.
    """
    seen: set[bytes] = set()
    for click in read_clicks(path):
        key = bytes.fromhex(pair_key(Pair(click.query, click.title, click.summary)))
        if key in seen:
            continue
        seen.add(key)
        query_id, doc_id = (f"{stable_seed(*texts):016x}" for texts in ((click.query,), (click.title, click.summary)))
        yield Judgment(query_id, doc_id, click.query, click.title, click.summary, label=1)
