"""What a ranker must beat: random order, and BM25 over the documents of the evaluated set.

Both give one float32 score per row, in the order of the rows, and the same score for the same row whatever the order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from disranker.schema import stable_seed

BM25_K1 = 1.2
"""How slowly repeated words saturate; Lucene's default."""
BM25_B = 0.75
"""How much long documents are held back, 0..1; Lucene's default."""

# Han with its extensions, kana: scripts written without spaces.  Hangul has spaces and is split as words.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_TOKEN = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")
_UNSPACED_RUN = re.compile(rf"[{_UNSPACED}]")


class _Keyed(Protocol):
    @property
    def query_id(self) -> str: ...
    @property
    def doc_id(self) -> str: ...


class _Texts(Protocol):
    @property
    def query(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def summary(self) -> str: ...


def random_scores(rows: Iterable[_Keyed], seed: int = 0) -> NDArray[np.float32]:
    """A score in [0, 1) per row, from (seed, query_id, doc_id) alone: random order, the same in every run."""
    scores = [stable_seed(seed, row.query_id, row.doc_id) / 2**64 for row in rows]
    return np.array(scores, dtype=np.float64).astype(np.float32)


def bm25_scores(rows: Sequence[_Texts], k1: float = BM25_K1, b: float = BM25_B) -> NDArray[np.float32]:
    """BM25 (Lucene's variant) of each row's document, title + summary, for its query; 0 where no word is shared.

    The collection that word frequencies are counted in is the distinct documents of `rows`, so scores belong to this
    set of rows.  Raises RuntimeError with the pip line when bm25s is not installed.
    """
    try:
        import bm25s
    except ImportError as error:
        raise RuntimeError("BM25 needs bm25s: pip install bm25s") from error

    scores = np.zeros(len(rows), dtype=np.float32)
    documents: dict[tuple[str, str], int] = {}
    for row in rows:
        documents.setdefault((row.title, row.summary), len(documents))
    # Sorted, so that the order of the rows cannot reach the sums.
    for index, texts in enumerate(sorted(documents)):
        documents[texts] = index
    corpus = [tokenize(f"{title} {summary}") for title, summary in sorted(documents)]
    if not any(corpus):
        return scores

    index_of_words = bm25s.BM25(method="lucene", k1=k1, b=b)
    index_of_words.index(corpus, show_progress=False)
    rows_of: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        rows_of.setdefault(row.query, []).append(position)
    for query, positions in rows_of.items():
        words = tokenize(query)
        if words:  # bm25s fails on an empty query
            of_all = index_of_words.get_scores(words)
            scores[positions] = of_all[[documents[(rows[at].title, rows[at].summary)] for at in positions]]
    return scores


def tokenize(text: str) -> list[str]:
    """Words for BM25: lower-cased runs of letters and digits; Chinese and Japanese as single characters and pairs.

    Text is normalised first (NFKC: full-width letters become plain ones).  There is no stemming and no stop list.
    """
    words: list[str] = []
    for run in _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold()):
        if _UNSPACED_RUN.match(run):
            words.extend(run)
            words.extend(first + second for first, second in pairwise(run))
        else:
            words.append(run)
    return words
