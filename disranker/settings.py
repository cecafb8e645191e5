"""How a typed config is read: YAML file, then the command line, which wins; every fault is reported at once.

A config is a frozen `Settings` class; a part of it is another `Settings` class in a field.  The help of a field is the
docstring under it.  Rules over several fields are `@model_validator(mode="after")` methods that raise `ValueError`;
they run even when other fields are at fault, as long as every value they read is sound, so that one call shows all
there is to mend.  This module knows no field of any stage; those are in `disranker.config`.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import platform
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

import disranker
from disranker.settings_help import annotation_at, arms, describe, help_text, is_part, leaves, shown
from disranker.yaml_text import Origins, YamlFault, read_tree, read_value, write_tree

_COMMAND_LINE = "command line"
_PROVENANCE_PACKAGES = ("torch", "transformers", "deepspeed", "peft", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to mend: the dotted path, what is wrong, the value as it was given, and where it was given."""

    path: str
    message: str
    value: str | None = None
    origin: str | None = None

    def __str__(self) -> str:
        given = f" = {self.value}" if self.value is not None else ""
        place = f"  ({self.origin})" if self.origin else ""
        return f"{self.path}{given}: {self.message}{place}" if self.path else f"{self.message}{place}"


class SettingsError(ValueError):
    """All faults of one call; its text is the readable list."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([f"{count} in the settings:", *(f"  - {fault}" for fault in faults)]))


@dataclass
class _Walk:
    """Marks a validation run of `parse`, and keeps what is sound of the part that failed last."""

    failed_part: Settings | None = None
    look_at_inputs: bool = True


def _check_exists(path: Path, info: ValidationInfo) -> Path:
    # Only `parse` looks at the disk: a config that is read back from a bundle may stand on another machine.
    if isinstance(info.context, _Walk) and info.context.look_at_inputs and not path.exists():
        raise PydanticCustomError("input_missing", "there is no such file or folder")
    return path


InputPath = Annotated[Path, AfterValidator(_check_exists), "existing path"]
"""A file or folder that must exist when the settings are parsed; relative paths start at the working directory."""


def _check_writable(out: str, info: ValidationInfo) -> str:
    if isinstance(info.context, _Walk) and info.context.look_at_inputs:
        there = next(folder for folder in (Path(out), *Path(out).absolute().parents) if folder.exists())
        if not there.is_dir():
            raise PydanticCustomError("output_file", "{path} is a file, not a folder", {"path": str(there)})
        if not os.access(there, os.W_OK):
            raise PydanticCustomError("output_locked", "{path} may not be written", {"path": str(there)})
    return out


OutputFolder = Annotated[str, AfterValidator(_check_writable), "folder"]
"""A folder that is made where it is not there yet; a place where none can be is found before the work begins."""


class Settings(BaseModel):
    """Base of every config and of every part of one; frozen, unknown keys are faults, docstrings are the help."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    @classmethod
    def load(cls, argv: Sequence[str] | None, *, prog: str, description: str = "") -> Self:
        """The settings of a script: `--help` prints and exits with 0, faults are printed to stderr and exit with 2.

        `argv` are the arguments without the program's name; None takes them from `sys.argv`.
        """
        arguments = list(sys.argv[1:] if argv is None else argv)
        if "--help" in arguments or "-h" in arguments:
            print(cls.help_text(prog=prog, description=description))
            sys.exit(0)
        try:
            return cls.parse(arguments)
        except SettingsError as error:
            print(f"{prog}: {error}\n`{prog} --help` lists every field.", file=sys.stderr)
            sys.exit(2)

    @classmethod
    def parse(cls, argv: Sequence[str], *, look_at_inputs: bool = True) -> Self:
        """The settings of `--config FILE.yaml` and dotted overrides; raises `SettingsError` with every fault.

        Without `look_at_inputs` the inputs may be missing yet: a plan is checked before its first step has run.
        """
        config_files, overrides, faults = _split_arguments(argv)
        tree: dict[str, Any] = {}
        origins: Origins = {}
        file_was_read = True
        for config_file in config_files:
            try:
                tree, twice = read_tree(config_file, origins)
            except YamlFault as error:
                file_was_read = False
                faults.append(Fault("--config", error.reason, config_file, error.where))
            else:
                faults += [Fault(".".join(path), reason, None, where) for path, reason, where in twice]
        for name, text in overrides:
            faults += _apply_override(cls, tree, origins, name, text)
        try:
            settings = cls.model_validate(tree, context=_Walk(look_at_inputs=look_at_inputs))
        except ValidationError as error:
            for details in error.errors(include_url=False):
                # Without its file, a config lacks things that nobody forgot, and breaks rules that it may well keep.
                if file_was_read or details["type"] not in ("missing", "rule"):
                    faults.append(_fault(cls, tree, origins, details))
        if faults:
            raise SettingsError(faults)
        return settings

    @classmethod
    def help_text(cls, *, prog: str, description: str = "") -> str:
        """Plain text that lists every field by its dotted name, with type, default and docstring."""
        return help_text(cls, prog=prog, description=description)

    @model_validator(mode="wrap")
    @classmethod
    def _collect_faults(cls, value: Any, handler: Callable[[Any], Self], info: ValidationInfo) -> Self:
        walk = info.context
        if not isinstance(walk, _Walk) or not isinstance(value, dict):
            return handler(value)
        found = _bools_for_numbers(cls, value)
        # A part that is missing altogether is reported by the fields that it lacks.
        given: dict[str, Any] = {
            name: {} for name, at in cls.model_fields.items() if at.is_required() and is_part(at.annotation)
        }
        given |= value
        part: Settings
        try:
            part = handler(given)
        except ValidationError as error:
            refused = {str(details["loc"][0]) for details in found}
            found += [
                _as_init_details(details)
                for details in _one_fault_a_union(cls, given, error)
                if details["loc"][0] not in refused
            ]
        if found:
            part = _partial(cls, walk, given, found)
        whole = not found
        for rule in cls.__pydantic_decorators__.model_validators.values():
            if rule.info.mode != "after":
                continue
            try:
                getattr(part, rule.cls_var_name)()
            except AttributeError:
                if whole:
                    raise
                # The rule reads a value that is itself at fault: it has nothing to say yet.
            except (ValueError, AssertionError) as error:
                found.append(InitErrorDetails(type=_custom("rule", str(error)), loc=(), input=None))
        if found:
            walk.failed_part = part
            raise ValidationError.from_exception_data(cls.__name__, found)
        assert isinstance(part, cls)
        return part


def _custom(kind: str, reason: str) -> PydanticCustomError:
    # As a value, not as the template: a brace in it is only a brace.
    return PydanticCustomError(kind, "{reason}", {"reason": reason})


def _bools_for_numbers(cls: type[Settings], given: Mapping[str, Any]) -> list[InitErrorDetails]:
    """Faults of number fields that are given true or false, which pydantic would read as 1 or 0."""
    found = []
    for name, at in cls.model_fields.items():
        kinds = arms(at.annotation)
        if isinstance(given.get(name), bool) and not {bool, Any} & set(kinds) and {int, float} & set(kinds):
            reason = _custom("bool_for_number", "must be a number, not true or false")
            found.append(InitErrorDetails(type=reason, loc=(name,), input=given[name]))
    return found


def _one_fault_a_union(
    cls: type[Settings], given: Mapping[str, Any], error: ValidationError
) -> Iterator[Mapping[str, Any]]:
    """The details of an error, where pydantic's one fault for each arm of a union becomes one for the field."""
    unions = set()
    for details in error.errors(include_url=False):
        name = details["loc"][0]
        at = cls.model_fields.get(str(name))
        kinds = [kind for kind in arms(at.annotation) if kind is not types.NoneType] if at else []
        if at is None or len(kinds) < 2 or isinstance(given.get(str(name)), dict | list):
            yield dict(details)
        elif name not in unions:
            unions.add(name)
            reason = f"must be {describe(at.annotation, at.metadata)}"
            yield {"type": "union", "msg": reason, "loc": (name,), "input": details["input"]}


def _partial(cls: type[Settings], walk: _Walk, given: Mapping[str, Any], found: Sequence[InitErrorDetails]) -> Settings:
    """A part of sound values only: reading an unsound field raises AttributeError."""
    faulty = {str(details["loc"][0]) for details in found if details.get("loc")}
    for name in set(given) - set(cls.model_fields):
        # A misspelt key leaves the field that it meant at a default that nobody wants.
        faulty.update(set(difflib.get_close_matches(str(name), cls.model_fields)) - set(given))
    sound: dict[str, Any] = {}
    for name, at in cls.model_fields.items():
        if name not in given:
            continue
        annotation: Any = Annotated[at.annotation, *at.metadata] if at.metadata else at.annotation
        walk.failed_part = None
        try:
            sound[name] = TypeAdapter(annotation).validate_python(given[name], context=walk)
        except ValidationError:
            # Of a nested part that failed, what is sound can still be read.
            if isinstance(given[name], dict) and walk.failed_part is not None:
                sound[name] = walk.failed_part
                faulty.discard(name)
    part = cls.model_construct(**sound)
    for name in faulty:
        part.__dict__.pop(name, None)
    return part


def _as_init_details(details: Mapping[str, Any]) -> InitErrorDetails:
    message = details["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
    return InitErrorDetails(type=_custom(details["type"], message), loc=details["loc"], input=details["input"])


def _fault(cls: type[Settings], tree: dict[str, Any], origins: Origins, details: Mapping[str, Any]) -> Fault:
    path: list[str] = []
    value: Any = tree
    for depth, key in enumerate(details["loc"]):
        inside = (isinstance(value, dict) and key in value) or (isinstance(value, list) and isinstance(key, int))
        if inside:
            value = value[key]
        elif depth + 1 < len(details["loc"]) and annotation_at(cls, [*path, str(key)]) is None:
            continue  # the name of a union's arm, which no user wrote
        path.append(str(key))
    dotted = ".".join(path)
    origin = next((origins[at] for at in (tuple(path[:end]) for end in range(len(path), 0, -1)) if at in origins), None)
    annotation = annotation_at(cls, path)
    match details["type"]:
        case "missing":
            return Fault(dotted, f"required, and not given; it takes {describe(annotation)}", None, origin)
        case "rule":
            return Fault(dotted, details["msg"])
        case "extra_forbidden":
            return Fault(dotted, _unknown_key_message(cls, path), shown(value), origin)
    message = details["msg"]
    if details["type"].startswith("model_type") or details["type"] == "dict_type":
        message = "must be a mapping of fields"
    elif details["type"].startswith("list_type"):
        message = "must be a list, as in [a, b]"
    elif details["type"].startswith("string_type"):
        message = "must be text; put quotes around it"
    return Fault(dotted, message, shown(value), origin)


def _unknown_key_message(cls: type[Settings], path: Sequence[str]) -> str:
    parent = annotation_at(cls, path[:-1])
    here = next((arm for arm in arms(parent) if is_part(arm)), cls)
    prefix = "".join(f"{name}." for name in path[:-1])
    near = [prefix + name for name in difflib.get_close_matches(path[-1], here.model_fields, n=2)]
    if not near:
        everywhere = [name for name, _ in leaves(cls)]
        last_names = difflib.get_close_matches(path[-1], {name.rsplit(".", 1)[-1] for name in everywhere}, n=1)
        near = [name for name in everywhere if name.rsplit(".", 1)[-1] in last_names]
    if near:
        return f"no such field; did you mean {' or '.join(near)}?"
    return f"no such field; here are {', '.join(here.model_fields)}"


# --- the command line -------------------------------------------------------------------------------------------------


def _split_arguments(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str | None]], list[Fault]]:
    """Config files, (dotted name, text or None for a bare flag) in order, and faults."""
    files: list[str] = []
    overrides: list[tuple[str, str | None]] = []
    faults: list[Fault] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            faults.append(
                Fault(word, "stands alone; write --name value, and a list as --name '[a, b]'", None, _COMMAND_LINE)
            )
            continue
        name, equals, text = word[2:].partition("=")
        value: str | None = text if equals else None
        if not equals and words and not words[0].startswith("--"):
            value = words.pop(0)
        if name in ("local_rank", "local-rank"):
            continue  # every launcher of distributed jobs adds it; the environment says the same
        if name.partition(".")[0] == "dry-run":
            name = name.replace("-", "_", 1)  # the one flag that other programs have taught everybody to write so
        if name != "config":
            overrides.append((name, value))
        elif value is None:
            faults.append(Fault("--config", "needs a file", None, _COMMAND_LINE))
        else:
            files.append(value)
    if len(files) > 1:
        faults.append(Fault("--config", f"given {len(files)} times, one file is read", ", ".join(files), _COMMAND_LINE))
    return files, overrides, faults


def _apply_override(
    cls: type[Settings], tree: dict[str, Any], origins: Origins, name: str, text: str | None
) -> list[Fault]:
    path = name.split(".")
    kinds = arms(annotation_at(cls, path))
    try:
        value = _override_value(kinds, text)
    except YamlFault as error:
        return [Fault(name, error.reason, text, error.where)]
    is_turned_on = text is None and any(is_part(kind) for kind in kinds)
    if is_turned_on:
        value = {}  # a part with its defaults
    elif text is None and kinds and bool not in kinds and Any not in kinds:
        return [Fault(name, "needs a value", None, _COMMAND_LINE)]
    at: Any = tree
    for depth, key in enumerate(path):
        last = depth + 1 == len(path)
        if isinstance(at, list):
            if not key.isdigit() or int(key) > len(at):
                where = ".".join(path[:depth])
                return [Fault(name, f"{where} has {len(at)} items; the next is {where}.{len(at)}", None, _COMMAND_LINE)]
            if int(key) == len(at):
                at.append(None)
            slot: Any = int(key)
        else:
            slot = key
        if last and is_turned_on and isinstance(at, dict) and isinstance(at.get(slot), dict):
            return []  # it is on, with fields of its own
        if last:
            at[slot] = value
        else:
            held = at[slot] if isinstance(at, list) else at.get(slot)
            if not isinstance(held, dict | list):
                # A part that was off, or not there, comes into being with its first field.
                held = [] if path[depth + 1].isdigit() else {}
                at[slot] = held
            at = held
    for known in [known for known in origins if known[: len(path)] == tuple(path)]:
        del origins[known]
    origins[tuple(path)] = _COMMAND_LINE
    for end in range(1, len(path)):
        origins.setdefault(tuple(path[:end]), _COMMAND_LINE)
    return []


def _override_value(kinds: Sequence[Any], text: str | None) -> Any:
    if text is None:
        return True
    is_text = [arm in (str, Path) or (get_origin(arm) is Literal and _all_text(arm)) for arm in kinds]
    nullable = types.NoneType in kinds
    if any(is_text) and all(known or arm is types.NoneType for known, arm in zip(is_text, kinds, strict=True)):
        # `--name 007` names a thing; it counts nothing.
        return None if nullable and text in ("null", "~") else text
    return read_value(text)


def _all_text(literal: Any) -> bool:
    return all(isinstance(choice, str) for choice in get_args(literal))


# --- what is written beside every output ------------------------------------------------------------------------------


def dump(settings: Settings) -> str:
    """The resolved settings as YAML, which `--config` reads back to an equal object."""
    return write_tree(settings.model_dump(mode="json"))


def provenance() -> dict[str, Any]:
    """Versions, git commit (None outside a checkout) and machine; imports none of the packages it names."""
    packages: dict[str, str | None] = {}
    for package in _PROVENANCE_PACKAGES:
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            packages[package] = None
    return {
        "disranker": disranker.__version__,
        "git_commit": _git_commit(Path(disranker.__file__).resolve().parent.parent),
        "packages": packages,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }


def _git_commit(checkout: Path) -> str | None:
    """The commit of a checkout, with `-dirty` behind it when tracked files differ from it."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
