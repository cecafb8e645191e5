"""Which documents of an answer are uncertain, what the teacher's second look makes of the order, and a file of them.

The rules and the merge are those of `disranker.evaluation.cascade`, for one query at a time, so that a threshold that
was chosen in a report means the same here; a cap for each request comes on top.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from disranker.schema import Pair


def find_uncertain(
    scores: NDArray[np.float32],
    *,
    rule: Literal["band", "margin", "depth"],
    threshold: float,
    cut: int,
    max_documents: int,
) -> list[int]:
    """The documents of one query that the student is not sure of, by index, the most uncertain first; two or none.

    `scores` are the student's raw ones.  One document alone could only take its own place back.  Of more than
    `max_documents` those stay that are nearest to the cut: by score (band), by position (margin), the first (depth).
    """
    order = np.argsort(-scores, kind="stable")
    if len(order) < 2:
        return []
    ordered = scores[order].astype(np.float64)
    above = max(min(cut, len(order) - 1) - 1, 0)
    middle = (ordered[above] + ordered[above + 1]) / 2
    positions = np.arange(len(order))
    if rule == "band":
        nearness = np.abs(ordered - middle)
        uncertain = nearness <= threshold
    elif rule == "margin":
        nearness = np.abs(positions - above - 0.5)
        uncertain = np.full(len(order), ordered[above] - ordered[above + 1] <= threshold)
    else:
        nearness = positions.astype(np.float64)
        uncertain = positions < threshold
    places = [place for place in np.argsort(nearness, kind="stable").tolist() if uncertain[place]][:max_documents]
    return [int(order[place]) for place in places] if len(places) > 1 else []


def merge(
    scores: NDArray[np.float32], uncertain: Sequence[int], teacher_scores: NDArray[np.float32]
) -> tuple[list[int], NDArray[np.float32]]:
    """The order of the cascade, best first, and the score that each document has in it.

    The documents that the teacher scored share out among themselves, in the teacher's order, the places that the
    student gave them, and with a place its score; so scores stay on the student's scale and fall along the order.
    """
    order: NDArray[np.int64] = np.argsort(-scores, kind="stable")
    places = np.flatnonzero(np.isin(order, uncertain))
    # Ties of the teacher go by the student's order.
    teacher_of = dict(zip(uncertain, teacher_scores.tolist(), strict=True))
    by_teacher = sorted(order[places].tolist(), key=lambda index: -teacher_of[index])
    merged = order.copy()
    merged[places] = by_teacher
    shared = scores.copy()
    shared[merged] = scores[order]
    return merged.tolist(), shared


class UncertainFile:
    """A JSONL file that uncertain pairs are appended to, each once: candidates with the scores that they got.

    `query_id` and `doc_id` are hashes of the texts, so the same pair has the same ids in every process.  One thread at
    a time may append.  A last line that a crash cut short is taken away when the file is opened again.
    """

    def __init__(self, path: str | Path, *, max_bytes: int) -> None:
        self.path = Path(path)
        self.max_bytes = max_bytes
        self._seen = set(self._read_keys())
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, pairs: Sequence[Pair], scores: Sequence[float], teacher_scores: Sequence[float] | None) -> int:
        """Append the pairs that are new; how many there were.  Nothing is written beyond `max_bytes`.

        `scores` are the student's, `teacher_scores` the teacher's if it was asked.  Pairs without a document are left
        out, since no reader takes them.
        """
        lines: dict[tuple[str, str], bytes] = {}
        for at, pair in enumerate(pairs):
            key = _text_id(pair.query), _text_id(f"{pair.title}\x1f{pair.summary}")
            if key in self._seen or not (pair.title + pair.summary).strip():
                continue
            row: dict[str, Any] = {"query_id": key[0], "doc_id": key[1], **pair._asdict(), "score": scores[at]}
            if teacher_scores is not None:
                row["teacher_score"] = teacher_scores[at]
            lines[key] = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8")
        size = self.path.stat().st_size if self.path.exists() else 0
        if not lines or size + sum(map(len, lines.values())) > self.max_bytes:
            return 0
        with self.path.open("ab") as file:
            try:
                file.write(b"".join(lines.values()))
                file.flush()
            except OSError:
                # A full disk takes a part of a line, and no reader takes that.
                os.truncate(self.path, size)
                raise
        # What was not written is not remembered either: a server that runs for months would fill its memory with it.
        self._seen.update(lines)
        return len(lines)

    def _read_keys(self) -> list[tuple[str, str]]:
        if not self.path.exists():
            return []
        keys: list[tuple[str, str]] = []
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and keys:
                    os.truncate(self.path, whole)
                    break
                try:
                    row = json.loads(line)
                    keys.append((row["query_id"], row["doc_id"]))
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{self.path}:{number} is no row of uncertain pairs ({error!r}): remove the line, or name "
                        "another file"
                    ) from error
                whole += len(line)
        return keys


def _text_id(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8).hexdigest()
