"""The built-in search world: reproducible, truthful about its labels, and as noisy as it says."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
import tracemalloc
from collections import Counter, defaultdict
from itertools import groupby, islice

import pytest

from disranker.data import click_model, lexicon_en, lexicon_zh, queries
from disranker.data.catalogue import Document
from disranker.data.click_model import SPAM, browse, shown_order
from disranker.data.queries import Intent, mistype
from disranker.data.world import ROLE_PERCENT, World, grade, write_world

LATIN = re.compile(r"[A-Za-z]+")


@pytest.fixture(scope="module")
def english() -> World:
    return World(0, "en")


@pytest.fixture(scope="module")
def shown_lists(english):
    return list(islice(english.impressions(), 4000))


def ndcg(gains, k=10):
    """NDCG@k of grades in ranked order, gain 2^grade - 1."""

    def dcg(labels):
        return sum((2**label - 1) / math.log2(i + 2) for i, label in enumerate(labels[:k]))

    return dcg(gains) / dcg(sorted(gains, reverse=True))


# ---- the same arguments, the same rows -------------------------------------------------------------------------------


def rows_of(seed, language):
    world = World(seed, language)
    return [*world.clicks(50), *world.judged("train", 4), *world.candidates(4)]


@pytest.mark.parametrize("language", ["en", "zh", "mixed"])
def test_equal_seeds_give_equal_rows_and_other_seeds_do_not(language):
    assert rows_of(3, language) == rows_of(3, language)
    assert not set(rows_of(3, language)) & set(rows_of(4, language))


def test_rows_do_not_depend_on_the_hash_seed_of_the_process():
    code = "from disranker.data.world import World as W; w = W(5, 'mixed'); print([*w.clicks(30), *w.judged('dev', 3)])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs.pop().decode().strip() == str([*World(5, "mixed").clicks(30), *World(5, "mixed").judged("dev", 3)])


def test_a_longer_stream_begins_with_the_shorter_one(english):
    assert list(english.clicks(70))[:40] == list(english.clicks(40))
    assert list(english.judged("test", 5))[:24] == list(english.judged("test", 2))


def test_write_world_writes_what_the_streams_yield_and_equal_bytes(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    arguments = {"seed": 1, "language": "mixed", "num_clicks": 300, "candidate_queries": 7}
    arguments |= {"docs_per_query": 5, "candidate_docs": 4}
    judged = {"train": 4, "dev": 2, "test": 3}
    told = write_world(tmp_path / "a", judged_queries=judged, **arguments)
    write_world(tmp_path / "b", judged_queries=judged, **arguments)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [
        "candidates.parquet", "clicks.parquet", "judged.dev.parquet", "judged.test.parquet", "judged.train.parquet",
        "world.json",
    ]  # fmt: skip
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert told == json.loads((tmp_path / "a" / "world.json").read_text(encoding="utf-8"))
    assert told["arguments"] == {**arguments, "judged_queries": judged}
    assert told["rows"]["judged.test.parquet"] == 15 and told["rows"]["clicks.parquet"] == 300
    assert told["click_model"]["examine_continue"] == click_model.EXAMINE_CONTINUE
    table = pq.read_table(tmp_path / "a" / "clicks.parquet").to_pylist()
    first = next(World(1, "mixed").clicks(1))
    assert table[0] == {name: getattr(first, name) for name in table[0]}


def test_an_unknown_language_is_named():
    with pytest.raises(ValueError, match=r"'fr'.*en, zh, mixed"):
        World(0, "fr")


def test_no_documents_per_query_is_refused(english):
    with pytest.raises(ValueError, match="docs_per_query is 0"):
        list(english.judged("train", 1, docs_per_query=0))


# ---- the truth -------------------------------------------------------------------------------------------------------

BOOTS = Intent("en", "shop", "footwear", "hiking boots", ("waterproof", "cheap"))
ORTA = Intent("en", "travel", "sailing", "Lake Orta", ("sailing",))
LEAK = Intent("en", "help", "dryer", "dryer leaks water", ("video",))


@pytest.mark.parametrize(
    ("intent", "document", "expected"),
    [
        (BOOTS, ("en", "shop", "footwear", "hiking boots", ("cheap", "waterproof", "red")), 4),
        (BOOTS, ("en", "shop", "footwear", "hiking boots", ("waterproof", "red")), 3),
        (BOOTS, ("en", "shop", "footwear", "hiking boots", ("luxury",)), 2),
        (BOOTS, ("en", "shop", "footwear", "hiking boots", ()), 2),
        (BOOTS, ("en", "shop", "footwear", "sandals", ("cheap", "waterproof")), 1),
        (BOOTS, ("en", "shop", "clothing", "rain jacket", ("cheap", "waterproof")), 0),
        (BOOTS, ("zh", "shop", "footwear", "hiking boots", ("cheap", "waterproof")), 0),
        (LEAK, ("en", "help", "dryer", "dryer leaks water", ("check the fuse", "video")), 4),
        (LEAK, ("en", "help", "dryer", "dryer leaks water", ("check the fuse", "manual")), 2),
        (LEAK, ("en", "help", "dryer", "dryer keeps beeping", ("check the fuse", "video")), 1),
        (LEAK, ("en", "help", "fridge", "fridge leaks water", ("check the fuse", "video")), 0),
        (ORTA, ("en", "travel", "sailing", "Lake Orta", ("sailing", "in spring", "with dogs")), 4),
        (ORTA, ("en", "travel", "hiking", "Lake Orta", ("hiking", "in spring", "with dogs")), 2),
        (ORTA, ("en", "travel", "sailing", "Port Ellery", ("sailing", "in spring", "with dogs")), 1),
        (ORTA, ("en", "travel", "hiking", "Port Ellery", ("hiking", "in spring", "with dogs")), 0),
    ],
)
def test_grade_follows_the_rule(intent, document, expected):
    assert grade(intent, Document(*document, variant=3)) == expected
    assert grade(intent, Document(*document, variant=9, duplicate=2)) == expected
    assert grade(intent, Document(*document, variant=3, page="spam", bait="boots")) == 0
    assert grade(intent, Document(*document, variant=3, page="mention", bait="boots")) == 0


@pytest.mark.parametrize("docs_per_query", [1, 5, 12, 60])
def test_lists_are_grouped_full_and_without_repeats(english, docs_per_query):
    rows = list(english.judged("train", 20, docs_per_query))
    groups = [(key, list(group)) for key, group in groupby(rows, key=lambda row: row.query_id)]
    assert [key for key, _ in groups] == [f"train-{i:06d}" for i in range(20)]
    for _, group in groups:
        assert len({row.doc_id for row in group}) == docs_per_query
        assert len({row.query for row in group}) == 1


@pytest.mark.parametrize("language", ["en", "zh", "mixed"])
def test_grade_histogram(language):
    rows = list(World(0, language).judged("train", 400))
    share = {label: count / len(rows) for label, count in Counter(row.label for row in rows).items()}
    assert share.keys() == {0, 1, 2, 3, 4}
    assert 0.3 < share[0] < 0.4 and 0.15 < share[1] < 0.25 and 0.15 < share[2] < 0.25
    assert 0.05 < share[3] < 0.12 and 0.15 < share[4] < 0.25
    best = [max(row.label for row in group) for _, group in groupby(rows, key=lambda row: row.query_id)]
    assert set(best) == {4}


def test_order_and_doc_id_do_not_tell_the_grade(english):
    rows = list(english.judged("train", 800))
    by_place = [[rows[i].label for i in range(place, len(rows), 12)] for place in (0, 11)]
    assert abs(sum(by_place[0]) - sum(by_place[1])) / 800 < 0.25
    by_last_digit = defaultdict(list)
    for row in rows:
        by_last_digit[row.doc_id[-1]].append(row.label)
    means = [sum(labels) / len(labels) for labels in by_last_digit.values()]
    assert len(means) == 16 and max(means) - min(means) < 0.5


def test_a_doc_id_has_one_text_and_a_text_of_one_query_one_id(english):
    texts = {}
    for row in english.judged("train", 500):
        assert texts.setdefault(row.doc_id, (row.title, row.summary)) == (row.title, row.summary)
    assert len(texts) > 5000


def test_candidates_hide_the_truth_that_graded_candidates_tell(english):
    graded = list(english.graded_candidates(10))
    plain = list(english.candidates(10))
    assert [(row.query_id, row.doc_id, row.pair) for row in graded] == [
        (row.query_id, row.doc_id, row.pair) for row in plain
    ]
    assert not hasattr(plain[0], "label")


# ---- the texts -------------------------------------------------------------------------------------------------------


def test_texts_are_short_and_the_vocabulary_is_closed(english):
    words, lengths = set(), defaultdict(list)
    for click in english.clicks(6000):
        for field in ("query", "title", "summary"):
            found = re.findall(r"[\w'-]+", getattr(click, field).lower())
            lengths[field].append(len(found))
            if field != "query":
                words.update(found)
    terms = {
        word for query in islice(english.queries("clicks"), 3000) for word in " ".join(query.parts).lower().split()
    }
    assert 800 < len(words | terms) < 2000
    for field, low, high in (("query", 2, 7), ("title", 4, 11), ("summary", 9, 20)):
        counts = sorted(lengths[field])
        assert counts[len(counts) // 50] >= low and counts[-len(counts) // 50] <= high, field


@pytest.mark.parametrize("language", ["en", "zh"])
def test_titles_name_what_the_page_is_about(language):
    world = World(2, language)
    for query, documents in islice(world.lists("dev", 12), 100):
        for document in documents:
            if document.page == "content":
                text = world.catalogues[language].render(document)
                concepts = world.catalogues[language].by_form[document.vertical, document.kind].concepts
                for form in (*(concept.form for concept in concepts), *document.attributes):
                    assert form.lower() in text.title.lower(), (query, text)


def test_chinese_has_latin_letters_only_in_names_and_codes():
    world = World(0, "zh")
    names = {word for form in world.catalogues["zh"].alias_forms() for word in LATIN.findall(form)}
    rows = list(world.judged("train", 300))
    found = {word for row in rows for field in row.pair[1:] for word in LATIN.findall(field)}
    found.update(word for query in islice(world.queries("train"), 300) for word in LATIN.findall(" ".join(query.parts)))
    assert found and found <= names
    assert not any(LATIN.search(row.summary) for row in rows if not LATIN.search(row.title))
    assert all(re.search(r"[\u4e00-\u9fff]", row.title) for row in rows)


def test_mixed_has_both_languages_and_few_foreign_documents():
    languages, foreign, total = Counter(), 0, 0
    for query, documents in islice(World(0, "mixed").lists("train", 12), 600):
        languages[query.intent.language] += 1
        foreign += sum(document.language != query.intent.language for document in documents)
        total += len(documents)
    assert 0.4 < languages["en"] / 600 < 0.6 and languages["zh"] == 600 - languages["en"]
    assert 0.005 < foreign / total < 0.04


@pytest.mark.parametrize("lexicon", [lexicon_en.ENGLISH, lexicon_zh.CHINESE], ids=["en", "zh"])
def test_no_form_means_two_things_unless_listed_as_ambiguous(lexicon):
    forms = Counter()
    for tables in (lexicon.shop_kinds, lexicon.shop_attributes, lexicon.help_attributes, lexicon.travel_attributes):
        for table in tables.values():
            for form, aliases in table.items():
                forms.update((form, *aliases))
    for table in (lexicon.help_devices, lexicon.help_symptoms):
        for form, aliases in table.items():
            forms.update((form, *aliases))
    forms.update(list(lexicon.ambiguous))
    assert [form for form, count in forms.items() if count > 1] == []
    assert all(len(set(senses)) > 1 for senses in lexicon.ambiguous.values())
    world = World(0, lexicon.language)
    for senses in lexicon.ambiguous.values():
        for vertical, form in senses:
            assert world.catalogues[lexicon.language].named(vertical, form)


# ---- the noise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh"])
def test_queries_carry_aliases_typos_and_ambiguity_at_the_stated_rates(language):
    drawn = list(islice(World(0, language).queries("clicks"), 4000))
    said_otherwise = sum(len(query.aliases) for query in drawn) / sum(query.num_named for query in drawn)
    # Over ALIAS_SHARE: an invented name (a product line, an error code) is an alias without a draw.
    assert queries.ALIAS_SHARE < said_otherwise < queries.ALIAS_SHARE + 0.12
    typos = sum(query.typo for query in drawn) / len(drawn)
    # A slip may hit a word without a neighbour on the keyboard, or find only codes and short words.
    assert 0.6 * queries.TYPO_SHARE < typos < 1.2 * queries.TYPO_SHARE
    ambiguous = sum(query.ambiguous for query in drawn) / len(drawn)
    assert 0.7 * queries.AMBIGUOUS_SHARE < ambiguous < 1.3 * queries.AMBIGUOUS_SHARE


def test_an_ambiguous_query_wants_one_thing_and_finds_the_other_as_well(english):
    met = 0
    for query, documents in islice(english.lists("candidates", 12), 1500):
        if query.ambiguous:
            word = next(part for part in query.parts if part in english.catalogues["en"].lexicon.ambiguous)
            senses = english.catalogues["en"].lexicon.ambiguous[word]
            meant = {(query.intent.vertical, query.intent.kind), (query.intent.vertical, query.intent.family)}
            other = [sense for sense in senses if sense not in meant]
            assert len(other) == 1
            met += any((page.vertical, name) == other[0] for page in documents for name in (page.kind, page.family))
    assert met > 20


def test_spam_repeats_the_query_and_is_worthless(english):
    num_spam = total = 0
    per_list = Counter()
    for query, documents in islice(english.lists("train", 12), 400):
        total += len(documents)
        per_list[sum(page.page == "spam" for page in documents)] += 1
        for document in documents:
            if document.page == "spam":
                num_spam += 1
                text = english.catalogues["en"].render(document)
                assert text.title.lower().count(document.bait.lower()) == 2
                assert document.bait in queries.join_terms(query.parts)
                assert grade(query.intent, document) == 0
    assert set(per_list) == {0, 1, 2}
    # The cap of two a list takes a little off the rate of the draws.
    assert 0.65 * ROLE_PERCENT["spam"] < 100 * num_spam / total < ROLE_PERCENT["spam"]


def test_near_duplicates_differ_in_id_and_little_else(english):
    pairs = 0
    for _, documents in islice(english.lists("train", 12), 400):
        for copy in documents:
            original = copy._replace(duplicate=0)
            if copy.duplicate and original in documents:
                pairs += 1
                one, two = (english.catalogues["en"].render(document) for document in (original, copy))
                words = [set((text.title + " " + text.summary).split()) for text in (one, two)]
                assert one.doc_id != two.doc_id
                assert len(words[0] ^ words[1]) <= 6
    assert pairs > 100


@pytest.mark.parametrize(
    ("text", "swaps", "possible"),
    [
        ("sofa", {"f": "d"}, {"sfoa", "soaf", "sfa", "soa", "soofa", "soffa", "sofa", "soda"}),
        ("E17 K2", {}, {"E17 K2"}),
        ("登山鞋", {"鞋": "邪"}, {"登山邪"}),
        ("书柜", {}, {"柜书"}),
    ],
)
def test_mistype(text, swaps, possible):
    assert {mistype(random.Random(seed), text, swaps) for seed in range(200)} == possible


# ---- what makes the world worth learning -----------------------------------------------------------------------------


def test_word_overlap_is_better_than_chance_and_far_from_perfect(english):
    rng = random.Random(0)
    by_chance, by_overlap = [], []
    for _, group in groupby(english.judged("test", 400), key=lambda row: row.query_id):
        rows = list(group)
        rng.shuffle(rows)
        words = set(rows[0].query.lower().split())
        overlap = [len(words & set(re.findall(r"[\w-]+", (row.title + " " + row.summary).lower()))) for row in rows]
        by_chance.append(ndcg([row.label for row in rows]))
        order = sorted(range(len(rows)), key=overlap.__getitem__, reverse=True)
        by_overlap.append(ndcg([rows[i].label for i in order]))
    chance, found = sum(by_chance) / 400, sum(by_overlap) / 400
    assert 0.45 < chance < 0.65
    assert chance + 0.02 < found < 0.75


def test_judgments_reveal_few_aliases_and_clicks_nearly_all(english):
    forms = english.catalogues["en"].alias_forms()
    assert len(forms) > 500

    def used(stream, count):
        return {alias for query in islice(english.queries(stream), count) for alias in query.aliases}

    wanted = used("test", 300)
    assert wanted <= forms
    assert len(used("train", 150) & wanted) / len(wanted) < 0.5
    num_rows, clicked = 0, set()
    for shown in english.impressions():
        if any(shown.reactions.clicks):
            clicked.update(shown.query.aliases)
        num_rows += sum(count > 0 for count in shown.reactions.clicks)
        if num_rows >= 40_000 // 4:
            break
    # A quarter of the click log is enough.
    assert len(clicked & wanted) / len(wanted) > 0.95


def test_splits_are_different_streams_of_one_distribution(english):
    assert not {row.query_id for row in english.judged("train", 50)} & {
        row.query_id for row in english.judged("test", 50)
    }
    shares = []
    for stream in ("train", "test"):
        drawn = list(islice(english.queries(stream), 2000))
        shares.append(Counter(query.intent.vertical for query in drawn))
        assert len({query.text for query in drawn}) > 1700
    assert all(abs(shares[0][vertical] - shares[1][vertical]) < 150 for vertical in shares[0])


# ---- users -----------------------------------------------------------------------------------------------------------


def test_click_rate_falls_with_position_at_equal_grade(shown_lists):
    clicks, views = Counter(), Counter()
    for shown in shown_lists:
        for place, (label, page) in enumerate(zip(shown.grades, shown.documents, strict=True)):
            if page.page == "content":
                clicks[label, place] += shown.reactions.clicks[place]
                views[label, place] += shown.reactions.num_shown
    for label in (2, 4):
        rates = [clicks[label, place] / views[label, place] for place in (0, 2, 4, 6)]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] == pytest.approx(click_model.CLICK_PROBABILITY[label], rel=0.1)
        assert rates[-1] < 0.5 * rates[0]
    in_the_middle = [clicks[label, 3] / views[label, 3] for label in range(5)]
    assert in_the_middle == sorted(in_the_middle)


def test_dwell_grows_with_grade_and_spam_is_left_at_once(shown_lists):
    seconds, clicks = Counter(), Counter()
    for shown in shown_lists:
        for place, (label, page) in enumerate(zip(shown.grades, shown.documents, strict=True)):
            key = "spam" if page.page == "spam" else label
            seconds[key] += shown.reactions.dwell_seconds[place]
            clicks[key] += shown.reactions.clicks[place]
    means = [seconds[key] / clicks[key] for key in ("spam", 0, 1, 2, 3, 4)]
    assert means == sorted(means)
    assert clicks["spam"] > 100
    # The mean of a log-normal is its median times exp(sigma^2 / 2).
    factor = math.exp(click_model.DWELL_SIGMA**2 / 2)
    assert means[-1] == pytest.approx(click_model.DWELL_MEDIAN_SECONDS[4] * factor, rel=0.05)


def test_reading_on_has_the_stated_probability():
    rng = random.Random(1)
    shown, reached = 0, 0
    for _ in range(3000):
        # Nobody stays at grade 0, so the last document is seen with probability EXAMINE_CONTINUE ** 3, nearly.
        reactions = browse(rng, [0, 0, 0, 4])
        shown, reached = shown + reactions.num_shown, reached + reactions.clicks[3]
    expected = click_model.EXAMINE_CONTINUE**3 * click_model.CLICK_PROBABILITY[4]
    assert reached / shown == pytest.approx(expected, rel=0.05)


def test_the_shown_order_prefers_good_pages_and_is_fooled_by_spam():
    first = Counter(shown_order(random.Random(seed), [0, 4, 2, SPAM])[0] for seed in range(500))
    assert first[1] > 350 and first[0] < first[2] and first[0] < first[3]


def test_click_rows_are_in_range_and_mostly_good(english):
    grades = Counter()
    for click, label in islice(english.graded_clicks(), 5000):
        assert 1 <= click.clicks <= click.impressions <= click_model.MAX_SHOWN
        assert 1 <= click.position <= click_model.LIST_LENGTH
        assert click.dwell_seconds > 0
        grades[label] += 1
    assert grades[4] + grades[3] > 0.65 * 5000
    assert grades[0] > 0


def test_the_click_stream_needs_constant_memory():
    world = World(0, "en")
    for _ in world.clicks(500):
        pass
    tracemalloc.start()
    for _ in world.clicks(5000):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000
