"""Where a ranker is good and where it is not: measures by slice of the queries, against a baseline when there is one.

A slicing gives every query one slice.  The built-in ones cut by query length, by clicks in a log, by script, by
labels, or by a column that the user knows of each query.  Slices are looked at many at once, so the p-values of a
slicing are corrected together (Holm).  A slice without queries, or with one, is reported as such and not dropped.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from disranker.evaluation.baselines import tokenize
from disranker.evaluation.measures import Measured, measure_name
from disranker.evaluation.resampling import (
    Statistic,
    aggregate,
    bootstrap,
    exchange_test,
    query_table,
    resampled,
    subtract,
)
from disranker.evaluation.significance import common_queries, holm
from disranker.schema import Click

NO_QUERY = "no query"
ONE_QUERY = "one query: no interval, no test"

_NAMED_QUERIES = 3  # that an error message lists
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
_KANA = re.compile("[\u3040-\u30ff]")


@dataclass(frozen=True, slots=True)
class Slicing:
    """A way to part the queries."""

    name: str
    """What it cuts by, as a report writes it."""
    slices: tuple[str, ...]
    """All slices in the order to show, also those that no query falls in."""
    of_query: Mapping[str, str]
    """query_id -> slice."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.of_query.values()) - set(self.slices))
        if unknown:
            raise ValueError(f"slicing by {self.name}: {unknown[0]!r} is none of its slices {', '.join(self.slices)}")


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice; what it is too small for is None, and `note` says so."""

    name: str
    num_queries: int
    value: float | None = None
    """The measure over the slice's queries; None without queries."""
    interval: tuple[float, float] | None = None
    """Bootstrap percentile interval of `value`; None with fewer than two queries."""
    baseline: float | None = None
    """The baseline's value on the same queries; None without queries or without a baseline."""
    delta: float | None = None
    """value - baseline."""
    delta_interval: tuple[float, float] | None = None
    p_value: float | None = None
    """Of the paired randomisation test."""
    p_holm: float | None = None
    """`p_value` corrected over the slices of this slicing that have one."""
    note: str = ""
    """Empty, `NO_QUERY` or `ONE_QUERY`."""


@dataclass(frozen=True, slots=True)
class SliceTable:
    """One system by one measure over one slicing."""

    slicing: str
    measure: str
    system: str
    baseline: str | None
    slices: tuple[Slice, ...]
    confidence: float


def measure_slices(
    slicing: Slicing,
    system: Measured,
    measure: str,
    baseline: Measured | None = None,
    names: tuple[str, str] = ("system", "baseline"),
    samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> SliceTable:
    """Measures every slice of a slicing, with the paired difference to the baseline where there is one.

    The slicing may know more queries than were measured.  Raises ValueError when it lacks one that was measured, when
    the two systems were measured on different queries, or when one lacks the measure.
    """
    name = measure_name(measure)
    queries = common_queries(system, system if baseline is None else baseline, name, names)
    missing = [query for query in queries if query not in slicing.of_query]
    _refuse_missing(missing, f"the slicing by {slicing.name}")
    members: dict[str, list[str]] = {each: [] for each in slicing.slices}
    for query in queries:
        members[slicing.of_query[query]].append(query)
    found = [
        _measure_slice(each, members[each], system, baseline, name, samples, seed, confidence)
        for each in slicing.slices
    ]
    tested = {at: each.p_value for at, each in enumerate(found) if each.p_value is not None}
    for at, p_holm in zip(tested, holm(list(tested.values())), strict=True):
        found[at] = replace(found[at], p_holm=p_holm)
    return SliceTable(
        slicing=slicing.name,
        measure=name,
        system=names[0],
        baseline=None if baseline is None else names[1],
        slices=tuple(found),
        confidence=confidence,
    )


def _measure_slice(
    name: str,
    queries: list[str],
    system: Measured,
    baseline: Measured | None,
    measure: str,
    samples: int,
    seed: int,
    confidence: float,
) -> Slice:
    if not queries:
        return Slice(name, 0, note=NO_QUERY)
    table = query_table(system, measure, queries)
    against = None if baseline is None else query_table(baseline, measure, queries)
    found = Slice(name, len(queries), aggregate(table))
    if against is not None:
        delta = float(subtract(np.array(aggregate(table)), np.array(aggregate(against))))
        found = replace(found, baseline=aggregate(against), delta=delta)
    if len(queries) == 1:
        return replace(found, note=ONE_QUERY)

    def interval(statistic: Statistic) -> tuple[float, float]:
        return bootstrap(statistic, len(queries), samples, seed, confidence)

    found = replace(found, interval=interval(lambda weights: resampled(table, weights)))
    if against is None:
        return found
    return replace(
        found,
        delta_interval=interval(lambda weights: subtract(resampled(table, weights), resampled(against, weights))),
        p_value=exchange_test(table, against, samples, seed),
    )


def by_query_length(queries: Mapping[str, str]) -> Slicing:
    """Parts queries (query_id -> text) by their words; a Chinese or Japanese character counts as a word."""
    lengths = {query: len(_words(text)) for query, text in queries.items()}
    return _by_ranges("query length", lengths, (0, 3, 5, 9), "word", "words")


def by_clicks(queries: Mapping[str, str], clicks: Iterable[Click]) -> Slicing:
    """Parts queries (query_id -> text) by the clicks that a log holds for exactly this text, over all documents."""
    of_text = dict.fromkeys(queries.values(), 0)
    for click in clicks:
        if click.query in of_text:
            of_text[click.query] += click.clicks
    counts = {query: of_text[text] for query, text in queries.items()}
    return _by_ranges("clicks in the log", counts, (0, 1, 10, 100, 1000), "click", "clicks")


def by_script(queries: Mapping[str, str]) -> Slicing:
    """Parts queries (query_id -> text) into zh, en and other, by what at least half of their words are written in.

    zh: Han characters, one word each, in a query without kana; en: Latin letters, whatever the language; other: the
    rest, and queries that have no word with a letter.
    """
    return Slicing("script", ("zh", "en", "other"), {query: _script(text) for query, text in queries.items()})


def by_best_label(labels: Mapping[str, Mapping[str, int]]) -> Slicing:
    """Parts queries by the highest label among their documents; ValueError for a query without any."""
    _refuse_missing([query for query, documents in labels.items() if not documents], "the labels")
    best = {query: max(documents.values()) for query, documents in labels.items()}
    return Slicing(
        name="best label",
        slices=tuple(f"best label {label}" for label in sorted(set(best.values()))),
        of_query={query: f"best label {label}" for query, label in best.items()},
    )


def by_relevant(labels: Mapping[str, Mapping[str, int]], relevant: int = 1) -> Slicing:
    """Parts queries by how many of their documents have at least the label `relevant`."""
    counts = {query: sum(label >= relevant for label in documents.values()) for query, documents in labels.items()}
    return _by_ranges(f"documents of label {relevant} or higher", counts, (0, 1, 2, 5, 10), "document", "documents")


def by_column(
    name: str, values: Mapping[str, str | float | None], query_ids: Iterable[str], num_bins: int = 4
) -> Slicing:
    """Parts queries by a column (query_id -> value) of a side table.

    Strings and truth values stand as they are.  Up to `num_bins` different numbers do too; more are cut into as many
    bins of about equal size, whose edges are values that occur: `[2, 7)` holds 2 and not 7, the last bin holds both.

    Raises ValueError, naming the first, for queries without a value (missing, None, nan), for numbers among strings,
    and for fewer than 2 bins.
    """
    if num_bins < 2:
        raise ValueError(f"num_bins={num_bins} must be at least 2")
    asked = list(query_ids)
    known = {query: value for query in asked if (value := values.get(query)) is not None and value == value}
    _refuse_missing([query for query in asked if query not in known], f"column {name!r}")
    numbers = {query: float(value) for query, value in known.items() if not isinstance(value, str | bool)}
    if len(numbers) == len(known):
        return _by_quantiles(name, numbers, num_bins)
    if numbers:
        first = next(iter(numbers))
        raise ValueError(
            f"column {name!r} has numbers among its strings, first {known[first]!r} of query_id {first!r}; "
            "make it all numbers or all strings"
        )
    of_query = {query: str(value) for query, value in known.items()}
    return Slicing(name, tuple(sorted(set(of_query.values()))), of_query)


def _by_quantiles(name: str, values: dict[str, float], num_bins: int) -> Slicing:
    column = np.array(list(values.values()))
    distinct, places = np.unique(column, return_inverse=True)
    if len(distinct) <= num_bins:
        names = _figures(distinct)
    else:
        edges = np.unique(np.quantile(column, np.linspace(0, 1, num_bins + 1), method="inverted_cdf"))
        figures = _figures(edges)
        names = [f"[{low}, {high})" for low, high in pairwise(figures)]
        names[-1] = f"[{figures[-2]}, {figures[-1]}]"
        places = np.minimum(np.searchsorted(edges, column, side="right"), len(names)) - 1
    return Slicing(name, tuple(names), {query: names[place] for query, place in zip(values, places, strict=True)})


def _figures(values: Iterable[float]) -> list[str]:
    """Numbers as text, six digits unless two would then look alike."""
    exact = [str(int(value)) if value.is_integer() else repr(value) for value in map(float, values)]
    short = [text if float(text).is_integer() else f"{float(text):.6g}" for text in exact]
    return short if len(set(short)) == len(exact) else exact


def _by_ranges(name: str, counts: Mapping[str, int], lows: tuple[int, ...], one: str, many: str) -> Slicing:
    """Whole-numbered counts by ranges that start at `lows`; the first is 0, the last is open."""
    names = []
    for low, after in pairwise(lows):
        names.append(f"{low} {one if low == 1 else many}" if low + 1 == after else f"{low} to {after - 1} {many}")
    names.append(f"{lows[-1]} or more {many}")
    of_query = {query: names[bisect_right(lows, count) - 1] for query, count in counts.items()}
    return Slicing(name, tuple(names), of_query)


def _words(text: str) -> list[str]:
    """What `tokenize` finds, without its pairs of Chinese or Japanese characters: those fall apart again."""
    return [word for word in tokenize(text) if len(tokenize(word)) == 1]


def _script(text: str) -> str:
    words = _words(text)
    if any(_KANA.search(word) for word in words):
        return "other"
    han = sum(bool(_HAN.match(word)) for word in words)
    latin = sum(_is_latin(word) for word in words)
    written = sum(any(letter.isalpha() for letter in word) for word in words)  # without numbers
    if 2 * han >= written > 0:
        return "zh"
    return "en" if 2 * latin >= written > 0 else "other"


def _is_latin(word: str) -> bool:
    letters = [letter for letter in word if letter.isalpha()]
    return bool(letters) and all(unicodedata.name(letter, "").startswith("LATIN") for letter in letters)


def _refuse_missing(queries: list[str], where: str) -> None:
    if queries:
        named = ", ".join(map(repr, queries[:_NAMED_QUERIES]))
        raise ValueError(f"{where} has no value for {len(queries)} queries, first {named}; give every query one")
