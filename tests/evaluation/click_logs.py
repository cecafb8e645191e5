"""Click logs of which everything is known: of the position-based model, and of the built-in world."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from disranker.data.click_model import (
    CLICK_PROBABILITY,
    EXAMINE_CONTINUE,
    SPAM,
    SPAM_CLICK_PROBABILITY,
    SPAM_STOP_PROBABILITY,
    STOP_PROBABILITY,
)
from disranker.data.world import World
from disranker.schema import Click, Pair

NUM_DOCUMENTS, DEPTH = 12, 10
PROPENSITIES = 1 / np.arange(1, DEPTH + 1) ** 0.8


class Simulated(NamedTuple):
    clicks: list[Click]
    attraction: NDArray[np.float64]
    """[queries, documents]"""
    views: NDArray[np.int64]
    """[queries]"""

    def ranking(self, merits: NDArray[np.float64]) -> dict[str, list[Pair]]:
        """The documents of each query by `merits` [queries, documents], best first."""
        return {
            f"id-{query}": [pair(query, doc) for doc in np.argsort(-row, kind="stable")]
            for query, row in enumerate(merits)
        }

    def clicks_per_page(self, merits: NDArray[np.float64]) -> float:
        """The truth for that ranking."""
        best = np.take_along_axis(self.attraction, np.argsort(-merits, kind="stable")[:, :DEPTH], axis=1)
        return float((best @ PROPENSITIES * self.views).sum() / self.views.sum())


def pair(query: int, doc: int) -> Pair:
    return Pair(f"query {query}", f"title {doc}", "")


def simulate(num_queries: int, seed: int, lists: int = 4, max_views: int = 20) -> Simulated:
    """Every query is shown in several lists, each many times, by a ranker that knows the attraction roughly."""
    rng = np.random.default_rng(seed)
    attraction = rng.choice([0.02, 0.1, 0.3, 0.6], size=(num_queries, NUM_DOCUMENTS), p=[0.4, 0.3, 0.2, 0.1])
    rows: list[Click] = []
    views = np.zeros(num_queries, dtype=np.int64)
    for query in range(num_queries):
        for _ in range(lists):
            shown = np.argsort(-(attraction[query] + rng.normal(0, 0.25, NUM_DOCUMENTS)))[:DEPTH]
            num_views = int(rng.integers(1, max_views + 1))
            views[query] += num_views
            clicks = rng.binomial(num_views, PROPENSITIES * attraction[query][shown])
            for place, (doc, count) in enumerate(zip(shown, clicks, strict=True)):
                rows.append(Click(*pair(query, doc), int(count), num_views, place + 1, None))
    return Simulated(rows, attraction, views)


class WorldList(NamedTuple):
    """A list that the built-in world has shown; its users are a cascade, not the position-based model."""

    num_shown: int
    documents: list[tuple[Pair, int]]
    """With their grade in the eyes of the users, in the shown order."""
    clicks: list[Click]
    """One row a document, also where nobody clicked."""

    def examined(self, grades: Sequence[int]) -> list[float]:
        """The chance that a user looks at each position of a list with these grades."""
        reaching, chances = 1.0, []
        for grade in grades:
            chances.append(reaching)
            reaching *= (1 - _CLICKING[grade] * _STOPPING[grade]) * EXAMINE_CONTINUE
        return chances

    def clicks_per_page(self, grades: Sequence[int]) -> float:
        """The truth for a list with these grades."""
        return sum(chance * _CLICKING[grade] for chance, grade in zip(self.examined(grades), grades, strict=True))


_CLICKING = (*CLICK_PROBABILITY, SPAM_CLICK_PROBABILITY)
_STOPPING = (*STOP_PROBABILITY, SPAM_STOP_PROBABILITY)


def world_lists(num_lists: int) -> list[WorldList]:
    world, lists = World(seed=0, language="en"), []
    for shown in islice(world.impressions(), num_lists):
        documents, clicks = [], []
        for place, (page, grade) in enumerate(zip(shown.documents, shown.grades, strict=True)):
            _, title, summary = world.catalogues[page.language].render(page)
            one = Pair(shown.query.text, title, summary)
            documents.append((one, SPAM if page.page == "spam" else grade))
            clicks.append(Click(*one, shown.reactions.clicks[place], shown.reactions.num_shown, place + 1))
        lists.append(WorldList(shown.reactions.num_shown, documents, clicks))
    return lists
