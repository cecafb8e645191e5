"""docs/report.md against the files as they are written: every field is there, is named, and has its type."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from disranker.evaluation import report, runs
from tests.evaluation.made_systems import make_everything, make_set

DOCS = Path(__file__).resolve().parents[2] / "docs" / "report.md"
SHORT = {
    "Values": "map of measure to number",
    "Intervals": "map of measure to list of number",
    "Counts": "map of name to count",
}
Tables = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def tables() -> Tables:
    """Name of a table -> field -> type."""
    found: Tables = {}
    for part in re.split(r"^### ", DOCS.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| (\w+) \| ([^|]+?) \|", part, re.MULTILINE)
        found[part.splitlines()[0]] = {name: kind for name, kind in rows if name != "field"}
    found["Cost"] = found["Efficiency"] | found["Cost"]
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schema")
    report.write_report(make_everything(folder))
    return folder


def faults(value: Any, kind: str, tables: Tables, path: str = "") -> Iterator[str]:
    """Where a value is not what the documentation says."""
    if kind in SHORT:
        yield from faults(value, SHORT[kind], tables, path)
    elif kind.endswith(" or null"):
        if value is not None:
            yield from faults(value, kind.removesuffix(" or null"), tables, path)
    elif kind.startswith("list of "):
        if not isinstance(value, list):
            yield f"{path}: no list"
            return
        for item in value:
            yield from faults(item, kind.removeprefix("list of "), tables, f"{path}[]")
    elif kind.startswith("map of "):
        if not isinstance(value, dict):
            yield f"{path}: no map"
            return
        for key, item in value.items():
            yield from faults(item, kind.partition(" to ")[2], tables, f"{path}.{key}")
    elif kind in tables:
        if not isinstance(value, dict) or value.keys() != tables[kind].keys():
            yield f"{path}: {sorted(set(value) ^ set(tables[kind]))} stand on one side only"
            return
        for name, of_field in tables[kind].items():
            yield from faults(value[name], of_field, tables, f"{path}.{name}")
    elif kind == "number":
        if isinstance(value, bool) or (not isinstance(value, int | float) and value not in ("inf", "-inf", "nan")):
            yield f"{path}: {value!r} is no number"
    elif kind != "anything":
        types: dict[str, type] = {"count": int, "text": str, "truth": bool}
        if type(value) is not types[kind]:
            yield f"{path}: {value!r} is no {kind}"


def test_metrics_json_is_as_documented(written: Path, tables: Tables) -> None:
    content = json.loads((written / "systems" / "student.metrics.json").read_text("utf-8"))
    assert list(faults(content, "Metrics", tables)) == []


def test_report_json_is_as_documented(written: Path, tables: Tables) -> None:
    content = json.loads((written / "out" / "report.json").read_text("utf-8"))
    assert list(faults(content, "Report", tables)) == []
    empty = [name for name in tables["Report"] if content[name] in (None, [], {})]
    assert empty == []  # a part that is not there is not checked


def test_a_report_without_analyses_has_the_same_fields(tmp_path: Path, tables: Tables) -> None:
    made = make_set(tmp_path)
    report.write_report(report.ReportConfig.model_validate(made | {"judged": []}))
    content = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert list(faults(content, "Report", tables)) == []


def test_the_check_finds_what_is_amiss(tables: Tables) -> None:
    note = {"heading": "a", "text": "b"}
    assert list(faults(note, "Note", tables)) == []
    for wrong in ({"heading": "a"}, note | {"more": 1}, note | {"text": None}, note | {"text": 3}):
        assert len(list(faults(wrong, "Note", tables))) == 1
    assert list(faults([1, "inf", 2.5], "list of number", tables)) == []
    assert len(list(faults([True, "x", None], "list of number", tables))) == 3


def test_every_table_is_reached(tables: Tables) -> None:
    named = set(re.findall(r"\b[A-Z]\w+", " ".join(kind for table in tables.values() for kind in table.values())))
    assert named | {"Metrics", "Report"} == set(tables) | set(SHORT)


def test_the_page_names_the_formats() -> None:
    assert runs.FORMAT == report.FORMAT == 2
    assert "this page is format 2 of both" in DOCS.read_text("utf-8")
