"""Documents whose texts are nearly the same, found by MinHash over millions of texts.

A text, normalised (NFKC, case folded, white space joined), is the set of its pieces of 5 characters, which works for
languages with and without spaces.  The share of 64 hash functions whose smallest value two sets have in common
estimates their Jaccard similarity with a standard error of sqrt(s (1 - s) / 64) (Broder, On the Resemblance and
Containment of Documents, 1997).  8 bits are kept of each smallest value, so that unlike ones agree in 1 of 256 cases,
which the estimate corrects for (Li, Koenig, b-Bit Minwise Hashing, WWW 2010, https://arxiv.org/abs/0910.3349).

Compared are documents that agree in one of 16 bands, the rows and columns of the 64 values as a square of 8 x 8, each
with the one of highest priority in its band: no number of documents makes a quadratic number of comparisons.  Of pairs
of similarity 0.9 this meets practically all, of similarity 0.8 some 95 in 100.

State: 64 bytes a document.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

# Shapes: N documents, K hash functions.

NUM_HASHES = 64
PIECE_CHARS = 5
_SIDE = 8  # of the square; its lines are bands
_CHARS_PER_BLOCK = 1 << 16  # what fits the cache of a processor core
_ROWS_PER_BLOCK = 1 << 16
_DOCUMENTS_AT_ONCE = 1 << 20  # that are sorted; they take 60 bytes each while they are
_LIKE_BY_CHANCE = 1 / 256

_RNG = np.random.default_rng(0)
_FLIPS_K = _RNG.integers(1 << 32, size=NUM_HASHES, dtype=np.uint32)
_FACTORS_K = _RNG.integers(1 << 32, size=NUM_HASHES, dtype=np.uint32) | np.uint32(1)  # odd: a permutation of 32 bits


def normalise(text: str) -> str:
    """A text without what readers do not see: forms of the same letters, case, white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def sign(texts: Iterable[str], num_texts: int) -> NDArray[np.uint8]:
    """The signatures [N, K] of a stream of `num_texts` texts, at constant memory beside them."""
    signatures_NK = np.empty((num_texts, NUM_HASHES), dtype=np.uint8)
    block: list[str] = []
    done = num_chars = 0
    for text in texts:
        block.append(normalise(text).ljust(PIECE_CHARS))
        num_chars += len(block[-1])
        if num_chars >= _CHARS_PER_BLOCK:
            _sign_block(block, signatures_NK[done : done + len(block)])
            done, num_chars, block = done + len(block), 0, []
    if block:
        _sign_block(block, signatures_NK[done : done + len(block)])
    return signatures_NK


def _sign_block(texts: Sequence[str], out_NK: NDArray[np.uint8]) -> None:
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in texts])
    num_starts = len(codes) - PIECE_CHARS + 1
    pieces = np.zeros(num_starts, dtype=np.uint64)
    for at in range(PIECE_CHARS):
        pieces = mix(pieces + codes[at : at + num_starts])
    # Not those that begin in one text and end in the next.
    inside = np.arange(num_starts) + PIECE_CHARS <= np.repeat(np.cumsum(lengths), lengths)[:num_starts]
    hashes = (pieces[inside] >> np.uint64(32)).astype(np.uint32)
    num_pieces = lengths - PIECE_CHARS + 1
    starts = np.cumsum(num_pieces) - num_pieces
    for k in range(NUM_HASHES):
        smallest = np.minimum.reduceat((hashes ^ _FLIPS_K[k]) * _FACTORS_K[k], starts)
        # 8 bits that hang on all 32.  The lowest 8 of a product hang on the lowest 8 of the piece's hash alone: texts
        # of one piece each that agreed in those agreed in all functions, and of 5,000 such strangers 256 were left.
        smallest ^= smallest >> np.uint32(16)
        out_NK[:, k] = (smallest ^ (smallest >> np.uint32(8))).astype(np.uint8)


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each 64-bit value hashed (the finaliser of SplitMix64: Steele, Lea, Flood, OOPSLA 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def similarities(signatures_NK: NDArray[np.uint8], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
    """The estimated Jaccard similarity of documents a[i] and b[i]; a little below 0 where nothing is alike."""
    found = np.empty(len(a))
    for begin in range(0, len(a), _ROWS_PER_BLOCK):
        block = slice(begin, begin + _ROWS_PER_BLOCK)
        found[block] = (signatures_NK[a[block]] == signatures_NK[b[block]]).mean(axis=1)
    return (found - _LIKE_BY_CHANCE) / (1 - _LIKE_BY_CHANCE)


def find_near_duplicates(
    signatures_NK: NDArray[np.uint8], priority_N: NDArray[np.int32], similarity: float
) -> NDArray[np.bool_]:
    """[N] whether a document is at least so similar to one that stays and has a lower number in `priority_N`.

    Each is held against the most important one that it was found to be like; if that is itself left out, it stays, so
    that no chain of small differences leads far.
    """
    num_documents = len(signatures_NK)
    like_N = np.arange(num_documents, dtype=np.int32)  # the most important document that each was found to be like
    for band in range(2 * _SIDE):
        line = slice(_SIDE * band, _SIDE * (band + 1)) if band < _SIDE else slice(band - _SIDE, None, _SIDE)
        for documents in _parts(np.ascontiguousarray(signatures_NK[:, line.start])):
            keys = np.ascontiguousarray(signatures_NK[documents, line]).view(np.uint64)[:, 0]
            members, leaders = _meet(documents, keys, priority_N)
            better = priority_N[leaders] < priority_N[like_N[members]]
            members, leaders = members[better], leaders[better]
            alike = similarities(signatures_NK, members, leaders) >= similarity
            like_N[members[alike]] = leaders[alike]
    left_out = np.zeros(num_documents, dtype=np.bool_)
    has_like = like_N != np.arange(num_documents)
    while True:
        # What a document is like is more important than it, so this comes to rest after the longest chain.
        now = has_like & ~left_out[like_N]
        if (now == left_out).all():
            return left_out
        left_out = now


def _parts(values_N: NDArray[np.uint8]) -> Iterator[NDArray[np.int64]]:
    """All documents in parts that can be sorted one by one: those of the same value are in the same part."""
    num_parts = min(256, 1 + len(values_N) // _DOCUMENTS_AT_ONCE)
    part_N = (values_N.astype(np.uint16) * num_parts >> 8).astype(np.uint8)
    for part in range(num_parts):
        yield np.flatnonzero(part_N == part)


def _meet(
    documents: NDArray[np.int64], keys: NDArray[np.uint64], priority_N: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Those of the documents that share their key with others, and for each the most important one with that key."""
    order = np.argsort(keys)
    arranged = keys[order]
    starts = np.ones(len(order), dtype=np.bool_)
    np.not_equal(arranged[1:], arranged[:-1], out=starts[1:])
    shared = ~starts
    shared[:-1] |= ~starts[1:]
    members, starts = documents[order[shared]], starts[shared]
    group = np.cumsum(starts) - 1
    members = members[np.lexsort((priority_N[members], group))]
    return members, members[np.flatnonzero(starts)[group]]
