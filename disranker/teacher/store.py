"""The store: a teacher's raw fp32 scores on disk, Parquet shards and a manifest (docs/store.md has the format).

A store belongs to one teacher (its fingerprint covers weights, template and lengths) and one input; whatever differs is
refused.  Shard i holds the i-th block of distinct pairs of the input, so the same run makes the same bytes, a killed
run goes on with the shards it lacks, and identical texts are scored once.  Training looks scores up by content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from disranker.schema import Candidate, Pair, TeacherScore, stable_seed
from disranker.shards import MANIFEST_NAME, check_same, file_hash, read_manifest, write_atomic, write_manifest
from disranker.teacher.health import describe_scores
from disranker.teacher.keys import KEY_BYTES, KeyIndex, Keys, first_of_each, keys_from_bytes, keys_of, keys_to_bytes

if TYPE_CHECKING:
    from disranker.teacher.plan import Block

FORMAT = 2
METRICS_NAME = "metrics.jsonl"
_IDENTITY = ("format", "teacher", "input", "pairs_per_shard", "representation")
_KEY = ("pair_key", pa.binary(KEY_BYTES))
ALIAS_SCHEMA = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), _KEY])
SCORE_SCHEMA = pa.schema([*ALIAS_SCHEMA, ("teacher_score", pa.float32())])


class Store:
    """A finished store, opened for reading; 28 bytes of memory a pair."""

    def __init__(self, folder: str | Path) -> None:
        """Open a store and its score index.

        Raises:
            ValueError: the folder is no store, or its scoring run is not finished.
        """
        self.folder = Path(folder)
        self.manifest = read_finished(self.folder)
        columns = [read_columns(self.folder / shard["name"]) for shard in self.manifest["shards"]]
        self._begins = np.cumsum([0, *(len(scores) for _, scores in columns)])
        self._scores = np.concatenate([scores for _, scores in columns])
        self._index = KeyIndex(np.concatenate([keys for keys, _ in columns]))

    def __len__(self) -> int:
        return len(self._scores)

    def lookup(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """[len(pairs)] raw teacher scores.

        Raises:
            ValueError: a pair has no score in the store; the first few are named.
        """
        return self._scores[self._find(pairs)]

    def standardised(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """[len(pairs)] teacher scores with mean 0 and standard deviation 1 over the whole store."""
        stats = self.manifest["scores"]
        return ((self.lookup(pairs) - stats["mean"]) / stats["std"]).astype(np.float32)

    def representations(self, pairs: Sequence[Pair]) -> NDArray[np.float16]:
        """[len(pairs), H] pooled hidden states of the teacher, read from files that are mapped into memory.

        Raises:
            ValueError: a pair has no score in the store, or the store was made without representations.
        """
        if self.manifest["representation"] is None:
            raise ValueError(
                f"{self.folder} holds no representations: score into another folder with --representation pooled"
            )
        rows = self._find(pairs)
        shard_of_row = np.searchsorted(self._begins, rows, side="right") - 1
        found = np.empty((len(rows), self.manifest["representation_width"]), dtype=np.float16)
        for index in np.unique(shard_of_row).tolist():
            mapped = np.load(representation_path(self.folder, index), mmap_mode="r")
            inside = np.flatnonzero(shard_of_row == index)
            found[inside] = mapped[rows[inside] - self._begins[index]]
        return found

    def rows(self) -> Iterator[TeacherScore]:
        """Every candidate with its score, in the order of the shards, those that repeat a text after their shard's."""
        for shard in self.manifest["shards"]:
            table = pq.read_table(self.folder / shard["name"])
            yield from _records(table, read_keys(table), table["teacher_score"].to_numpy())
            if shard["aliases"] is not None:
                table = pq.read_table(self.folder / shard["aliases"]["name"])
                keys = read_keys(table)
                yield from _records(table, keys, self._scores[self._index.find(keys)])

    def _find(self, pairs: Sequence[Pair]) -> NDArray[np.int64]:
        rows = self._index.find(keys_of(pairs))
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            named = "; ".join(f"{pairs[row].query!r} → {pairs[row].title!r}" for row in missing[:3])
            raise ValueError(
                f"{len(missing):,} of {len(pairs):,} pairs have no teacher score in {self.folder}, first: {named}; "
                "score these candidates with rank/score.py"
            )
        return rows


def _records(table: pa.Table, keys: Keys, scores: NDArray[np.float32]) -> Iterator[TeacherScore]:
    ids = zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True)
    for (query_id, doc_id), key, score in zip(ids, keys.tolist(), scores.tolist(), strict=True):
        yield TeacherScore(query_id, doc_id, f"{key[0]:016x}{key[1]:016x}", score)


def read_any(folder: Path) -> dict[str, Any]:
    """The manifest of a store, finished or not.

    Raises:
        ValueError: the folder is no store, or of another format.
    """
    if not (folder / MANIFEST_NAME).exists():
        raise ValueError(f"{folder} is no store: it has no {MANIFEST_NAME}; rank/score.py writes stores")
    manifest = read_manifest(folder)
    if manifest.get("format") != FORMAT or "teacher" not in manifest:
        raise ValueError(
            f"{folder} is no store of format {FORMAT} (its format is {manifest.get('format')}); score into a new folder"
        )
    return manifest


def read_finished(folder: Path) -> dict[str, Any]:
    """The manifest of a finished store.

    Raises:
        ValueError: the folder is no store, of another format, or its scoring run is not finished.
    """
    manifest = read_any(folder)
    absent = [shard["name"] for shard in manifest.get("shards", ()) if not (folder / shard["name"]).exists()]
    if not manifest["complete"] or absent:
        lacks = f" (it lacks {len(absent)} shards, first {absent[0]})" if absent else ""
        raise ValueError(f"{folder} is not finished{lacks}: run rank/score.py again, it goes on with what is missing")
    return manifest


def read_keys(table: pa.Table) -> Keys:
    """[rows, 2] keys of a table of scores or aliases."""
    column = table["pair_key"].combine_chunks()
    values = column.buffers()[1]
    begin = column.offset * KEY_BYTES
    return keys_from_bytes(memoryview(values)[begin : begin + len(column) * KEY_BYTES])


def read_columns(path: Path) -> tuple[Keys, NDArray[np.float32]]:
    """Keys and scores of one shard."""
    table = pq.read_table(path, columns=["pair_key", "teacher_score"])
    return read_keys(table), table["teacher_score"].to_numpy()


# --- writing ----------------------------------------------------------------------------------------------------------


def begin_store(
    folder: str | Path, teacher: dict[str, Any], input_hash: str, pairs_per_shard: int, representation: str | None
) -> dict[str, Any]:
    """Write the manifest of a new store, or make sure that the one there is of the same run; the manifest there.

    Raises:
        ValueError: it is not, and every difference is named; or there are shards without a manifest.
    """
    manifest = dict(zip(_IDENTITY, (FORMAT, teacher, input_hash, pairs_per_shard, representation), strict=True))
    if (Path(folder) / MANIFEST_NAME).exists():
        found = read_manifest(folder)
        check_same(manifest, {name: found[name] for name in _IDENTITY if name in found}, folder)
        return found
    if any(Path(folder).glob("scores-*.parquet")):
        raise ValueError(
            f"{folder} holds shards but no {MANIFEST_NAME} that says whose they are; remove it or use another"
        )
    manifest["complete"] = False
    write_manifest(folder, manifest)
    return manifest


def shard_path(folder: str | Path, index: int) -> Path:
    """Where the scores of shard `index` are, or will be once the shard is whole."""
    return Path(folder) / f"scores-{index:06}.parquet"


def alias_path(folder: str | Path, index: int) -> Path:
    """Where the candidates are that follow shard `index` and repeat a text; absent where there are none."""
    return Path(folder) / f"aliases-{index:06}.parquet"


def representation_path(folder: str | Path, index: int) -> Path:
    """Where the representations of shard `index` are, row by row those of its scores."""
    return Path(folder) / f"representations-{index:06}.npy"


def write_shard(
    folder: Path, block: Block, scores: NDArray[np.float32], representations: NDArray[np.float16] | None = None
) -> None:
    """Write the shard of a block that was scored.

    Raises:
        ValueError: a score or a representation is NaN or infinite; the first few pairs are named.
    """
    _check_finite(block, scores, "score")
    if representations is not None:
        _check_finite(block, representations, "representation")
    table = id_table(block.candidates, block.keys).append_column(
        SCORE_SCHEMA.field("teacher_score"), pa.array(scores, pa.float32())
    )
    write_tables(folder, block.index, table, id_table(block.aliases, block.alias_keys), representations)


def write_tables(
    folder: Path, index: int, scores: pa.Table, aliases: pa.Table, representations: NDArray[np.float16] | None
) -> None:
    """Write what belongs beside a shard, then its scores, with which it is there; each file atomically."""
    if representations is not None:
        with write_atomic(representation_path(folder, index)) as temporary, temporary.open("wb") as file:
            np.save(file, np.ascontiguousarray(representations))
    if len(aliases):
        _write_table(alias_path(folder, index), aliases)
    _write_table(shard_path(folder, index), scores)


def _check_finite(block: Block, values: NDArray[np.floating[Any]], what: str) -> None:
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1).tolist()
    wrong = [candidate for candidate, good in zip(block.candidates, finite, strict=True) if not good]
    if wrong:
        named = ", ".join(f"({candidate.query_id}, {candidate.doc_id})" for candidate in wrong[:3])
        raise ValueError(f"the teacher's {what} of {len(wrong)} pairs is not finite, first: {named}")


def id_table(candidates: Sequence[Candidate], keys: Keys) -> pa.Table:
    """Ids and keys of candidates as an Arrow table."""
    raw = pa.py_buffer(keys_to_bytes(keys))
    return pa.table(
        [
            pa.array([candidate.query_id for candidate in candidates], pa.string()),
            pa.array([candidate.doc_id for candidate in candidates], pa.string()),
            pa.Array.from_buffers(pa.binary(KEY_BYTES), len(keys), [None, raw]),
        ],
        schema=ALIAS_SCHEMA,
    )


def _write_table(path: Path, table: pa.Table) -> None:
    with write_atomic(path) as temporary:
        # Keys and doc_ids hardly repeat: a dictionary of them would only take place.
        pq.write_table(table.combine_chunks(), temporary, compression="zstd", use_dictionary=["query_id"])


def finish_store(
    folder: str | Path, num_shards: int, num_candidates: int, facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Check that every shard is there and every pair once, describe the scores, mark the store complete; its manifest.

    `facts` are what else the manifest is to say.

    Raises:
        ValueError: a shard is missing, a pair stands twice, the counts disagree, or all scores are equal.
    """
    folder = Path(folder)
    absent = [shard_path(folder, i).name for i in range(num_shards) if not shard_path(folder, i).exists()]
    if absent:
        raise ValueError(f"{folder} lacks {len(absent)} of {num_shards} shards, first {absent[0]}")
    manifest = {name: value for name, value in read_manifest(folder).items() if name in _IDENTITY}
    shards = [describe_shard(folder, index, manifest["representation"]) for index in range(num_shards)]
    columns = [_ScoreColumns.read(shard_path(folder, index)) for index in range(num_shards)]
    halves = np.concatenate([one.half_keys for one in columns])
    scores = np.concatenate([one.scores for one in columns])
    queries = np.concatenate([one.queries for one in columns])
    del columns  # 20 bytes a pair
    num_aliases = sum(shard["aliases"]["rows"] for shard in shards if shard["aliases"] is not None)
    if (
        _some_equal(halves)
        and not first_of_each(
            np.concatenate([read_columns(shard_path(folder, index))[0] for index in range(num_shards)])
        ).all()
    ):
        raise ValueError(f"{folder} holds a pair twice; remove the folder and score again")
    if len(scores) + num_aliases != num_candidates:
        raise ValueError(
            f"{folder} holds {len(scores) + num_aliases:,} candidates where {num_candidates:,} were read; "
            "remove the folder and score again"
        )
    manifest |= {
        "complete": True,
        "shards": shards,
        "num_candidates": num_candidates,
        "num_pairs": len(scores),
        **describe_scores(scores, queries),
        **(facts or {}),
    }
    if manifest["representation"] is not None:
        manifest["representation_width"] = np.load(representation_path(folder, 0), mmap_mode="r").shape[1]
    for left in folder.glob(".*.tmp"):  # what a process was writing when it was killed
        left.unlink()
    write_manifest(folder, manifest)
    return manifest


def describe_shard(folder: Path, index: int, representation: str | None) -> dict[str, Any]:
    """What the manifest says of a shard: the name, hash and rows of each of its files."""
    path, aliases = shard_path(folder, index), alias_path(folder, index)
    shard = {**_describe_table(path), "aliases": _describe_table(aliases) if aliases.exists() else None}
    if representation is not None:
        beside = representation_path(folder, index)
        rows = len(np.load(beside, mmap_mode="r"))
        shard["representations"] = {"name": beside.name, "hash": file_hash(beside), "rows": rows}
    return shard


def _describe_table(path: Path) -> dict[str, Any]:
    return {"name": path.name, "hash": file_hash(path), "rows": pq.read_metadata(path).num_rows}


@dataclass(frozen=True, slots=True)
class _ScoreColumns:
    """What the checks and the description of a store need of a shard."""

    half_keys: NDArray[np.uint64]
    scores: NDArray[np.float32]
    queries: NDArray[np.uint64]

    @classmethod
    def read(cls, path: Path) -> _ScoreColumns:
        table = pq.read_table(path)
        ids = table["query_id"].combine_chunks().dictionary_encode()
        hashes = np.array([stable_seed(query_id) for query_id in ids.dictionary.to_pylist()], dtype=np.uint64)
        return cls(read_keys(table)[:, 0].copy(), table["teacher_score"].to_numpy(), hashes[ids.indices.to_numpy()])


def _some_equal(values: NDArray[np.uint64]) -> bool:
    ordered = np.sort(values)
    return bool((ordered[1:] == ordered[:-1]).any())
