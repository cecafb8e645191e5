"""The texts that an encoder is warmed up on: clicked pairs, and documents alone, in a training and a held-out part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from disranker.data.readers import read_clicks
from disranker.schema import Pair, stable_seed


def domain_texts(
    clicks: Sequence[Path], candidates: Sequence[Path], *, dev_share: float, held_out: bool
) -> Iterator[Pair]:
    """The rows of one part, streamed: of clicks the whole pair, of candidates the document with an empty query.

    `dev_share` is the share of documents that is held out; rows of one document are in one part.  Repeats stay: what
    is clicked or retrieved often counts often.
    """
    for paths, with_query in ((clicks, True), (candidates, False)):
        # As clicks, for candidates and judged pairs have those columns, too, and repeats are no fault here.
        for row in read_clicks(paths) if paths else ():
            # A hash of the document decides, so the split needs no memory and is the same in every run.
            if (stable_seed("dev", row.title, row.summary) / 2**64 < dev_share) == held_out:
                yield Pair(row.query if with_query else "", row.title, row.summary)
