"""Golden pairs: what a correct integration computes, so that a team in another language can prove its own.

`golden.jsonl` has one object a line: query, document, input_ids, token_type_ids (where the model has them) and score,
the bundle's own in torch.  Among the pairs are one that is longer than the model reads, one without a summary and one
of many scripts; the rest lie evenly over the lengths of the user's own pairs.  `check.py` and `check.mjs` beside it
compare.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from disranker.export import check_golden
from disranker.export.drift import PairScorer
from disranker.export.manifest import GOLDEN_NAME
from disranker.export.node_check import NODE_CHECK
from disranker.schema import Pair
from disranker.shards import write_atomic
from disranker.text.encode import PairEncoder
from disranker.text.templates import document_text

NUM_GOLDEN = 20
PYTHON_CHECK_NAME, NODE_CHECK_NAME = "check.py", "check.mjs"
_MANY_SCRIPTS = "naïve Größe – Привет, 東京の天気, 你好 😀"


def choose_pairs(pairs: Sequence[Pair], encoder: PairEncoder, count: int = NUM_GOLDEN) -> list[Pair]:
    """`count` golden pairs out of a user's own, fewer where these are fewer: the three special ones come first.

    Raises:
        ValueError: there are no pairs with a query and a document.
    """
    # Libraries differ in what they make of an empty text, which no input of disranker may have.
    different = [pair for pair in dict.fromkeys(pairs) if pair.query and document_text(pair.title, pair.summary)]
    if not different:
        raise ValueError("golden pairs are chosen among the judged pairs, and none has a query and a document")
    lengths = [len(tokens.ids) + tokens.num_cut for tokens in encoder.encode(different)]
    by_length = [different[index] for index in np.argsort(lengths, kind="stable").tolist()]
    middle = by_length[len(by_length) // 2]
    special = [_overlong(by_length[-1], encoder), _without_summary(middle), _many_scripts(middle)]
    rest = [pair for pair in by_length if pair not in special]
    at = np.linspace(0, len(rest) - 1, min(count - len(special), len(rest))).round().astype(int)
    return special + [rest[index] for index in at.tolist()]


def write_golden(
    folder: Path, pairs: Sequence[Pair], scorer: PairScorer, encoder: PairEncoder, *, token_types: bool
) -> None:
    """Write `golden.jsonl` with the scores of `scorer`, and the two programs that check it."""
    scores = scorer.score(pairs).tolist()
    with write_atomic(folder / GOLDEN_NAME) as temporary, temporary.open("w", encoding="utf-8") as file:
        for pair, tokens, score in zip(pairs, encoder.encode(pairs), scores, strict=True):
            types = (np.arange(len(tokens.ids)) >= tokens.second).astype(int).tolist()
            line = {
                "query": pair.query,
                "document": document_text(pair.title, pair.summary),
                "input_ids": tokens.ids.tolist(),
                **({"token_type_ids": types} if token_types else {}),
                "score": score,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    shutil.copyfile(check_golden.__file__, folder / PYTHON_CHECK_NAME)
    (folder / NODE_CHECK_NAME).write_text(NODE_CHECK, encoding="utf-8")


def _overlong(pair: Pair, encoder: PairEncoder) -> Pair:
    """The pair, with its summary written again and again until something is cut."""
    summary = pair.summary
    while encoder.encode([pair])[0].num_cut == 0:
        # A letter is a token of every tokenizer; some texts are none.
        summary = f"{summary} {summary or pair.title or pair.query} a".strip()
        pair = Pair(pair.query, pair.title, summary)
    return pair


def _without_summary(pair: Pair) -> Pair:
    return Pair(pair.query, pair.title or pair.summary, "")


def _many_scripts(pair: Pair) -> Pair:
    return Pair(f"{pair.query} 東京", f"{pair.title} {_MANY_SCRIPTS}".strip(), pair.summary)
