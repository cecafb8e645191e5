"""The built-in search world: a seeded generator of queries, documents, clicks and graded truth.

Three verticals (a shop, a help centre, a travel guide) share one idea: pages speak the catalogue's language
("waterproof hiking boots", "Lake Orta"), while most of what queries name is said in another form (a synonym, a
nickname, a product line, an error code).  Word overlap therefore finds only a part; which name means what is seen in
the clicks alone.

The truth.  An intent is a kind (product, device with symptom, place) with one or two attributes; `grade` says

    4  a page of the same kind with all wanted attributes
    3  the same kind with a part of them
    2  the same kind with none of them
    1  a neighbour: another product of the category, another symptom of the device, another place for the activity
    0  everything else; spam, and pages that only mention the query's words, whatever their words are

Queries come from `queries.py`, clicks from the cascade in `click_model.py`, texts from `catalogue.py`.  Everything is a
function of (seed, language, stream, row): equal arguments give equal bytes in every process, splits differ by their
random stream only, and all is streamed at constant memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple, get_args

from disranker.data import queries
from disranker.data.catalogue import VERTICALS, Catalogue, Document, Kind
from disranker.data.click_model import LIST_LENGTH, SPAM, Reactions, browse, click_model, shown_order
from disranker.data.lexicon_en import ENGLISH
from disranker.data.lexicon_zh import CHINESE
from disranker.data.queries import Intent, SearchQuery, draw_query, join_terms, pick
from disranker.data.readers import write_records
from disranker.schema import Candidate, Click, Judgment, stable_seed

Language = Literal["en", "zh", "mixed"]
Split = Literal["train", "dev", "test"]

GENERATOR_VERSION = 1
"""Raised whenever equal arguments begin to give other rows."""
NUM_VARIANTS = 50
"""Different pages about the same kind and attributes."""
EXTRA_ATTRIBUTE_SHARE = 0.4
"""Shop pages: chance of an attribute in each group that the intent leaves open."""
MAX_SHOP_ATTRIBUTES = 3
FOREIGN_SHARE = 0.15
"""Of the random documents of a mixed world, those in the other language."""
ROLE_PERCENT: Mapping[str, int] = {
    "exact": 6,
    "partial": 14,
    "kind": 16,
    "neighbour": 20,
    "lookalike": 8,
    "spam": 6,
    "duplicate": 7,
    "random": 23,
}
"""What the documents of a list are, after a first exact one; a lookalike shares words and means something else."""
MAX_SPAM_PER_LIST = 2
"""Further spam becomes a random page."""
_ROLES = tuple(role for role, percent in ROLE_PERCENT.items() for _ in range(percent))


class Impressions(NamedTuple):
    """A list as it was shown and what users did; entry i of every sequence belongs to position i + 1."""

    query: SearchQuery
    documents: tuple[Document, ...]
    grades: tuple[int, ...]
    reactions: Reactions


def grade(intent: Intent, document: Document) -> int:
    """The true label, 0 to 4, by the rule at the top of this file."""
    if document.page != "content" or document.language != intent.language or document.vertical != intent.vertical:
        return 0
    if document.kind != intent.kind:
        return int(document.family == intent.family)
    shared = sum(attribute in document.attributes for attribute in intent.attributes)
    if shared == len(intent.attributes):
        return 4
    return 3 if shared else 2


class World:
    """A search engine's log and its judgments, made from a seed.

    Raises ValueError for an unknown language.
    """

    def __init__(self, seed: int = 0, language: Language = "en") -> None:
        if language not in get_args(Language):
            raise ValueError(f"language is {language!r}; it must be one of {', '.join(get_args(Language))}")
        self.seed = seed
        self.language: Language = language
        lexicons = [lexicon for lexicon in (ENGLISH, CHINESE) if language in (lexicon.language, "mixed")]
        self.catalogues: dict[str, Catalogue] = {lexicon.language: Catalogue(lexicon, seed) for lexicon in lexicons}
        self._languages = tuple(self.catalogues)

    def clicks(self, num_rows: int) -> Iterator[Click]:
        """The click log: one row per clicked document of a shown list."""
        return (click for click, _ in islice(self.graded_clicks(), num_rows))

    def graded_clicks(self) -> Iterator[tuple[Click, int]]:
        """The endless click log, each row with the true grade of its document."""
        for shown in self.impressions():
            num_shown, clicks, dwell_seconds = shown.reactions
            for place, num_clicks in enumerate(clicks):
                if num_clicks:
                    document = shown.documents[place]
                    _, title, summary = self.catalogues[document.language].render(document)
                    dwell = round(dwell_seconds[place] / num_clicks, 2)
                    row = Click(shown.query.text, title, summary, num_clicks, num_shown, place + 1, dwell)
                    yield row, shown.grades[place]

    def judged(self, split: Split, num_queries: int, docs_per_query: int = 12) -> Iterator[Judgment]:
        """Queries with judged documents; rows of a query stand together, in an order that says nothing."""
        return self._judgments(split, num_queries, docs_per_query)

    def candidates(self, num_queries: int, docs_per_query: int = 12) -> Iterator[Candidate]:
        """Queries with documents that nobody judged; `graded_candidates` has the truth of the same rows."""
        for row in self.graded_candidates(num_queries, docs_per_query):
            yield Candidate(row.query_id, row.doc_id, row.query, row.title, row.summary)

    def graded_candidates(self, num_queries: int, docs_per_query: int = 12) -> Iterator[Judgment]:
        """The rows of `candidates` with their true grades."""
        return self._judgments("candidates", num_queries, docs_per_query)

    def queries(self, stream: str) -> Iterator[SearchQuery]:
        """The endless queries of a stream: "train", "dev", "test", "candidates" or "clicks"."""
        index = 0
        while True:
            yield self._query(stream, index)[1]
            index += 1

    def lists(self, stream: str, docs_per_query: int) -> Iterator[tuple[SearchQuery, list[Document]]]:
        """The endless queries of a stream with what a first stage finds for them, in random order."""
        index = 0
        while True:
            rng, query = self._query(stream, index)
            found = self._find(rng, query, docs_per_query)
            rng.shuffle(found)
            yield query, found
            index += 1

    def impressions(self) -> Iterator[Impressions]:
        """The endless shown lists behind the click log."""
        index = 0
        while True:
            rng, query = self._query("clicks", index)
            found = self._find(rng, query, LIST_LENGTH)
            grades = [grade(query.intent, document) for document in found]
            # Users and the ranker treat spam in their own way; its grade is 0 all the same.
            seen_as = [SPAM if page.page == "spam" else label for page, label in zip(found, grades, strict=True)]
            order = shown_order(rng, seen_as)
            reactions = browse(rng, [seen_as[i] for i in order])
            yield Impressions(query, tuple(found[i] for i in order), tuple(grades[i] for i in order), reactions)
            index += 1

    def _judgments(self, stream: str, num_queries: int, docs_per_query: int) -> Iterator[Judgment]:
        if docs_per_query < 1:
            raise ValueError(f"docs_per_query is {docs_per_query}; it must be at least 1")
        for query, documents in islice(self.lists(stream, docs_per_query), num_queries):
            for document in documents:
                doc_id, title, summary = self.catalogues[document.language].render(document)
                label = grade(query.intent, document)
                yield Judgment(query.query_id, doc_id, query.text, title, summary, label)

    def _query(self, stream: str, index: int) -> tuple[Random, SearchQuery]:
        """Query number `index` of a stream, and the generator that goes on to draw its documents."""
        rng = Random(stable_seed(self.seed, self.language, stream, index))
        catalogue = self.catalogues[pick(rng, self._languages)]
        return rng, draw_query(rng, catalogue, f"{stream}-{index:06d}")

    def _find(self, rng: Random, query: SearchQuery, count: int) -> list[Document]:
        """`count` different documents; only the first is sure to be an exact one."""
        found: list[Document] = []
        role = "exact"
        while len(found) < count:
            document = self._draw(rng, query, role, found)
            if document not in found:
                found.append(document)
            role = pick(rng, _ROLES)
            if role == "spam" and sum(page.page == "spam" for page in found) >= MAX_SPAM_PER_LIST:
                role = "random"
        return found

    def _draw(self, rng: Random, query: SearchQuery, role: str, found: list[Document]) -> Document:
        intent = query.intent
        catalogue = self.catalogues[intent.language]
        kind = catalogue.by_form[intent.vertical, intent.kind]
        wanted = intent.attributes
        if role == "exact":
            return _page(rng, intent.language, kind, wanted)
        if role == "partial" and len(wanted) > 1:
            kept = int(rng.random() * 2)
            return _page(rng, intent.language, kind, (wanted[kept],), (wanted[1 - kept],))
        if role in ("kind", "partial"):
            return _page(rng, intent.language, kind, (), wanted)
        if role == "neighbour":
            shared = wanted if rng.random() < 0.5 else wanted[:1] if kind.vertical == "travel" else ()
            return _page(rng, intent.language, _neighbour(rng, catalogue, kind, intent), shared)
        if role == "duplicate":
            # Only the early good pages are repeated: a list holds one near-duplicate, rarely two.
            originals = [page for page in found if page.page == "content" and grade(intent, page) >= 3]
            original = originals[0] if originals else _page(rng, intent.language, kind, wanted)
            return original._replace(duplicate=original.duplicate + 1 + int(rng.random() * 3))
        language = intent.language
        if role == "random" and len(self._languages) > 1 and rng.random() < FOREIGN_SHARE:
            language = next(other for other in self._languages if other != language)
        other = pick(rng, self.catalogues[language].kinds[pick(rng, VERTICALS)])
        if role == "spam":
            return _page(rng, language, other, ())._replace(page="spam", bait=join_terms(query.parts[:2]))
        if role == "lookalike":
            if rng.random() < 0.4:
                bait = pick(rng, query.parts)
                return Document(
                    language, intent.vertical, "", "", (), int(rng.random() * NUM_VARIANTS), page="mention", bait=bait
                )
            senses = [entry for part in query.parts for entry in catalogue.lexicon.ambiguous.get(part, ())]
            if senses:
                other = pick(rng, catalogue.named(*pick(rng, senses)))
            else:
                other = pick(rng, catalogue.kinds[intent.vertical])
            while other is kind:
                other = pick(rng, catalogue.kinds[intent.vertical])
            # In travel the activity would make it a neighbour.
            return _page(rng, language, other, *((wanted[1:], wanted[:1]) if kind.vertical == "travel" else (wanted,)))
        return _page(rng, language, other, ())


def _page(rng: Random, language: str, kind: Kind, keep: Sequence[str] = (), avoid: Sequence[str] = ()) -> Document:
    """A page about `kind` with the attributes `keep` where the kind may have them, and none of `avoid`."""
    shop = kind.vertical == "shop"
    room = MAX_SHOP_ATTRIBUTES - len(keep)
    chance = rng.random
    attributes = []
    for group in kind.groups:
        kept = [attribute for attribute in keep if attribute in group] if keep else None
        if kept:
            attributes += kept
        elif not shop or (room > 0 and chance() < EXTRA_ATTRIBUTE_SHARE):
            room -= 1
            attribute = group[int(chance() * len(group))]
            while attribute in avoid:
                attribute = group[int(chance() * len(group))]
            attributes.append(attribute)
    family = attributes[0] if kind.vertical == "travel" else kind.family
    return Document(language, kind.vertical, family, kind.form, tuple(attributes), int(rng.random() * NUM_VARIANTS))


def _neighbour(rng: Random, catalogue: Catalogue, kind: Kind, intent: Intent) -> Kind:
    """Another kind that can share the intent's family."""
    while True:
        other = pick(rng, catalogue.relatives(kind))
        if other is not kind and (kind.vertical != "travel" or intent.family in other.groups[0]):
            return other


def write_world(
    out_dir: str | os.PathLike[str],
    *,
    seed: int,
    language: Language,
    num_clicks: int,
    judged_queries: Mapping[Split, int],
    candidate_queries: int,
    docs_per_query: int,
    candidate_docs: int | None = None,
) -> dict[str, object]:
    """Write clicks, judged.{split}, candidates (Parquet) and world.json to a folder; returns what it says.

    `candidate_docs` is the number of unjudged documents of a query, where it is not to be `docs_per_query`.
    """
    candidate_docs = candidate_docs or docs_per_query
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    world = World(seed, language)
    rows = {"clicks.parquet": write_records(out / "clicks.parquet", Click, world.clicks(num_clicks))}
    for split, num_queries in judged_queries.items():
        name = f"judged.{split}.parquet"
        rows[name] = write_records(out / name, Judgment, world.judged(split, num_queries, docs_per_query))
    candidates = world.candidates(candidate_queries, candidate_docs)
    rows["candidates.parquet"] = write_records(out / "candidates.parquet", Candidate, candidates)
    description: dict[str, object] = {
        "generator_version": GENERATOR_VERSION,
        "arguments": {
            "seed": seed,
            "language": language,
            "num_clicks": num_clicks,
            "judged_queries": dict(judged_queries),
            "candidate_queries": candidate_queries,
            "docs_per_query": docs_per_query,
            "candidate_docs": candidate_docs,
        },
        "rows": rows,
        "num_alias_forms": {code: len(catalogue.alias_forms()) for code, catalogue in world.catalogues.items()},
        "query_model": {
            "alias_share": queries.ALIAS_SHARE,
            "name_share": queries.NAME_SHARE,
            "two_attributes_share": queries.TWO_ATTRIBUTES_SHARE,
            "typo_share": queries.TYPO_SHARE,
            "ambiguous_share": queries.AMBIGUOUS_SHARE,
            "filler_share": queries.FILLER_SHARE,
        },
        "document_role_percent": dict(ROLE_PERCENT),
        "click_model": click_model(),
    }
    (out / "world.json").write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return description
