"""Looking at a store: what it holds, whether it is sound, its scores as a TREC run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from disranker.data.trec import write_trec_run
from disranker.shards import file_hash
from disranker.teacher.fusion import fusion_lines
from disranker.teacher.health import health_lines
from disranker.teacher.keys import KeyIndex, Keys, first_of_each
from disranker.teacher.store import ALIAS_SCHEMA, SCORE_SCHEMA, Store, read_any, read_keys


def info_lines(folder: Path) -> list[str]:
    """What a store holds, a line per subject; also of one that is not finished.

    Raises:
        ValueError: the folder is no store.
    """
    manifest = read_any(folder)
    # The teachers of a fused store have lines of their own.
    about = {name: value for name, value in manifest["teacher"].items() if name != "teachers"}
    teacher = ", ".join(f"{name} {value}" for name, value in about.items())
    lines = [f"store     {folder}", f"teacher   {teacher}", f"input     {manifest['input']}"]
    if not manifest["complete"]:
        there = len(list(folder.glob("scores-*.parquet")))
        return [*lines, f"state     not finished: {there:,} shards so far; run rank/score.py again"]
    lines.append(
        f"holds     {manifest['num_pairs']:,} scores of {manifest['num_candidates']:,} candidates, "
        f"{len(manifest['shards']):,} shards"
    )
    if manifest["representation"] is not None:
        width = manifest["representation_width"]
        lines.append(f"beside    {manifest['representation']} representations, {width} wide, float16")
    return [*lines, *fusion_lines(manifest), *health_lines(manifest)]


def find_faults(folder: Path) -> list[str]:
    """Every fault of a store: files that lack, changed or cannot be read, rows that are wrong, counts that disagree.

    Raises:
        ValueError: the folder is no store.
    """
    manifest = read_any(folder)
    if not manifest["complete"]:
        return [f"{folder} is not finished: run rank/score.py again, it goes on with what is missing"]
    return list(_faults(folder, manifest))


def _faults(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    keys: list[Keys] = []
    alias_keys: list[Keys] = []
    known = set()
    for shard in manifest["shards"]:
        parts = [(shard, SCORE_SCHEMA, keys), (shard["aliases"], ALIAS_SCHEMA, alias_keys)]
        for file, schema, collected in parts:
            if file is None:
                continue
            known.add(file["name"])
            yield from _file_faults(folder, file)
            if (folder / file["name"]).exists():
                yield from _table_faults(folder / file["name"], file["rows"], schema, collected)
        if "representations" in shard:
            known.add(shard["representations"]["name"])
            yield from _file_faults(folder, shard["representations"])
    patterns = ("scores-*", "aliases-*", "representations-*")
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        if path.name not in known:
            yield f"{path.name}: the manifest does not know this file"
    if keys:
        yield from _key_faults(
            np.concatenate(keys), np.concatenate([np.zeros((0, 2), np.uint64), *alias_keys]), manifest
        )


def _file_faults(folder: Path, file: dict[str, Any]) -> Iterator[str]:
    path = folder / file["name"]
    if not path.exists():
        yield f"{path.name}: is missing"
    elif file_hash(path) != file["hash"]:
        yield f"{path.name}: its bytes have changed since the store was finished (hash {file_hash(path)})"


def _table_faults(path: Path, rows: int, schema: pa.Schema, collected: list[Keys]) -> Iterator[str]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        yield f"{path.name}: cannot be read: {error}"
        return
    if not table.schema.equals(schema):
        yield f"{path.name}: its columns are {_columns(table.schema)}, not {_columns(schema)}"
        return
    if len(table) != rows:
        yield f"{path.name}: {len(table):,} rows where the manifest says {rows:,}"
    collected.append(read_keys(table))
    if "teacher_score" in schema.names:
        wrong = np.flatnonzero(~np.isfinite(table["teacher_score"].to_numpy()))
        if len(wrong):
            first = table.slice(int(wrong[0]), 1).to_pylist()[0]
            yield f"{path.name}: {len(wrong):,} scores are not finite, first ({first['query_id']}, {first['doc_id']})"


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _key_faults(keys: Keys, alias_keys: Keys, manifest: dict[str, Any]) -> Iterator[str]:
    repeated = len(keys) - int(first_of_each(keys).sum())
    if repeated:
        yield f"{repeated:,} pairs stand twice"
    unknown = int((KeyIndex(keys).find(alias_keys) < 0).sum())
    if unknown:
        yield f"{unknown:,} candidates repeat the text of a pair that has no score"
    if len(keys) != manifest["num_pairs"]:
        yield f"{len(keys):,} scores where the manifest says {manifest['num_pairs']:,}"
    if len(keys) + len(alias_keys) != manifest["num_candidates"]:
        yield f"{len(keys) + len(alias_keys):,} candidates where the manifest says {manifest['num_candidates']:,}"


def export_run(folder: Path, path: Path) -> int:
    """Write the score of every candidate as a TREC run, those that repeat a text too; the number of lines.

    Memory: the whole run, some 200 bytes a candidate.

    Raises:
        ValueError: the folder is no finished store, or an id holds white space.
    """
    run: dict[str, dict[str, float]] = {}
    for row in Store(folder).rows():
        run.setdefault(row.query_id, {})[row.doc_id] = row.teacher_score
    return write_trec_run(path, run, "teacher")
