"""Clicks as evidence: which rows of a log stage 1 trains on, and how much each of them weighs.

A click is a vote of somebody who saw the document, at a position that not everybody examines, and who may have left at
once.  `config.clicks` says what is corrected; `docs/clicks.md` has the formulas with their sources.  With everything
off, rows stream from the log as they are; otherwise one pass over the training part makes columns of it (a second one
reads the texts of documents, for near-duplicates alone), and the rows then stream with their weights.

State: 28 bytes a row of the log (36 with dwell times) while the weights are made, 64 bytes a document for
near-duplicates, then 4 bytes a row.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from disranker.config.clicks import EvidenceConfig
from disranker.data.click_weights import MOST_COUNT, LogColumns, Weighed, weigh
from disranker.data.clicks import ClickLog, is_held_out
from disranker.schema import Click, Pair, stable_seed
from disranker.shards import file_hash


def plan_evidence(
    clicks: Sequence[Path],
    config: EvidenceConfig,
    *,
    max_clicks: int | None,
    dev_share: float,
    seed: int,
    faults: Path | None = None,
) -> Evidence:
    """What stage 1 trains on, from click logs; nothing is read yet.

    `max_clicks` bounds the rows that are read, `dev_share` is the share of queries that is held out, `faults` the file
    that rows without texts are named in.
    """
    log = ClickLog(clicks, max_rows=max_clicks, titled=config.require_title, logged=config.logged, faults=faults)
    files = [*clicks, *([config.position.propensities_file] if config.position else [])]
    hashes = [file_hash(path) for path in files if path is not None and path.exists()]
    content = f"{hashes} {config.model_dump_json()} {max_clicks} {dev_share} {seed}"
    return Evidence(log, config, dev_share, seed, content)


class Evidence:
    """The rows of click logs and their weights, in two parts: a query with all its rows is in one of them."""

    def __init__(self, log: ClickLog, config: EvidenceConfig, dev_share: float, seed: int, content: str) -> None:
        self._log, self._config, self._dev_share, self._seed = log, config, dev_share, seed
        self.content = content
        """Stands for the rows: the same texts and weights have the same content."""
        self.weighted = config.weighs
        """Whether pairs of the training part may weigh other than 1."""

    def pairs(self, held_out: bool) -> Iterator[Pair]:
        """The clicked pairs of one part, streamed, a pair for every row.

        The held-out part is that of the plain log, so that runs with different evidence are measured on the same rows.

        Raises:
            InputError: a row that cannot be used and is not merely without a text.
            ValueError: the log does not tell what is asked for, or nothing is left to train on.
        """
        if held_out:
            for click in self._log:
                if click.clicks and is_held_out(click.query, self._dev_share):
                    yield Pair(click.query, click.title, click.summary)
            return
        num_kept = 0
        if self._config.is_off:
            for click in self._training():
                if click.clicks:
                    num_kept += 1
                    yield Pair(click.query, click.title, click.summary)
        else:
            weights = self._weighed.weights.data  # a memoryview gives floats, an array NumPy's scalars
            for click, weight in zip(self._training(), weights, strict=True):
                if weight:
                    num_kept += 1
                    yield Pair(click.query, click.title, click.summary)
        if not num_kept:
            raise ValueError(f"no row of the click log is left to train on: {self._what_became_of_the_rows()}")

    def weights(self) -> NDArray[np.float32]:
        """The weights of the pairs of the training part, in their order: above 0, with a mean of 1."""
        return self._weighed.weights[self._weighed.weights > 0]

    @property
    def facts(self) -> dict[str, str]:
        """Lines for a run's plan: how many rows were skipped, and what each correction has left of the others.

        With corrections the log is read for them, if `pairs` has not read it; without any, it is known what was skipped
        as soon as `pairs` has.
        """
        corrected = {} if self._config.is_off else self._weighed.facts
        return ({"skipped": self._log.describe_skipped()} if self._log.num_skipped else {}) | corrected

    def _training(self) -> Iterator[Click]:
        """The rows of the training part, those of 0 clicks too."""
        return (click for click in self._log if not is_held_out(click.query, self._dev_share))

    @cached_property
    def _weighed(self) -> Weighed:
        columns = _tabulate(self._training(), dwell=self._config.dwell is not None)
        if not columns.clicks.any():
            raise ValueError(f"no row of the click log is left to train on: {self._what_became_of_the_rows()}")
        return weigh(columns, self._config, self._seed, self._texts)

    def _texts(self, rows: NDArray[np.int64]) -> Iterator[str]:
        """The documents of some rows of the training part, in ascending order, as one text each."""
        wanted = iter(rows.data)
        row = next(wanted, None)
        for number, click in enumerate(self._training()):
            if row is None:
                return
            if number == row:
                yield f"{click.title} {click.summary}"
                row = next(wanted, None)

    def _what_became_of_the_rows(self) -> str:
        num_rows = num_unclicked = num_held_out = 0
        for click in self._log:
            num_rows += 1
            num_unclicked += not click.clicks
            num_held_out += bool(click.clicks) and is_held_out(click.query, self._dev_share)
        parts = [f"{num_rows:,} usable rows", f"{num_unclicked:,} of them not clicked"]
        parts.append(f"{num_held_out:,} of queries that are held out (dev_share {self._dev_share:g})")
        if self._log.first_skipped is not None:
            parts.append(f"{self._log.describe_skipped()}, the first: {self._log.first_skipped}")
        if "_weighed" in self.__dict__:
            parts += [f"{name}: {line}" for name, line in self._weighed.facts.items()]
        return "; ".join(parts)


def _tabulate(clicks: Iterator[Click], *, dwell: bool) -> LogColumns:
    query, document = array("Q"), array("Q")
    position, num_clicks, impressions = array("I"), array("I"), array("I")
    dwell_seconds = array("d")
    for click in clicks:
        query.append(stable_seed(click.query))
        document.append(stable_seed(click.title, click.summary))
        position.append(min(click.position or 0, MOST_COUNT))
        num_clicks.append(min(click.clicks, MOST_COUNT))
        impressions.append(min(click.impressions or 0, MOST_COUNT))
        if dwell:
            dwell_seconds.append(click.dwell_seconds or 0.0)
    return LogColumns(
        query=np.frombuffer(query, dtype=np.uint64),
        document=np.frombuffer(document, dtype=np.uint64),
        position=np.frombuffer(position, dtype=np.uint32),
        clicks=np.frombuffer(num_clicks, dtype=np.uint32),
        impressions=np.frombuffer(impressions, dtype=np.uint32),
        dwell_seconds=np.frombuffer(dwell_seconds, dtype=np.float64),
    )
