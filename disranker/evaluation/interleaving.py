"""Which of two rankers users would click more: team-draft interleaving with simulated users.

The two runs draft a common list for every session, a user of the built-in world's click model (`data/click_model.py`)
reads it, and the run whose documents were clicked more wins the session.  The users know labels and nothing else, so
this says what those users would prefer, not what real ones do; it is no test on live traffic.

Radlinski, Kurup, Joachims (CIKM 2008), https://doi.org/10.1145/1458082.1458092.
Shapes: N sessions, L places in a list, P documents that the two runs hold in their first L.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disranker.data.click_model import CLICK_PROBABILITY, EXAMINE_CONTINUE, LIST_LENGTH, STOP_PROBABILITY
from disranker.evaluation.measures import rank_documents
from disranker.evaluation.resampling import bootstrap_interval, randomisation_test
from disranker.schema import stable_seed

Run = Mapping[str, Mapping[str, float]]
"""query_id -> doc_id -> score."""

_BLOCK_SESSIONS = 50_000  # drafted at once; 50 000 x 20 documents x a few arrays of a byte
_NAMED_KEYS = 3  # offenders that an error message lists


@dataclass(frozen=True, slots=True)
class Interleaving:
    """Runs `a` and `b` interleaved in simulated sessions."""

    a: str
    b: str
    preference: float
    """(wins + ties / 2) / sessions: above 0.5 users prefer `a`; 0.5 is no preference."""
    interval: tuple[float, float]
    """Bootstrap percentile interval of `preference`, over queries."""
    p_value: float
    """Two-sided randomisation test over queries on wins minus losses: sessions of one query are not independent."""
    wins: int
    """Sessions in which more of `a`'s documents were clicked."""
    ties: int
    """Sessions with equally many clicks, or none."""
    losses: int
    num_queries: int
    num_sessions: int
    sessions_per_query: int
    length: int
    """Places in a drafted list."""
    num_unjudged: int
    """Documents in the first `length` of a run without a label: users take them for grade 0."""
    seed: int
    confidence: float


def interleave(
    judgments: Mapping[str, Mapping[str, int]],
    run_a: Run,
    run_b: Run,
    names: tuple[str, str] = ("a", "b"),
    *,
    sessions_per_query: int = 20,
    length: int = LIST_LENGTH,
    samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interleaving:
    """Interleaves two runs, query_id -> doc_id -> score, in so many sessions of every query.

    In each round of a draft a coin says who picks first, and each run adds its best document that is not yet in the
    list; the list ends at `length`, or when one run has nothing left to add.  Users click and leave by grade, as the
    click model says; a negative label is grade 0.  The sessions of a query depend on (seed, query_id) alone.  Judged
    queries that neither run holds take no part.

    Raises ValueError, naming the first offenders, when the runs hold different queries, none, or queries without
    judgments, for labels above the click model's, and for counts below 1.
    """
    if sessions_per_query < 1 or length < 1:
        raise ValueError(f"sessions_per_query={sessions_per_query} and length={length} must both be at least 1")
    queries = _common_queries(judgments, run_a, run_b, names)
    tops = [(rank_documents(run_a[query])[:length], rank_documents(run_b[query])[:length]) for query in queries]
    grades = [
        _grades(query, judgments[query], top_a + top_b) for query, (top_a, top_b) in zip(queries, tops, strict=True)
    ]

    net = np.empty((len(queries), 2))  # wins and losses by query
    block = max(1, _BLOCK_SESSIONS // sessions_per_query)
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        net[part] = _play(queries[part], tops[part], grades[part], sessions_per_query, length, seed)

    num_sessions = sessions_per_query * len(queries)
    wins, losses = (int(total) for total in net.sum(axis=0))
    advantage = (net[:, 0] - net[:, 1]) / sessions_per_query
    return Interleaving(
        a=names[0],
        b=names[1],
        preference=(1 + (wins - losses) / num_sessions) / 2,
        interval=bootstrap_interval((1 + advantage) / 2, samples, seed, confidence),
        p_value=randomisation_test(advantage, samples, seed),
        wins=wins,
        ties=num_sessions - wins - losses,
        losses=losses,
        num_queries=len(queries),
        num_sessions=num_sessions,
        sessions_per_query=sessions_per_query,
        length=length,
        num_unjudged=sum(
            doc not in judgments[query] for query, top in zip(queries, tops, strict=True) for doc in {*top[0], *top[1]}
        ),
        seed=seed,
        confidence=confidence,
    )


def _play(
    queries: Sequence[str],
    tops: Sequence[tuple[list[str], list[str]]],
    grades: Sequence[dict[str, int]],
    sessions: int,
    length: int,
    seed: int,
) -> NDArray[np.float64]:
    """[Q, 2] sessions won and lost by the first run."""
    nothing = 2 * length  # the code of a document that is not there
    orders = np.full((2, len(queries), length), nothing)
    grade_QP = np.zeros((len(queries), nothing + 1), dtype=np.int64)
    for row, (of_query, known) in enumerate(zip(tops, grades, strict=True)):
        codes = {doc: code for code, doc in enumerate(known)}
        grade_QP[row, : len(known)] = list(known.values())
        for side, top in enumerate(of_query):
            orders[side, row, : len(top)] = [codes[doc] for doc in top]
    draws = np.concatenate(
        [np.random.default_rng(stable_seed(seed, query)).random((sessions, 4, length)) for query in queries]
    )
    coins, clicking, stopping, going_on = draws.swapaxes(0, 1)

    of_session = np.repeat(np.arange(len(queries)), sessions)
    shown_NL, first_NL = draft(orders[0][of_session], orders[1][of_session], nothing, coins < 0.5)
    grade_NL = np.take_along_axis(grade_QP[of_session], shown_NL, axis=1)
    clicked_NL = np.zeros_like(first_NL)
    reading = np.ones(len(of_session), dtype=bool)
    for place in range(length):
        reading &= shown_NL[:, place] != nothing
        grade = grade_NL[:, place]
        clicked_NL[:, place] = reading & (clicking[:, place] < np.array(CLICK_PROBABILITY)[grade])
        reading &= ~(clicked_NL[:, place] & (stopping[:, place] < np.array(STOP_PROBABILITY)[grade]))
        reading &= going_on[:, place] < EXAMINE_CONTINUE
    lead = (clicked_NL & first_NL).sum(axis=1) - (clicked_NL & ~first_NL).sum(axis=1)
    won = np.bincount(of_session, lead > 0, len(queries))
    return np.stack([won, np.bincount(of_session, lead < 0, len(queries))], axis=1)


def draft(
    first_NL: NDArray[Any], second_NL: NDArray[Any], nothing: int, coins_NL: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The lists [N, L] that two orders of documents draft, and [N, L] which documents the first one picked.

    Documents are codes 0 .. nothing - 1, best first; `nothing` fills what is not there, in orders and lists.  The coin
    at a place is True where the first order picks when both have picked equally often.
    """
    num_sessions, length = first_NL.shape
    everyone = np.arange(num_sessions)
    taken = np.zeros((num_sessions, nothing + 1), dtype=bool)
    taken[:, nothing] = True
    shown_NL = np.full((num_sessions, length), nothing)
    picked_NL = np.zeros((num_sessions, length), dtype=bool)
    lead = np.zeros(num_sessions, dtype=np.int64)  # picks of the first minus those of the second
    for place in range(length):
        free_first = ~np.take_along_axis(taken, first_NL, axis=1)
        free_second = ~np.take_along_axis(taken, second_NL, axis=1)
        going = free_first.any(axis=1) & free_second.any(axis=1)
        turn = np.where(lead == 0, coins_NL[:, place], lead < 0)
        best_first = first_NL[everyone, free_first.argmax(axis=1)]
        best_second = second_NL[everyone, free_second.argmax(axis=1)]
        pick = np.where(going, np.where(turn, best_first, best_second), nothing)
        shown_NL[:, place] = pick
        picked_NL[:, place] = turn & going
        taken[everyone, pick] = True
        lead += np.where(turn, 1, -1)
    return shown_NL, picked_NL


def _grades(query: str, labels: Mapping[str, int], docs: Sequence[str]) -> dict[str, int]:
    """The grade of each document in the eyes of the click model, each document once."""
    found = {doc: max(labels.get(doc, 0), 0) for doc in docs}
    for doc, grade in found.items():
        if grade >= len(CLICK_PROBABILITY):
            raise ValueError(
                f"(query_id {query!r}, doc_id {doc!r}) has label {grade}, but the click model knows grades 0 to "
                f"{len(CLICK_PROBABILITY) - 1}; map the labels onto them"
            )
    return found


def _common_queries(
    judgments: Mapping[str, Mapping[str, int]], run_a: Run, run_b: Run, names: tuple[str, str]
) -> list[str]:
    of_a, of_b = ({query for query in run if run[query]} for run in (run_a, run_b))
    if of_a != of_b:
        alone = sorted(of_a ^ of_b)
        raise ValueError(
            f"{names[0]} and {names[1]} hold different queries: {len(alone)} are in one only, "
            f"first {', '.join(map(repr, alone[:_NAMED_KEYS]))}; interleave runs of the same set"
        )
    if not of_a:
        raise ValueError(f"{names[0]} and {names[1]} hold no query; there is nothing to interleave")
    unknown = sorted(of_a - judgments.keys())
    if unknown:
        raise ValueError(
            f"{len(unknown)} queries have no judgment, first {', '.join(map(repr, unknown[:_NAMED_KEYS]))}; "
            "simulated users need labels"
        )
    return sorted(of_a)
