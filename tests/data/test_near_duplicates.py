"""Near-duplicates: the estimate against the exact similarity, planted copies among strangers, and who stays."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from disranker.data.near_duplicates import NUM_HASHES, find_near_duplicates, normalise, sign, similarities

LETTERS = "abcdefghijklmnopqrstuvwxyz     "


def random_text(rng: np.random.Generator, num_chars: int = 300) -> str:
    return "".join(rng.choice(list(LETTERS), num_chars))


def jaccard(a: str, b: str) -> float:
    sets = [{text[i : i + 5] for i in range(max(1, len(text) - 4))} for text in (normalise(a), normalise(b))]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def numbers(count: int) -> NDArray[np.int32]:
    return np.arange(count, dtype=np.int32)


def test_the_estimate_is_unbiased_and_has_the_stated_error() -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for share in np.linspace(0, 1, 400):
        text = random_text(rng)
        cut = int(len(text) * share)
        pairs.append((text, text[:cut] + random_text(rng, len(text) - cut)))
    exact = np.array([jaccard(a, b) for a, b in pairs])
    signatures = sign((text for pair in pairs for text in pair), 800)
    errors = similarities(signatures, numbers(400) * 2, numbers(400) * 2 + 1) - exact
    assert abs(errors.mean()) < 0.005
    assert errors.std() == pytest.approx(np.sqrt((exact * (1 - exact)).mean() / NUM_HASHES), rel=0.15)


def test_what_readers_do_not_see_makes_no_difference() -> None:
    texts = ["Rote  Schuhe, Größe 40", " rote schuhe,\ngröße 40", "ＲＯＴＥ schuhe, größe 40", "rote schuhe, größe 41"]
    signatures = sign(iter(texts), 4)
    assert (signatures[0] == signatures[1]).all()
    assert (signatures[0] == signatures[2]).all()
    assert (signatures[0] != signatures[3]).any()


def test_texts_in_one_block_and_in_many_have_the_same_signatures() -> None:
    rng = np.random.default_rng(1)
    texts = ["", "a", "红色的鞋", "abcde", *(random_text(rng, int(rng.integers(1, 40_000))) for _ in range(12))]
    together = sign(iter(texts), len(texts))
    assert [row.tolist() for row in together] == [sign(iter([text]), 1)[0].tolist() for text in texts]
    assert sign(iter([]), 0).shape == (0, NUM_HASHES)


def test_planted_copies_are_found_and_strangers_stay() -> None:
    rng = np.random.default_rng(2)
    originals = [random_text(rng) for _ in range(400)]
    copies = [text[:150] + "#" + text[151:] for text in originals[:200]]  # 5 of 296 pieces differ: 0.967
    assert min(jaccard(a, b) for a, b in zip(originals, copies, strict=False)) > 0.93
    signatures = sign(iter(originals + copies), 600)
    left_out = find_near_duplicates(signatures, numbers(600), 0.85)
    assert not left_out[:400].any()
    assert left_out[400:].sum() >= 198
    # with the copies more important than what they were copied from, it is the originals that go
    turned = find_near_duplicates(signatures, numbers(600)[::-1].copy(), 0.85)
    assert not turned[200:].any()
    assert (turned[:200] == left_out[400:]).all()


@pytest.mark.parametrize("num_chars", [3, 5, 6, 8])
def test_strangers_of_a_few_characters_stay(num_chars: int) -> None:
    """A title in Chinese may be one piece, of which there is nothing but its hash to tell it from others."""
    rng = np.random.default_rng(4)
    codes = rng.integers(ord("一"), ord("一") + 6000, size=(2000, num_chars))
    texts = sorted({"".join(map(chr, row)) for row in codes})
    assert len(texts) > 1990
    assert not find_near_duplicates(sign(iter(texts), len(texts)), numbers(len(texts)), 0.8).any()


def test_recall_is_as_the_bands_promise() -> None:
    """Signatures that agree in a share s of their values, drawn one by one; the leader is always the original."""
    rng = np.random.default_rng(3)
    promised = {0.95: 0.99, 0.9: 0.99, 0.85: 0.97, 0.8: 0.9}
    for share, least in promised.items():
        originals = rng.integers(256, size=(1000, NUM_HASHES), dtype=np.uint8)
        agree = rng.random(originals.shape) < share
        copies = np.where(agree, originals, originals + rng.integers(1, 256, originals.shape, dtype=np.uint8))
        met = find_near_duplicates(np.concatenate([originals, copies.astype(np.uint8)]), numbers(2000), 0.5)
        assert met[1000:].mean() >= least
        assert not met[:1000].any()


def test_a_chain_of_small_differences_leads_not_far() -> None:
    rows = np.zeros((3, NUM_HASHES), dtype=np.uint8)
    rows[1, :4] = 1  # like row 0 by 60 / 64
    rows[2, :8] = 1  # like row 1 by 60 / 64, like row 0 by 56 / 64
    assert find_near_duplicates(rows, numbers(3), 0.9).tolist() == [False, True, False]
    assert find_near_duplicates(rows, np.array([1, 0, 2], dtype=np.int32), 0.9).tolist() == [True, False, True]
    assert find_near_duplicates(rows, numbers(3), 0.85).tolist() == [False, True, True]


def test_no_document_and_one() -> None:
    assert find_near_duplicates(sign(iter([]), 0), numbers(0), 0.9).tolist() == []
    assert find_near_duplicates(sign(iter(["x"]), 1), numbers(1), 0.9).tolist() == [False]


def test_documents_sorted_in_parts_are_those_sorted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    originals = [random_text(rng, 200) for _ in range(100)]
    copies = [text[:at] + "#" + text[at + 1 :] for text in originals for at in rng.integers(0, 200, 5).tolist()]
    signatures = sign(iter(originals + copies), 600)
    priority = rng.permutation(600).astype(np.int32)
    at_once = find_near_duplicates(signatures, priority, 0.9)
    assert 300 < at_once.sum() < 600
    for size in (1, 37, 300):
        monkeypatch.setattr("disranker.data.near_duplicates._DOCUMENTS_AT_ONCE", size)
        assert (find_near_duplicates(signatures, priority, 0.9) == at_once).all()
