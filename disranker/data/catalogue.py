"""What the built-in search world is made of: concepts, their surface forms, and the pages that speak of them.

A `Lexicon` holds the word tables of one language; a `Catalogue` adds what a seed invents (product lines, model names,
error codes, nicknames of places) and turns the identity of a document into its text.  It draws nothing at random:
texts are functions of (seed, identity), so no document is ever stored.  Queries, lists and clicks live in `world.py`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from disranker.schema import stable_seed

Forms = Mapping[str, tuple[str, ...]]
"""Catalogue form -> colloquial forms; pages use the first, queries mostly one of the others."""

VERTICALS = ("shop", "help", "travel")

LINES_PER_KIND = 6
MODELS_PER_DEVICE = 6
NICKNAMES_PER_PLACE = 3
LOCAL_NAMES_PER_PLACE = 4


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The word tables of one language; tables map catalogue forms to colloquial ones unless they say otherwise."""

    language: Literal["en", "zh"]
    shop_kinds: Mapping[str, Forms]
    """By category; kinds of one category are neighbours."""
    shop_attributes: Mapping[str, Forms]
    """By group; a page has at most one of a group."""
    shop_suffix_groups: frozenset[str]
    """Groups whose words follow the kind ("for women"); those of the others precede it."""
    shop_excluded: Mapping[str, frozenset[str]]
    """Category -> attributes that make no sense there."""
    help_devices: Forms
    help_symptoms: Forms
    help_attributes: Mapping[str, Forms]
    travel_places: Mapping[str, Forms]
    """By type of landscape."""
    travel_attributes: Mapping[str, Forms]
    travel_excluded: Mapping[str, frozenset[str]]
    """Type of landscape -> activities that make no sense there."""
    ambiguous: Mapping[str, tuple[tuple[str, str], ...]]
    """Form -> the (vertical, kind or device) that it may name."""
    query_forms: Mapping[str, str]
    """Catalogue form -> how a query writes it, where that differs ("for women" -> "women")."""
    fillers: Mapping[str, tuple[str, ...]]
    """Vertical -> words that queries add and that mean nothing."""
    typo_swaps: Mapping[str, str]
    """Character -> the one that is mistaken for it."""
    nickname_first: tuple[str, ...]
    nickname_last: Mapping[str, tuple[str, ...]]
    """Type of landscape -> nouns."""
    local_syllables: tuple[str, ...]
    makers: tuple[str, ...]
    titles: Mapping[str, tuple[str, ...]]
    """Vertical (or "mention") -> templates."""
    summaries: Mapping[str, tuple[str, ...]]
    spam_hooks: tuple[str, ...]


class Concept(NamedTuple):
    """One meaning: how pages write it, how a plain query writes it, and what people call it instead."""

    form: str
    query_form: str
    aliases: tuple[str, ...]


class Name(NamedTuple):
    """An invented name that stands for a kind and, in the shop, for one attribute as well ("" elsewhere)."""

    text: str
    attribute: str


@dataclass(frozen=True, slots=True)
class Kind:
    """What a page is about: a product, a device with a symptom, or a place."""

    vertical: str
    form: str
    family: str
    """Category in the shop, device in help, type of landscape in travel."""
    concepts: tuple[Concept, ...]
    """What a query says to name the kind in words: one concept, in help device and symptom."""
    groups: tuple[tuple[str, ...], ...]
    """Attributes that a page of this kind may have, by group."""
    names: tuple[Name, ...] = ()


class Document(NamedTuple):
    """The identity of a page; its id and its text follow from it and the seed."""

    language: str
    vertical: str
    family: str
    """What neighbours share: the category in the shop, the device in help, the activity in travel."""
    kind: str
    attributes: tuple[str, ...]
    variant: int
    duplicate: int = 0
    """0 = the original; near-duplicates are numbered from 1."""
    page: Literal["content", "spam", "mention"] = "content"
    bait: str = ""
    """The words that a spam page repeats or that a mention page uses in another sense."""


class Text(NamedTuple):
    """A page as the log shows it."""

    doc_id: str
    title: str
    summary: str


_ONSETS = ("v", "k", "m", "t", "z", "br", "dr", "l", "n", "s", "f", "gr", "h", "p", "qu", "tr")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "eo")
_ENDS = ("ra", "lon", "vex", "mo", "nix", "sta", "rin", "do", "zan", "lis", "tek", "bo", "fy", "wen", "dar", "pu")
_SERIES = ("K2", "S5", "X3", "Pro", "M8", "V7")


class Catalogue:
    """All concepts of one language under one seed, and the text of every page."""

    def __init__(self, lexicon: Lexicon, seed: int) -> None:
        self.lexicon = lexicon
        self.seed = seed
        self._rng = random.Random(stable_seed(seed, "catalogue", lexicon.language))
        self._taken: set[str] = set()
        self.attributes: dict[str, dict[str, Concept]] = {
            vertical: self._concepts(groups)
            for vertical, groups in (
                ("shop", lexicon.shop_attributes),
                ("help", lexicon.help_attributes),
                ("travel", lexicon.travel_attributes),
            )
        }
        self.kinds: dict[str, tuple[Kind, ...]] = {
            "shop": tuple(self._shop_kinds()),
            "help": tuple(self._help_kinds()),
            "travel": tuple(self._travel_kinds()),
        }
        self.by_form: dict[tuple[str, str], Kind] = {
            (kind.vertical, kind.form): kind for kinds in self.kinds.values() for kind in kinds
        }
        self._named: dict[tuple[str, str], tuple[Kind, ...]] = {key: (kind,) for key, kind in self.by_form.items()}
        self._relatives: dict[str, tuple[Kind, ...]] = {}
        for kind in self.by_form.values():
            self._relatives[kind.family] = (*self._relatives.get(kind.family, ()), kind)
        self._named.update({("help", device): self._relatives[device] for device in lexicon.help_devices})
        self._suffixes = {form for group in lexicon.shop_suffix_groups for form in lexicon.shop_attributes[group]}
        self.ambiguous_forms = tuple(lexicon.ambiguous)
        self._root = f"{seed} {lexicon.language}"
        self._gap = " " if lexicon.language == "en" else ""

    def alias_forms(self) -> set[str]:
        """Every colloquial form, nickname, invented name and code that a query may use."""
        forms = set(self.lexicon.ambiguous)
        for concepts in self.attributes.values():
            forms.update(alias for concept in concepts.values() for alias in concept.aliases)
        for kind in self.by_form.values():
            forms.update(alias for concept in kind.concepts for alias in concept.aliases)
            forms.update(name.text for name in kind.names)
        return forms

    def named(self, vertical: str, form: str) -> tuple[Kind, ...]:
        """The kinds that a form stands for: one, or in help all symptoms of a device."""
        return self._named[vertical, form]

    def relatives(self, kind: Kind) -> tuple[Kind, ...]:
        """The kinds among which neighbours are found, `kind` included: category, device, or all places."""
        return self.kinds["travel"] if kind.vertical == "travel" else self._relatives[kind.family]

    def render(self, document: Document) -> Text:
        """The id and text of a page; equal identities give equal texts in every process."""
        lexicon = self.lexicon
        identity = f"{document.kind}/{'/'.join(document.attributes)}/{document.variant}/{document.page}/{document.bait}"
        base = stable_seed(self._root, document.vertical, identity)
        # A near-duplicate keeps the sentences of its original; only the maker, the number and the id are its own.
        own = base if not document.duplicate else stable_seed(base, document.duplicate)
        source = "mention" if document.page == "mention" else document.vertical
        titles, summaries = lexicon.titles[source], lexicon.summaries[source]
        maker = lexicon.makers[own % len(lexicon.makers)]
        words = self._words(document)
        words.update(maker=maker, n=str(2 + own // 64 % 28), bait=document.bait)
        title = titles[base // 4096 % len(titles)].format_map(words)
        summary = summaries[base // 262_144 % len(summaries)].format_map(words)
        if document.page == "spam":
            hook = lexicon.spam_hooks[base // 4096 % len(lexicon.spam_hooks)]
            title = f"{document.bait} {hook} {document.bait}"
        return Text(f"{document.vertical}-{own % 2**48:012x}", _sentence(title), _sentence(summary))

    def _words(self, document: Document) -> dict[str, str]:
        """What the templates of the document's vertical may name."""
        if document.page == "mention":
            return {}
        if document.vertical == "shop":
            before = [form for form in document.attributes if form not in self._suffixes]
            after = [form for form in document.attributes if form in self._suffixes]
            return {"kind": document.kind, "phrase": self._gap.join([*before, document.kind, *after])}
        kind = self.by_form[document.vertical, document.kind]
        if document.vertical == "help":
            action, medium = document.attributes
            device, symptom = kind.concepts
            return {"device": device.form, "symptom": symptom.form, "action": action, "medium": medium}
        activity, season, company = document.attributes
        return {"place": document.kind, "activity": activity, "season": season, "company": company}

    def _concepts(self, groups: Mapping[str, Forms]) -> dict[str, Concept]:
        return {form: self._concept(form, aliases) for table in groups.values() for form, aliases in table.items()}

    def _concept(self, form: str, aliases: Sequence[str]) -> Concept:
        return Concept(form, self.lexicon.query_forms.get(form, form), tuple(aliases))

    def _shop_kinds(self) -> list[Kind]:
        kinds = []
        for category, table in self.lexicon.shop_kinds.items():
            groups = _allowed(self.lexicon.shop_attributes, self.lexicon.shop_excluded.get(category, frozenset()))
            for form, aliases in table.items():
                # Every line of a kind stands for another attribute.
                picks = self._rng.sample([attribute for group in groups for attribute in group], LINES_PER_KIND)
                names = tuple(Name(f"{self._invent()} {self._rng.choice(_SERIES)}", pick) for pick in picks)
                kinds.append(Kind("shop", form, category, (self._concept(form, aliases),), groups, names))
        return kinds

    def _help_kinds(self) -> list[Kind]:
        lexicon = self.lexicon
        groups = _allowed(lexicon.help_attributes, frozenset())
        num_codes = len(lexicon.help_devices) * len(lexicon.help_symptoms)
        codes = iter(self._rng.sample([f"{letter}{n}" for letter in "EFHU" for n in range(10, 99)], num_codes))
        kinds = []
        symptoms = [self._concept(form, aliases) for form, aliases in lexicon.help_symptoms.items()]
        for form, aliases in lexicon.help_devices.items():
            models = [f"{self._invent()} {self._rng.choice((200, 300, 500, 700))}" for _ in range(MODELS_PER_DEVICE)]
            device = self._concept(form, (*aliases, *models))
            for symptom in symptoms:
                text = form + (" " if lexicon.language == "en" else "") + symptom.form
                kinds.append(Kind("help", text, form, (device, symptom), groups, (Name(next(codes), ""),)))
        return kinds

    def _travel_kinds(self) -> list[Kind]:
        lexicon = self.lexicon
        gap = " " if lexicon.language == "en" else ""
        kinds = []
        for landscape, table in lexicon.travel_places.items():
            groups = _allowed(lexicon.travel_attributes, lexicon.travel_excluded.get(landscape, frozenset()))
            firsts = iter(self._rng.sample(lexicon.nickname_first, NICKNAMES_PER_PLACE * len(table)))
            for form, aliases in table.items():
                nicknames = [
                    f"{next(firsts)}{gap}{self._rng.choice(lexicon.nickname_last[landscape])}"
                    for _ in range(NICKNAMES_PER_PLACE)
                ]
                local = [self._invent(lexicon.local_syllables) for _ in range(LOCAL_NAMES_PER_PLACE)]
                concept = self._concept(form, (*aliases, *nicknames, *local))
                kinds.append(Kind("travel", form, landscape, (concept,), groups))
        return kinds

    def _invent(self, syllables: Sequence[str] = ()) -> str:
        """A name that nothing else in this catalogue has."""
        choose = self._rng.choice
        while True:
            if syllables:
                name = choose(syllables) + choose(syllables)
            else:
                name = choose(_ONSETS) + choose(_VOWELS) + choose(_ENDS)
            if name not in self._taken and name[: len(name) // 2] * 2 != name:
                self._taken.add(name)
                return name.capitalize()


def _allowed(groups: Mapping[str, Forms], excluded: frozenset[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(form for form in table if form not in excluded) for table in groups.values())


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
