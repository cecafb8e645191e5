"""Files that are either whole or absent: atomic writes, manifests, shard names, hashes; standard library only.

A folder of shards has one `manifest.json` that says what the shards hold and where they come from.  Whoever adds to
such a folder compares its own description with the manifest first and refuses to mix (`check_same`).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MANIFEST_NAME = "manifest.json"
_HASH_CHUNK_BYTES = 1 << 20


@contextmanager
def write_atomic(path: str | Path) -> Iterator[Path]:
    """Hand out a temporary path beside `path`; on success it takes the place of `path`, on any exception it vanishes.

    The folder is made when it is not there.  A reader sees the old file or the new one, never a part; what was written
    is on the disk before the name changes.  The new file has mode 0644.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, for `os.replace` is atomic only within one file system.
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        # mkstemp makes files that only their owner can read.
        temporary.chmod(0o644)
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON in its canonical form (sorted keys, UTF-8, no NaN), atomically: equal content, equal bytes."""
    text = json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False)
    with write_atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_manifest(folder: str | Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a folder of shards, atomically."""
    write_json(Path(folder) / MANIFEST_NAME, dict(content))


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder of shards; FileNotFoundError where there is none, ValueError where it is broken."""
    path = Path(folder) / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is missing: {folder} is not a folder of shards, or was never finished"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); remove the folder and make it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a mapping; remove the folder and make it again")
    return content


def file_hash(path: str | Path) -> str:
    """The blake2b-128 hash of a file as 32 hex digits, read in pieces of 1 MiB."""
    digest = hashlib.blake2b(digest_size=16)
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def check_same(expected: Mapping[str, Any], found: Mapping[str, Any], where: str | Path) -> None:
    """Raise ValueError that names each field in which two descriptions differ, with both values.

    `expected` is what this call would write, `found` what stands at `where`; a field that only one of them has differs.
    """
    absent = object()
    differing = [
        f"  {name}: there {_shown(found.get(name, absent), absent)}, here {_shown(expected.get(name, absent), absent)}"
        for name in sorted({*expected, *found})
        if expected.get(name, absent) != found.get(name, absent)
    ]
    if differing:
        listed = "\n".join(differing)
        raise ValueError(
            f"{where} was made from something else, and the two are not mixed:\n{listed}\nUse another folder."
        )


def _shown(value: object, absent: object) -> str:
    return "absent" if value is absent else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
