"""The queries of the built-in search world: what a user wants and how the user says it.

An intent is a kind with one or two attributes.  Each thing that a query names is said in a colloquial form with
probability ALIAS_SHARE (a synonym, a nickname, a model, a product line, an error code), else in the catalogue's words.
Some queries name their kind by a word with two meanings, some carry a typing slip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple, TypeVar

from disranker.data.catalogue import VERTICALS, Catalogue, Concept, Kind

T = TypeVar("T")

# All are probabilities.
ALIAS_SHARE = 0.6
"""Of the things that a query names in words, those in a colloquial form."""
NAME_SHARE = 0.35
"""Of the queries in shop and help, those with an invented product line or an error code."""
DEVICE_WITH_CODE_SHARE = 0.3
"""Of the queries with an error code, those that name the device too."""
TWO_ATTRIBUTES_SHARE = 0.65
TYPO_SHARE = 0.06
AMBIGUOUS_SHARE = 0.05
"""Queries that name their kind by a word that names another kind as well."""
FILLER_SHARE = 0.2
"""Of the queries with at most two terms, those with a word that means nothing."""

MAX_QUERY_WORDS = 5
"""A longer query is worded again, a few times; the shortest wording stands."""


class Intent(NamedTuple):
    """What a user wants; `family` is what a neighbour would share (see `catalogue.Document`)."""

    language: str
    vertical: str
    family: str
    kind: str
    attributes: tuple[str, ...]


class SearchQuery(NamedTuple):
    """A query and what is behind it."""

    query_id: str
    text: str
    intent: Intent
    parts: tuple[str, ...]
    """The terms as meant, without the typo; a filler is the last."""
    aliases: tuple[str, ...]
    """Those of the terms that no page uses for what is meant."""
    num_named: int
    """Terms without the filler."""
    typo: bool
    ambiguous: bool


def draw_query(rng: Random, catalogue: Catalogue, query_id: str) -> SearchQuery:
    """Draw an intent, and words for it."""
    ambiguous = rng.random() < AMBIGUOUS_SHARE
    name = shared = ""
    attributes: list[str] = []
    if ambiguous:
        shared = pick(rng, catalogue.ambiguous_forms)
        kind = pick(rng, catalogue.named(*pick(rng, catalogue.lexicon.ambiguous[shared])))
    else:
        kind = pick(rng, catalogue.kinds[pick(rng, VERTICALS)])
        if kind.names and rng.random() < NAME_SHARE:
            name, implied = pick(rng, kind.names)
            if implied:
                attributes.append(implied)
    travel = kind.vertical == "travel"
    if travel:
        # The activity is what makes travel pages neighbours, so every trip has one.
        attributes.append(pick(rng, kind.groups[0]))
    _complete(rng, kind, attributes, 2 if rng.random() < TWO_ATTRIBUTES_SHARE else 1)
    family = attributes[0] if travel else kind.family
    intent = Intent(catalogue.lexicon.language, kind.vertical, family, kind.form, tuple(attributes))
    table = catalogue.attributes[kind.vertical]
    # A product line stands for its attribute, so the query need not say it.
    said = attributes[1:] if name and kind.vertical == "shop" else attributes
    shortest = 99
    for _ in range(6):
        head_terms, found = _name_kind(rng, kind, name, shared)
        tail_terms = [_word(rng, table[attribute], found) for attribute in said]
        num_words = sum(1 + term.count(" ") for term in head_terms + tail_terms)
        if num_words < shortest:
            shortest, heads, tails, aliases = num_words, head_terms, tail_terms, found
        if num_words <= MAX_QUERY_WORDS:
            break
    parts = heads + tails if rng.random() < 0.5 else tails + heads
    num_named = len(parts)
    if num_named <= 2 and rng.random() < FILLER_SHARE:
        parts.append(pick(rng, catalogue.lexicon.fillers[kind.vertical]))
    text = meant = join_terms(parts)
    if rng.random() < TYPO_SHARE:
        text = mistype(rng, meant, catalogue.lexicon.typo_swaps)
    return SearchQuery(query_id, text, intent, tuple(parts), tuple(aliases), num_named, text != meant, ambiguous)


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of the options, all equally likely; a third of the cost of `Random.choice`."""
    return options[int(rng.random() * len(options))]


def join_terms(terms: Sequence[str]) -> str:
    """Terms side by side: a space next to Latin letters and digits, none between Chinese ones."""
    text = terms[0]
    for term in terms[1:]:
        text += " " + term if text[-1].isascii() or term[0].isascii() else term
    return text


def mistype(rng: Random, text: str, swaps: Mapping[str, str]) -> str:
    """The text with one slip of the hand in one word; short words and those with digits stay, so it may be equal."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if word.isalpha() and len(word) > (3 if word.isascii() else 1)]
    if not long:
        return text
    chosen = pick(rng, long)
    word = words[chosen]
    slip = rng.random()
    at = 1 + int(rng.random() * (len(word) - 2))
    if not word.isascii():
        # An input method gives a homophone; only words without one get two characters in the wrong order.
        known = [i for i, character in enumerate(word) if character in swaps]
        at, slip = (pick(rng, known), 1.0) if known else (int(rng.random() * (len(word) - 1)), 0.0)
    if slip < 0.3:
        word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    elif slip < 0.6:
        word = word[:at] + word[at + 1 :]
    elif slip < 0.8:
        word = word[:at] + word[at] + word[at:]
    else:
        word = word[:at] + swaps.get(word[at], word[at]) + word[at + 1 :]
    words[chosen] = word
    return " ".join(words)


def _complete(rng: Random, kind: Kind, attributes: list[str], wanted: int) -> None:
    """Add attributes of other groups until there are `wanted`."""
    while len(attributes) < wanted:
        group = pick(rng, kind.groups)
        if not any(attribute in group for attribute in attributes):
            attributes.append(pick(rng, group))


def _word(rng: Random, concept: Concept, aliases: list[str]) -> str:
    """One of the concept's forms; a colloquial one is noted in `aliases`."""
    if concept.aliases and rng.random() < ALIAS_SHARE:
        alias = pick(rng, concept.aliases)
        aliases.append(alias)
        return alias
    return concept.query_form


def _name_kind(rng: Random, kind: Kind, name: str, shared: str) -> tuple[list[str], list[str]]:
    """The terms that name a kind (an invented name, an ambiguous word, or its concepts), and the aliases among them."""
    given = name or shared
    if not given:
        aliases: list[str] = []
        return [_word(rng, concept, aliases) for concept in kind.concepts], aliases
    heads, aliases = [given], [given]
    if kind.vertical == "help":
        if shared:
            heads.append(_word(rng, kind.concepts[1], aliases))
        elif rng.random() < DEVICE_WITH_CODE_SHARE:
            heads.append(_word(rng, kind.concepts[0], aliases))
    return heads, aliases
