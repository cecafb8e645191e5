"""Where several teachers disagree: over the score of a pair, over the order of a query's documents.

Numbers only; what is done with them is not decided here.  Shapes: N pairs, K teachers, Q queries.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disranker.evaluation.correlation import kendall_tau_b

Floats = NDArray[np.float64]

NUM_DISPUTED = 10
"""Queries that are named, those with the lowest agreement."""
_QUANTILES = (0.5, 0.95, 1.0)


def describe_dissent(columns: Sequence[Floats], queries: NDArray[np.int64], query_ids: Sequence[str]) -> dict[str, Any]:
    """What the manifest of a fused store says of its teachers' disagreement, over pairs that all of them scored.

    `columns` are K columns [N] of comparable scores, `queries` [N] indices into `query_ids`.  `pair_std`: the
    population standard deviation of a pair's K scores, in their unit, its mean over pairs and quantiles.  `tau`: K x K
    means over queries of Kendall's tau-b of two teachers; a query counts where neither gives all its documents one
    score.  `disputed`: the queries with the lowest mean tau over pairs of teachers, lowest first, then by query_id.
    """
    num_pairs = len(queries)
    order = np.argsort(queries, kind="stable")
    lengths = np.bincount(queries, minlength=len(query_ids))
    mean = sum(columns[1:], start=columns[0].copy()) / len(columns)
    spread = np.sqrt(sum(((column - mean) ** 2 for column in columns), start=np.zeros(num_pairs)) / len(columns))
    tau: list[list[float | None]] = [[1.0] * len(columns) for _ in columns]
    total, counted = np.zeros(len(query_ids)), np.zeros(len(query_ids), dtype=np.int64)
    for one, other in combinations(range(len(columns)), 2):
        values = kendall_tau_b(lengths, columns[one][order], columns[other][order])
        defined = ~np.isnan(values)
        tau[one][other] = tau[other][one] = float(values[defined].mean()) if defined.any() else None
        total[defined] += values[defined]
        counted += defined
    compared = np.flatnonzero(counted)
    mean_tau = total[compared] / counted[compared]
    names = [query_ids[query] for query in compared.tolist()]
    lowest = heapq.nsmallest(NUM_DISPUTED, range(len(names)), key=lambda at: (mean_tau[at], names[at]))
    return {
        "pair_std": {
            "mean": float(spread.mean()),
            "quantiles": {
                f"{level:g}": float(value)
                for level, value in zip(_QUANTILES, np.quantile(spread, _QUANTILES), strict=True)
            },
        },
        "tau": tau,
        "mean_tau": float(mean_tau.mean()) if len(mean_tau) else None,
        "num_queries": len(compared),
        "disputed": [{"query_id": names[at], "tau": float(mean_tau[at])} for at in lowest],
    }


def dissent_lines(dissent: Mapping[str, Any], unit: str) -> list[str]:
    """The same for the screen; `unit` is that of the compared scores."""
    quantiles = dissent["pair_std"]["quantiles"]
    lines = [
        f"dissent   a pair's scores differ by a std of {dissent['pair_std']['mean']:.3f} {unit} on average, median "
        f"{quantiles['0.5']:.3f}, 95% {quantiles['0.95']:.3f}, largest {quantiles['1']:.3f}"
    ]
    if dissent["mean_tau"] is None:
        return [*lines, "order     no query has two documents that every teacher tells apart"]
    pairs = combinations(range(len(dissent["tau"])), 2)
    shown = ", ".join(
        f"{one + 1} and {other + 1}: {dissent['tau'][one][other]:.3f}"
        for one, other in pairs
        if dissent["tau"][one][other] is not None
    )
    lines.append(f"order     Kendall's tau-b {shown}; mean over {dissent['num_queries']:,} queries")
    disputed = ", ".join(f"{one['query_id']} ({one['tau']:.2f})" for one in dissent["disputed"])
    lines.append(f"disputed  {disputed}")
    return lines
