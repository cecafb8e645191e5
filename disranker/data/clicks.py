"""Clicked pairs of stage 1 from click logs, split into a training and a held-out part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from disranker.data.readers import read_clicks
from disranker.schema import Pair, stable_seed


def clicked_pairs(
    clicks: Sequence[Path], *, max_clicks: int | None, dev_share: float, held_out: bool
) -> Iterator[Pair]:
    """The clicked pairs of one part, streamed; all clicks of a query are in the same part.

    `dev_share` is the share of queries that is held out; `max_clicks` bounds the rows that are read.
    """
    for click in islice(read_clicks(clicks), max_clicks):
        # A hash of the query decides, so the split needs no memory and is the same in every run.
        if (stable_seed("dev", click.query) / 2**64 < dev_share) == held_out:
            yield Pair(click.query, click.title, click.summary)
