"""Whether a teacher's scores can teach: their distribution, ties, saturation, and how they spread within queries.

Numbers only: what is wrong with a single score is refused where it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_ROWS_AT_ONCE = 1 << 20


def describe_scores(scores: NDArray[np.float32], queries: NDArray[np.uint64]) -> dict[str, Any]:
    """`scores` and `health` of a store's manifest; `queries[i]` is a hash of the query_id of score i.

    scores: mean, population standard deviation, extremes, number of distinct values, quantiles.
    health, over queries of at least two documents: `tied_pairs_share`, the share of their pairs of documents with
    equal scores; `constant_queries`, how many have one score for all documents; `mean_query_std`; `mean_query_entropy`,
    the mean entropy of the softmax over a query's scores in nats (how sure the teacher is), and
    `mean_query_entropy_share`, the same divided by ln D, 1 where all documents are equal.  Over all scores:
    `saturated_share`, the share of scores that equal the lowest or the highest one.

    Raises:
        ValueError: all scores are equal.
    """
    lowest, highest = float(scores.min()), float(scores.max())
    if lowest == highest:
        raise ValueError(f"the teacher gives every pair the same score ({lowest:g}): it has learned nothing")
    return {
        "scores": {
            "mean": float(scores.mean(dtype=np.float64)),
            "std": float(scores.std(dtype=np.float64)),
            "min": lowest,
            "max": highest,
            "num_distinct": len(np.unique(scores)),
            "quantiles": {
                f"{level:g}": float(value)
                for level, value in zip(QUANTILES, np.quantile(scores, QUANTILES), strict=True)
            },
        },
        "health": {
            "saturated_share": float(((scores == lowest) | (scores == highest)).mean()),
            **_describe_queries(scores, queries),
        },
    }


def _describe_queries(scores: NDArray[np.float32], queries: NDArray[np.uint64]) -> dict[str, Any]:
    num_queries = num_groups = constant = pairs = tied = 0
    std = entropy = entropy_share = 0.0
    for values, sizes in _groups(scores, queries):
        num_queries += len(sizes)
        kept = sizes >= 2
        values, sizes = values[np.repeat(kept, sizes)], sizes[kept]
        if not len(sizes):
            continue
        starts = np.cumsum(sizes) - sizes
        ends = starts + sizes - 1
        num_groups += len(sizes)
        constant += int((values[starts] == values[ends]).sum())  # sorted within each query
        pairs += int((sizes * (sizes - 1) // 2).sum())
        tied += _num_tied(values, starts)
        mean = np.add.reduceat(values, starts) / sizes
        std += float(np.sqrt(np.add.reduceat((values - np.repeat(mean, sizes)) ** 2, starts) / sizes).sum())
        shifted = values - np.repeat(values[ends], sizes)
        mass = np.exp(shifted)
        total = np.add.reduceat(mass, starts)
        # -sum p ln p = ln Z - sum p x, with x shifted so that the largest is 0
        nats = np.log(total) - np.add.reduceat(mass * shifted, starts) / total
        entropy += float(nats.sum())
        entropy_share += float((nats / np.log(sizes)).sum())
    return {
        "num_queries": num_queries,
        "queries_of_one_document": num_queries - num_groups,
        "constant_queries": constant,
        "tied_pairs_share": tied / pairs if pairs else 0.0,
        "mean_query_std": std / num_groups if num_groups else None,
        "mean_query_entropy": entropy / num_groups if num_groups else None,
        "mean_query_entropy_share": entropy_share / num_groups if num_groups else None,
    }


def _groups(
    scores: NDArray[np.float32], queries: NDArray[np.uint64]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Scores, rising within each query, and the sizes of the queries; about a million scores at a time."""
    order = np.argsort(queries, kind="stable")
    ordered = queries[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    bounds = np.append(starts, len(order))
    cuts = np.unique(np.searchsorted(starts, np.arange(0, len(order), _ROWS_AT_ONCE)))
    for begin, end in zip(cuts, np.append(cuts[1:], len(starts)), strict=True):
        rows = order[bounds[begin] : bounds[end]]
        rows = rows[np.lexsort((scores[rows], queries[rows]))]
        yield scores[rows].astype(np.float64), np.diff(bounds[begin : end + 1])


def _num_tied(values: NDArray[np.float64], starts: NDArray[np.int64]) -> int:
    """Pairs of equal neighbours in runs of equal scores that lie within one query."""
    new = np.concatenate(([True], values[1:] != values[:-1]))
    new[starts] = True
    runs = np.diff(np.append(np.flatnonzero(new), len(values)))
    return int((runs * (runs - 1) // 2).sum())


def health_lines(manifest: Mapping[str, Any]) -> list[str]:
    """The same for the screen, a line per subject; what may spoil a training run says so."""
    scores, health = manifest["scores"], manifest["health"]
    quantiles = "  ".join(f"{float(level):.0%} {value:.4g}" for level, value in scores["quantiles"].items())
    lines = [
        f"scores    mean {scores['mean']:.4g}, std {scores['std']:.4g}, {scores['min']:.4g} to {scores['max']:.4g}, "
        f"{scores['num_distinct']:,} distinct",
        f"quantiles {quantiles}",
        f"health    {health['tied_pairs_share']:.2%} of the pairs of a query tie, "
        f"{health['saturated_share']:.2%} of all scores are at an extreme, "
        f"{health['constant_queries']:,} of {health['num_queries']:,} queries are constant",
    ]
    if health["mean_query_std"] is not None:
        lines.append(
            f"spread    std {health['mean_query_std']:.4g} within a query, entropy "
            f"{health['mean_query_entropy']:.3f} nats ({health['mean_query_entropy_share']:.0%} of a uniform teacher's)"
        )
    return lines
