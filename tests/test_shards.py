"""Atomic writes, manifests, names and hashes of shards."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest

from disranker.shards import (
    MANIFEST_NAME,
    check_same,
    file_hash,
    read_manifest,
    write_atomic,
    write_manifest,
)


def test_write_atomic_makes_the_folder_and_a_readable_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "a.bin"
    with write_atomic(target) as temporary:
        temporary.write_bytes(b"content")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_bytes() == b"content"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_killed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, exception: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(exception), write_atomic(target) as temporary:
        temporary.write_text("half of the n")
        raise exception
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_killed_first_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), write_atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_replaces_or_removes_the_temporary_file(tmp_path: Path) -> None:
    with write_atomic(tmp_path / "a.txt") as temporary:
        temporary.unlink()
        temporary.write_text("again")
    assert (tmp_path / "a.txt").read_text() == "again"
    with pytest.raises(FileNotFoundError), write_atomic(tmp_path / "b.txt") as temporary:
        temporary.unlink()
    assert not (tmp_path / "b.txt").exists()


def test_manifest_is_canonical_json(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"b": [1, 2.5], "a": {"z": None, "y": "搜索"}})
    first = (tmp_path / MANIFEST_NAME).read_bytes()
    assert read_manifest(tmp_path) == {"a": {"y": "搜索", "z": None}, "b": [1, 2.5]}
    assert first.decode("utf-8").index('"a"') < first.decode("utf-8").index('"b"')
    assert "搜索" in first.decode("utf-8")
    write_manifest(tmp_path, {"a": {"y": "搜索", "z": None}, "b": [1, 2.5]})
    assert (tmp_path / MANIFEST_NAME).read_bytes() == first


def test_manifest_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(tmp_path, {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_manifest_that_is_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text('{"a": ')
    with pytest.raises(ValueError, match="is not JSON"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="holds a list"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("size", [0, 5, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_file_hash_is_the_hash_of_the_whole_content(tmp_path: Path, size: int) -> None:
    content = bytes(index % 251 for index in range(size))
    (tmp_path / "a").write_bytes(content)
    assert file_hash(tmp_path / "a") == hashlib.blake2b(content, digest_size=16).hexdigest()


def test_check_same_names_every_differing_field_with_both_values() -> None:
    check_same({"a": 1, "b": None}, {"b": None, "a": 1}, "store")
    with pytest.raises(ValueError, match="store was made from something else") as caught:
        check_same(
            {"same": 1, "teacher": "x", "only_here": None}, {"same": 1, "teacher": "y", "only_there": [2]}, "store"
        )
    assert str(caught.value).splitlines()[1:-1] == [
        "  only_here: there absent, here null",
        "  only_there: there [2], here absent",
        '  teacher: there "y", here "x"',
    ]
