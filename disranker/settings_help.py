"""What the fields of a settings class are: their types in words, their dotted names, and the `--help` text."""

from __future__ import annotations

import functools
import operator
import textwrap
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typing_extensions import TypeIs

_WIDTH = 100
_WORDS = {bool: "true|false", int: "integer", float: "number", str: "text", Path: "path", types.NoneType: "null"}
_SYMBOLS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def arms(annotation: Any) -> list[Any]:
    """The types that a field may hold: unions are opened, `Annotated` is looked through."""
    if get_origin(annotation) is Annotated:
        return arms(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [arm for option in get_args(annotation) for arm in arms(option)]
    return [] if annotation is None else [annotation]


def is_part(annotation: Any) -> TypeIs[type[BaseModel]]:
    """Whether an annotation is a settings class, and so a group of fields."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def item_of(arm: Any) -> Any:
    """What a list or a mapping holds; None for anything else."""
    if get_origin(arm) in (list, tuple, set, frozenset):
        return get_args(arm)[0]
    return get_args(arm)[1] if get_origin(arm) is dict else None


def annotation_at(cls: type[BaseModel], path: Sequence[str]) -> Any:
    """The annotation of a dotted path with its bounds; None where there is no such field."""
    annotation: Any = cls
    for key in path:
        options: list[Any] = []
        for arm in arms(annotation):
            if is_part(arm) and key in arm.model_fields:
                at = arm.model_fields[key]
                known: Any = at.annotation
                for bound in at.metadata:
                    known = Annotated[known, bound]
                options.append(known)
            elif item_of(arm) is not None:
                options.append(item_of(arm))
        if not options:
            return None
        annotation = functools.reduce(operator.or_, options)
    return annotation


def leaves(cls: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field that is not merely a group, with its dotted name; `N` is a place in a list, `NAME` a key."""
    for name, at in cls.model_fields.items():
        if not is_part(at.annotation):
            yield prefix + name, at
        for arm in arms(at.annotation):
            if is_part(arm):
                yield from leaves(arm, f"{prefix}{name}.")
            for inner in arms(item_of(arm)):
                if is_part(inner):
                    step = "NAME" if get_origin(arm) is dict else "N"
                    yield from leaves(inner, f"{prefix}{name}.{step}.")


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type in the words of the help, as in `number > 0 or null`.

    A bare text in the metadata is the type's name: `Annotated[Path, ..., "existing path"]`.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        return describe(get_args(annotation)[0], get_args(annotation)[1:])
    if origin in (Union, types.UnionType):
        # The bounds belong to the value, not to null.
        return " or ".join(describe(arm, () if arm is types.NoneType else metadata) for arm in get_args(annotation))
    if origin is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    if origin is dict or annotation is dict:
        return "mapping of groups of fields" if is_part(item_of(annotation)) else "mapping"
    if item_of(annotation) is not None:
        of = item_of(annotation)
        return "list of groups of fields" if is_part(of) else f"list of {describe(of)}"
    if is_part(annotation):
        return "group of fields"
    if annotation is Any:
        return "any value"
    # Inside a union or a list, pydantic leaves a `Field(...)` with its bounds as it is.
    metadata = [bound for item in metadata for bound in (item.metadata if isinstance(item, FieldInfo) else [item])]
    names = [name for name in metadata if isinstance(name, str)]
    known = names[0] if names else _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))
    bounds = [
        f"{symbol} {getattr(bound, attribute)}"
        for bound in metadata
        for attribute, symbol in _SYMBOLS.items()
        if getattr(bound, attribute, None) is not None
    ]
    return f"{known} {' and '.join(bounds)}".strip()


def help_text(cls: type[BaseModel], *, prog: str, description: str = "") -> str:
    """Every field with its dotted name, type, default and docstring, in groups; plain text, `_WIDTH` columns."""
    lines = [f"usage: {prog} --config FILE.yaml [--part.field value ...]", ""]
    for paragraph in filter(None, textwrap.dedent(description).strip().split("\n\n")):
        # What is indented is a command line or a table.
        lines += paragraph.splitlines() if paragraph.startswith(" ") else textwrap.wrap(paragraph, _WIDTH)
        lines.append("")
    lines += textwrap.wrap(
        "The command line wins over the file. Values are YAML: 1e-4, true, text, [a, b], {key: value}; null turns a "
        "thing off. A true|false field may stand without a value.",
        _WIDTH,
    )
    groups: dict[str, list[str]] = {"": []}
    for name, at in leaves(cls):
        entry = [f"  --{name}  {describe(at.annotation, at.metadata)}  ({_default(at)})"]
        words = " ".join((at.description or "").split())
        entry += textwrap.wrap(words, _WIDTH, initial_indent="      ", subsequent_indent="      ")
        groups.setdefault(name.rpartition(".")[0], []).extend(entry)
    for group, entries in groups.items():
        if entries:
            lines += ["", *_group_heading(cls, group), *entries]
    return "\n".join(lines)


def _group_heading(cls: type[BaseModel], group: str) -> list[str]:
    """The group's name and what its field's docstring says of it; an optional group says that among the fields."""
    if not group:
        return ["general:"]
    *parents, name = [key for key in group.split(".") if key not in ("N", "NAME")]
    part = cls
    for key in parents:
        part = _part_under(part, key)
    at = part.model_fields[name]
    words = " ".join((at.description or "").split()) if is_part(at.annotation) else ""
    return textwrap.wrap(f"{group}: {words}".rstrip(), _WIDTH, subsequent_indent="    ")


def _part_under(part: type[BaseModel], key: str) -> type[BaseModel]:
    candidates = arms(part.model_fields[key].annotation)
    inner = [option for arm in candidates for option in arms(item_of(arm))]
    return next(arm for arm in [*candidates, *inner] if is_part(arm))


def _default(at: FieldInfo) -> str:
    if at.is_required():
        return "required"
    default = at.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, BaseModel):
        return "default: on, with the values below"
    return f"default: {shown(default)}"


def shown(value: Any) -> str:
    """A value in one short line, as YAML would take it."""
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, bool) or value is None:
        return words[value]
    if isinstance(value, list | dict) and not value:
        return "[]" if isinstance(value, list) else "{}"
    if isinstance(value, tuple):
        value = list(value)
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
