"""What a parser remembers of the rows it has read: pairs that came before, and the text of every query_id.

Small on purpose: a judged file has millions of pairs, a candidates file a hundred million.
"""

from __future__ import annotations

from array import array

from disranker.data.faults import Fault, shown


class SeenPairs:
    """The pairs met so far with their labels, to find the pair that comes twice.

    Kept per query: 8 bytes of hash and 1 byte of label a pair.  The query at hand has a dict besides, so files that are
    grouped by query are fast; in others a query that comes back is looked up again, at a cost of its number of pairs.
    """

    def __init__(self) -> None:
        self._pairs: dict[str, tuple[array[int], array[int]]] = {}
        self._current_id: str | None = None
        self._current: dict[int, int] = {}

    def find_fault(self, path: str, line: int, query_id: str, doc_id: str, label: int | None) -> Fault | None:
        """Remember a pair; its fault if it was there before.  Labels are 0..255, None where the file has none."""
        if query_id != self._current_id:
            hashes, labels = self._pairs.setdefault(query_id, (array("q"), array("B")))
            self._current_id, self._current = query_id, dict(zip(hashes, labels, strict=True))
        # hash() differs between processes, but this one never leaves the process; 64 bits per query do not collide.
        key = hash(doc_id)
        earlier = self._current.get(key)
        if earlier is None:
            self._current[key] = label or 0
            hashes, labels = self._pairs[query_id]
            hashes.append(key)
            labels.append(label or 0)
            return None
        what = f"query_id {shown(query_id)} with doc_id {shown(doc_id)}"
        if label is not None and label != earlier:
            return Fault(
                "conflict", path, line, f"{what} has label {label} here and {earlier} before", "keep one label"
            )
        same = "" if label is None else f" with the same label {label}"
        return Fault("duplicate", path, line, f"{what} is there twice{same}", "remove this row, nothing is lost")


class SeenQueries:
    """The text of every query_id met so far, as a hash and the place where it stood first."""

    def __init__(self) -> None:
        self._texts: dict[str, tuple[int, str, int]] = {}

    def find_fault(self, path: str, line: int, query_id: str, query: str) -> Fault | None:
        """Remember a query's text; the fault if the same query_id had another one."""
        first_hash, first_path, first_line = self._texts.setdefault(query_id, (hash(query), path, line))
        if first_hash == hash(query):
            return None
        what = f"query_id {shown(query_id)} is {shown(query)} here and another text at {first_path}:{first_line}"
        return Fault("conflict", path, line, what, "give each query text its own query_id")
