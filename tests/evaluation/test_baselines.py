"""Random order and BM25: values by hand, both scripts, and independence from the order of the rows."""

import math

import numpy as np
import pytest

from disranker.evaluation.baselines import bm25_scores, random_scores, tokenize
from disranker.schema import Candidate, Pair


def test_random_scores_depend_on_the_keys_and_the_seed_alone():
    rows = [Candidate(f"q{index % 20}", f"d{index}", "", "", "") for index in range(400)]
    scores = random_scores(rows, seed=1)
    assert scores.dtype == np.float32
    assert np.array_equal(random_scores(rows[::-1], seed=1)[::-1], scores)
    assert not np.array_equal(random_scores(rows, seed=2), scores)
    assert scores.min() >= 0
    assert scores.mean() == pytest.approx(0.5, abs=0.05)


def test_words_of_several_scripts():
    assert tokenize("Red SHOES, size-42!") == ["red", "shoes", "size", "42"]
    assert tokenize("东京塔 iPhone15") == ["东", "京", "塔", "东京", "京塔", "iphone15"]
    assert tokenize("买iphone手机") == ["买", "iphone", "手", "机", "手机"]
    assert tokenize("\uff26\uff55\uff4c\uff4c width") == ["full", "width"]
    assert tokenize("한국어 서울") == ["한국어", "서울"]
    assert tokenize(" _ … ") == []


def test_bm25_by_hand():
    rows = [Pair("shoes", "red shoes", ""), Pair("shoes", "blue hat", "of wool"), Pair("shoes", "shoes shoes", "here")]
    lengths, mean = [2, 4, 3], 3.0
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = [
        idf * count / (count + 1.2 * (1 - 0.75 + 0.75 * length / mean)) if count else 0.0
        for count, length in zip([1, 0, 2], lengths, strict=True)
    ]
    assert bm25_scores(rows).tolist() == pytest.approx(expected, rel=1e-6)


def test_bm25_finds_chinese_and_english_documents():
    texts = [("东京塔门票", "在线购买"), ("大阪城", "樱花时节"), ("Cheap flights", "to Tokyo")]
    for query, best in [("东京塔", 0), ("樱花", 1), ("cheap FLIGHTS", 2)]:
        scores = bm25_scores([Pair(query, *text) for text in texts])
        assert int(scores.argmax()) == best
        assert np.count_nonzero(scores) == 1


def test_bm25_does_not_depend_on_the_order_or_on_repeated_rows():
    rng = np.random.default_rng(0)
    words = ["red", "blue", "green", "shoes", "hat", "coat", "wool", "warm", "cheap"]
    rows = [Pair(*(" ".join(rng.choice(words, size)) for size in (2, 3, 6))) for _ in range(60)]
    scores = bm25_scores(rows)
    order = rng.permutation(60)
    assert np.array_equal(bm25_scores([rows[index] for index in order]), scores[order])
    assert np.array_equal(bm25_scores(rows + rows)[60:], scores)


def test_bm25_gives_zero_where_nothing_can_match():
    assert bm25_scores([Pair("", "a", "b"), Pair("…", "a", "b"), Pair("zzz", "a", "b")]).tolist() == [0, 0, 0]
    assert bm25_scores([Pair("a", "", "")]).tolist() == [0]
    assert bm25_scores([]).tolist() == []
