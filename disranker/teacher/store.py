"""The store: a teacher's raw fp32 scores on disk, Parquet shards and a manifest.

A store belongs to one teacher (its fingerprint covers weights, template and lengths) and one input; whatever differs is
refused.  Shard i holds the i-th block of distinct pairs of the input, so the same run makes the same bytes, a killed
run goes on with the shards it lacks, and identical texts are scored once.  Training looks scores up by content.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from disranker.data.readers import write_records
from disranker.schema import Candidate, Pair, TeacherScore, pair_key
from disranker.shards import MANIFEST_NAME, check_same, read_manifest, write_manifest

_IDENTITY = ("format", "teacher", "input", "pairs_per_shard")


class Store:
    """A finished store, opened for reading."""

    def __init__(self, folder: str | Path) -> None:
        """Open a store and its score index.

        Raises:
            ValueError: the folder is no store, or its scoring run is not finished.
        """
        self.folder = Path(folder)
        if not (self.folder / MANIFEST_NAME).exists():
            raise ValueError(f"{folder} is no store: it has no {MANIFEST_NAME}; rank/score.py writes stores")
        self.manifest = read_manifest(folder)
        if not self.manifest["complete"]:
            raise ValueError(f"{folder} is not finished: run rank/score.py again, it goes on with what is missing")
        columns = [_read_shard(self.folder / name) for name in self.manifest["shards"]]
        keys = np.concatenate([keys for keys, _ in columns])
        scores = np.concatenate([scores for _, scores in columns])
        order = np.argsort(keys, kind="stable")
        self._keys, self._scores = keys[order], scores[order]

    def __len__(self) -> int:
        return len(self._keys)

    def lookup(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """[len(pairs)] raw teacher scores.

        Raises:
            ValueError: a pair has no score in the store; the first few are named.
        """
        wanted = np.array([_short_key(pair_key(pair)) for pair in pairs], dtype=np.uint64)
        at = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        missing = np.flatnonzero(self._keys[at] != wanted)
        if len(missing):
            named = "; ".join(f"{pairs[row].query!r} → {pairs[row].title!r}" for row in missing[:3])
            raise ValueError(
                f"{len(missing):,} of {len(pairs):,} pairs have no teacher score in {self.folder}, first: {named}; "
                "score these candidates with rank/score.py"
            )
        return self._scores[at]

    def standardised(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """[len(pairs)] teacher scores with mean 0 and standard deviation 1 over the whole store."""
        stats = self.manifest["scores"]
        return ((self.lookup(pairs) - stats["mean"]) / stats["std"]).astype(np.float32)


def begin_store(folder: str | Path, teacher: dict[str, Any], input_hash: str, pairs_per_shard: int) -> None:
    """Write the manifest of a new store, or make sure that the one there is of the same teacher and input.

    Raises:
        ValueError: it is not, and every difference is named; or there are shards without a manifest.
    """
    manifest = {"format": 1, "teacher": teacher, "input": input_hash, "pairs_per_shard": pairs_per_shard}
    if (Path(folder) / MANIFEST_NAME).exists():
        found = read_manifest(folder)
        check_same(manifest, {name: found[name] for name in _IDENTITY}, folder)
    elif any(Path(folder).glob("scores-*.parquet")):
        raise ValueError(
            f"{folder} holds shards but no {MANIFEST_NAME} that says whose they are; remove it or use another"
        )
    else:
        write_manifest(folder, {**manifest, "complete": False})


def shard_path(folder: str | Path, index: int) -> Path:
    """Where shard `index` is, or will be once it is whole."""
    return Path(folder) / f"scores-{index:06}.parquet"


def write_shard(path: Path, candidates: Sequence[Candidate], scores: NDArray[np.float32]) -> None:
    """Write one shard, atomically.

    Raises:
        ValueError: a score is NaN or infinite; the first few pairs are named.
    """
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        named = ", ".join(f"({candidates[row].query_id}, {candidates[row].doc_id})" for row in wrong[:3])
        raise ValueError(f"the teacher's score of {len(wrong)} pairs is not finite, first: {named}")
    rows = (
        TeacherScore(candidate.query_id, candidate.doc_id, pair_key(candidate.pair), float(score))
        for candidate, score in zip(candidates, scores, strict=True)
    )
    write_records(path, TeacherScore, rows)


def finish_store(folder: str | Path, num_shards: int, num_candidates: int) -> dict[str, Any]:
    """Check that every shard is there and every pair once, then mark the store complete; its manifest.

    Raises:
        ValueError: there is none, a shard is missing, a pair stands twice, or all scores are equal.
    """
    if num_shards == 0:
        raise ValueError("no candidate was read: there is nothing to score")
    paths = [shard_path(folder, index) for index in range(num_shards)]
    absent = [path.name for path in paths if not path.exists()]
    if absent:
        raise ValueError(f"{folder} lacks {len(absent)} of {num_shards} shards, first {absent[0]}")
    columns = [_read_shard(path) for path in paths]
    keys = np.concatenate([keys for keys, _ in columns])
    scores = np.concatenate([scores for _, scores in columns]).astype(np.float64)
    if len(np.unique(keys)) != len(keys):
        raise ValueError(f"{folder} holds a pair twice; remove the folder and score again")
    if scores.std() == 0.0:
        raise ValueError(f"the teacher gives every pair the same score ({scores[0]:g}): it has learned nothing")
    manifest = {
        **{name: value for name, value in read_manifest(folder).items() if name in _IDENTITY},
        "complete": True,
        "shards": [path.name for path in paths],
        "num_candidates": num_candidates,
        "num_pairs": len(keys),
        "scores": {
            "mean": float(scores.mean()),
            "std": float(scores.std()),
            "min": float(scores.min()),
            "max": float(scores.max()),
            "num_distinct": len(np.unique(scores)),
        },
    }
    for left in Path(folder).glob(".*.tmp"):  # what a process was writing when it was killed
        left.unlink()
    write_manifest(folder, manifest)
    return manifest


def _read_shard(path: Path) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    table = pq.read_table(path, columns=["pair_key", "teacher_score"])
    keys = np.fromiter((_short_key(key) for key in table["pair_key"].to_pylist()), dtype=np.uint64, count=len(table))
    return keys, table["teacher_score"].to_numpy().astype(np.float32)


def _short_key(key: str) -> int:
    """The first 64 of a key's 128 bits: enough for look-ups (two of 10 million pairs agree with probability 3e-6).

    `finish_store` refuses a store in which two agree.
    """
    return int(key[:16], 16)


def distinct(candidates: Iterable[Candidate], seen: set[int]) -> Iterable[Candidate]:
    """The first candidate of every content, in order; `seen` holds the 64-bit keys met so far."""
    for candidate in candidates:
        key = _short_key(pair_key(candidate.pair))
        if key not in seen:
            seen.add(key)
            yield candidate
