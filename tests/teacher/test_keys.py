"""Content keys in bulk: the same bits as `pair_key`, first occurrences, look-ups with colliding halves."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from disranker.schema import Pair, pair_key
from disranker.teacher.keys import KeyIndex, first_of_each, id_keys, keys_from_bytes, keys_of, keys_to_bytes
from tests.tiny import PAIRS

# Halves from a tiny range, so that whole keys repeat and halves collide.
KEYS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40).map(
    lambda rows: np.array(rows, dtype=np.uint64).reshape(-1, 2)
)


def test_a_key_is_that_of_the_schema() -> None:
    keys = keys_of(PAIRS)
    assert (keys.dtype, keys.shape) == (np.uint64, (len(PAIRS), 2))
    assert [f"{high:016x}{low:016x}" for high, low in keys.tolist()] == [pair_key(pair) for pair in PAIRS]
    assert keys_to_bytes(keys) == b"".join(bytes.fromhex(pair_key(pair)) for pair in PAIRS)
    assert keys_of([]).shape == (0, 2)


def test_ids_are_not_joined_before_they_are_hashed() -> None:
    first, second = id_keys(["ab", "a"], ["c", "bc"]).tolist()
    assert first != second
    assert id_keys(["q"], ["d"]).tolist() == keys_of([Pair("q", "d", "")]).tolist()


@given(KEYS)
def test_bytes_and_back(keys: np.ndarray) -> None:
    assert keys_from_bytes(keys_to_bytes(keys)).tolist() == keys.tolist()


@given(KEYS)
def test_first_occurrences(keys: np.ndarray) -> None:
    rows = [tuple(row) for row in keys.tolist()]
    assert first_of_each(keys).tolist() == [row not in rows[:at] for at, row in enumerate(rows)]


@given(KEYS, KEYS)
def test_the_index_finds_the_first_row_or_none(keys: np.ndarray, wanted: np.ndarray) -> None:
    rows = [tuple(row) for row in keys.tolist()]
    index = KeyIndex(keys)
    assert len(index) == len(rows)
    assert index.find(wanted).tolist() == [
        rows.index(key) if (key := tuple(w)) in rows else -1 for w in wanted.tolist()
    ]
