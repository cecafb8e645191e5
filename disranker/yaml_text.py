"""YAML as the settings use it: YAML 1.2 scalars, the line of every key, keys given twice; it knows no field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

Origins = dict[tuple[str, ...], str]
"""Where each path of a tree was given: `file.yaml:12` or `command line`."""


class YamlFault(ValueError):
    """What is wrong with a YAML text, and where: `file:line`, or the file alone."""

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(f"{reason} ({where})")
        self.reason = reason
        self.where = where


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: 1e-4 is a number, and yes, off, 010 or 12:30 are text."""


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or `_Loader` would read as something else."""


_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", ["t", "T", "f", "F"]),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*)", list("-+0123456789")),
    "float": (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9]+(?:[eE][-+]?[0-9]+)?)"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
_Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first_chars) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first_chars)


def read_value(text: str) -> Any:
    """The value of one YAML text, as on a command line; raises `YamlFault`."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise _readable(error, "command line") from error


def read_tree(file: str, origins: Origins) -> tuple[dict[str, Any], list[tuple[tuple[str, ...], str, str]]]:
    """The mapping that a YAML file holds, and (path, reason, where) of every key that is given twice.

    Notes the line of every key and list item in `origins`.  Raises `YamlFault` for a file that cannot be read, is not
    YAML, or holds no mapping; an empty file is an empty mapping.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise YamlFault(f"cannot be read: {error.strerror}", file) from error
    except UnicodeDecodeError as error:
        raise YamlFault("cannot be read: it is not UTF-8 text", file) from error
    twice: list[tuple[tuple[str, ...], str, str]] = []
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}, []
        tree = _build(loader, node, (), file, origins, twice)
    except yaml.YAMLError as error:
        raise _readable(error, file) from error
    if not isinstance(tree, dict):
        raise YamlFault("must hold a mapping of fields", f"{file}:{node.start_mark.line + 1}")
    return tree, twice


def write_tree(tree: dict[str, Any]) -> str:
    """A tree of plain values as YAML text that `read_tree`, and any YAML 1.1 reader, reads back unchanged."""
    return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def _readable(error: yaml.YAMLError, file: str) -> YamlFault:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        return YamlFault(f"is not YAML: {reason}", f"{file}:{error.problem_mark.line + 1}")
    return YamlFault(f"is not YAML: {' '.join(str(error).split())}", file)


def _build(
    loader: _Loader,
    node: yaml.Node,
    path: tuple[str, ...],
    file: str,
    origins: Origins,
    twice: list[tuple[tuple[str, ...], str, str]],
) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node, deep=True))
            at = (*path, key)
            line = f"{file}:{key_node.start_mark.line + 1}"
            if key in mapping:
                # PyYAML would keep the last one without a word.
                twice.append((at, f"given twice, first at {origins[at]}", line))
            origins[at] = line
            mapping[key] = _build(loader, value_node, at, file, origins, twice)
        return mapping
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        items = []
        for index, item in enumerate(node.value):
            at = (*path, str(index))
            origins[at] = f"{file}:{item.start_mark.line + 1}"
            items.append(_build(loader, item, at, file, origins, twice))
        return items
    # A scalar; or something with a tag of its own, which a safe loader refuses.
    return loader.construct_object(node, deep=True)
