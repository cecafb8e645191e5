"""Content keys in bulk: the 128 bits of `schema.pair_key` as two columns of a numpy array, never as strings.

`keys` is [N, 2] uint64 everywhere: the first and the second 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from disranker.schema import Pair, pair_key

Keys: TypeAlias = NDArray[np.uint64]
KEY_BYTES = 16


def keys_of(pairs: Iterable[Pair]) -> Keys:
    """[N, 2] keys of pairs by their texts."""
    return keys_from_bytes(bytes.fromhex("".join(map(pair_key, pairs))))


def id_keys(query_ids: Iterable[str], doc_ids: Iterable[str]) -> Keys:
    """[N, 2] keys of (query_id, doc_id), hashed as the texts of a pair are."""
    return keys_of(Pair(query_id, doc_id, "") for query_id, doc_id in zip(query_ids, doc_ids, strict=True))


def keys_from_bytes(raw: bytes | memoryview) -> Keys:
    """Keys that lie one after the other, 16 bytes each, the highest byte first."""
    return np.frombuffer(raw, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def keys_to_bytes(keys: Keys) -> bytes:
    """The inverse of `keys_from_bytes`."""
    return keys.astype(">u8").tobytes()


def first_of_each(keys: Keys) -> NDArray[np.bool_]:
    """[N] whether a key stands at this row for the first time."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: among equal keys the earliest row leads
    ordered = keys[order]
    first = np.ones(len(keys), dtype=bool)
    first[order[1:]] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return first


class KeyIndex:
    """From keys to the rows where they stand; 24 bytes a row."""

    def __init__(self, keys: Keys) -> None:
        self._order = np.argsort(keys[:, 0], kind="stable")
        self._high, self._low = keys[self._order, 0], keys[self._order, 1]

    def __len__(self) -> int:
        return len(self._high)

    def find(self, wanted: Keys) -> NDArray[np.int64]:
        """[len(wanted)] the first row of each key, -1 where there is none."""
        rows = np.full(len(wanted), -1, dtype=np.int64)
        at = np.searchsorted(self._high, wanted[:, 0])
        left = np.flatnonzero(at < len(self))
        # One round, but for keys whose first halves agree: of ten million, two do with probability 3e-6.
        while len(left):
            left = left[self._high[at[left]] == wanted[left, 0]]
            same = self._low[at[left]] == wanted[left, 1]
            rows[left[same]] = self._order[at[left[same]]]
            left = left[~same]
            at[left] += 1
            left = left[at[left] < len(self)]
        return rows
