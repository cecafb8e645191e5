"""From the settings of a sweep or a path to steps: the command of each, where it writes, what it needs, and its key.

A step's key is a hash of its resolved settings, of the content of the files that it reads, and of the keys of the steps
whose folders it names: what has the same key need not be done again.  All settings are checked here, before the first
step runs.  Nothing is run or written.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from disranker.config.path import PathConfig
from disranker.config.sweep import StepConfig, SweepConfig
from disranker.launch import stage_script
from disranker.settings import Fault, Settings, SettingsError
from disranker.settings_help import annotation_at
from disranker.shards import MANIFEST_NAME, file_hash

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
# Small files that stand for a large folder: the fingerprint of a bundle's weights, the hashes of a store's shards.
_SEALS = ("disranker.json", MANIFEST_NAME)


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a sweep or a path."""

    seed: int
    variant: str | None
    """None: a step that all variants of the seed build on, or the measuring of the references."""
    kind: str
    """What its like in other seeds and variants is called: the name of its folder, or `eval`."""
    stage: str
    arguments: tuple[str, ...]
    made: Path
    """The folder, of an evaluation the metrics file, that stands there when the step is done."""
    needs: tuple[str, ...]
    """Names of the steps whose output it reads."""
    key: str
    files: Path
    """Where its marker (.json) and its log (.log) are, without the suffix."""

    @property
    def name(self) -> str:
        """`seed-0/world`, `seed-0/hinge.rank`, `seed-0/hinge.eval`."""
        return f"seed-{self.seed}/{self.files.name}"

    @property
    def log(self) -> Path:
        """Everything that the command printed."""
        return self.files.with_name(self.files.name + ".log")

    @property
    def marker(self) -> Path:
        """How far the step has come."""
        return self.files.with_name(self.files.name + ".json")


def make_plan(config: SweepConfig | PathConfig) -> list[Step]:
    """The steps of a sweep or a path, each after those that it needs.

    Raises:
        SettingsError: settings of a step that its stage does not take, a file that is not there and that no earlier
            step writes, an unknown {placeholder}.
    """
    _content_hash.cache_clear()
    faults: dict[tuple[str, str], Fault] = {}
    steps: list[Step] = []
    for seed in config.seeds:
        plan = _SeedPlan(config, seed, faults)
        steps += plan.steps_of_path(config) if isinstance(config, PathConfig) else plan.steps_of_sweep(config)
    if faults:
        raise SettingsError(list(faults.values()))
    return steps


def seed_folder(config: SweepConfig | PathConfig, seed: int) -> Path:
    """Where all of one seed is."""
    return Path(config.out) / f"seed-{seed}"


def evaluated_folder(config: SweepConfig | PathConfig, seed: int) -> Path:
    """Where the evaluated systems of one seed are."""
    return seed_folder(config, seed) / "evaluated"


@dataclass(slots=True)
class _SeedPlan:
    """The steps of one seed while they are found."""

    config: SweepConfig | PathConfig
    seed: int
    faults: dict[tuple[str, str], Fault]
    """By setting and message: a fault of a shared setting is told once, not for every variant and seed."""
    found: list[Step] = field(default_factory=list)

    def steps_of_path(self, config: PathConfig) -> list[Step]:
        folder = seed_folder(config, self.seed)
        made = self._chain("steps", None, config.steps, folder, {})
        rankers = {name: {"kind": "bundle", "path": str(folder / name)} for name in config.rankers}
        self._evaluation("references", None, {**config.references, **rankers}, made)
        return self.found

    def steps_of_sweep(self, config: SweepConfig) -> list[Step]:
        folder = seed_folder(config, self.seed)
        prepared = self._chain("prepare", None, config.prepare, folder, {})
        if config.references:
            self._evaluation("references", None, config.references, prepared)
        for variant, steps in _chains(config).items():
            made = self._chain(variant, variant, steps, folder / "variants" / variant, prepared)
            bundle = folder / "variants" / variant / steps[-1].folder
            self._evaluation(variant, variant, {variant: {"kind": "bundle", "path": str(bundle)}}, made)
        return self.found

    def _chain(
        self, where: str, variant: str | None, steps: list[StepConfig], folder: Path, outputs: Mapping[Path, Step]
    ) -> dict[Path, Step]:
        """Add the steps; gives all folders that a next step may read."""
        known = dict(outputs)
        for step in steps:
            out = folder / step.folder
            given = self._filled(f"{where}.{step.folder}", step.set, {"dir": str(folder)})
            config_file = [] if step.config is None else ["--config", str(step.config)]
            known[out] = self._step(where, variant, step.folder, step.stage, config_file, given, out, out, known)
        return known

    def _evaluation(
        self, where: str, variant: str | None, systems: Mapping[str, Any], outputs: Mapping[Path, Step]
    ) -> None:
        out = evaluated_folder(self.config, self.seed)
        given = self._filled("evaluate", {**self.config.evaluate, "systems": systems}, {})
        made = out / f"{list(systems)[-1]}.metrics.json"
        self._step(where, variant, "eval", "eval", [], given, out, made, outputs)

    def _step(
        self,
        where: str,
        variant: str | None,
        kind: str,
        stage: str,
        config_file: list[str],
        given: dict[str, Any],
        out: Path,
        made: Path,
        outputs: Mapping[Path, Step],
    ) -> Step:
        settings_class = None if stage == "world" else stage_config(stage)
        given = _seed_setting(settings_class, self.seed) | given
        arguments = [*config_file, "--out", str(out), *_words(given)]
        path = f"{where}.{kind}"
        resolved: Any = given
        if settings_class is not None:
            try:
                settings = settings_class.parse(arguments, look_at_inputs=False)
            except SettingsError as error:
                for fault in error.faults:
                    self._fault(path, fault)
            else:
                resolved = {name: value for name, value in settings.model_dump().items() if name != "out"}
        needs, contents = self._inputs(path, resolved, out, outputs)
        described = [stage, resolved, sorted(step.key for step in needs), sorted(contents)]
        text = json.dumps(described, sort_keys=True, default=str, ensure_ascii=False)
        name = kind if variant is None else f"{variant}.{kind}"
        step = Step(
            seed=self.seed,
            variant=variant,
            kind=kind,
            stage=stage,
            arguments=tuple(arguments),
            made=made,
            needs=tuple(dict.fromkeys(step.name for step in needs)),
            key=hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
            files=seed_folder(self.config, self.seed) / "steps" / name,
        )
        self.found.append(step)
        return step

    def _inputs(
        self, where: str, resolved: Any, out: Path, outputs: Mapping[Path, Step]
    ) -> tuple[list[Step], list[str]]:
        """The steps whose folders the settings name, and the hashes of the other files that they name."""
        needs: list[Step] = []
        contents: list[str] = []
        for at, value in _leaves(resolved):
            path = Path(value)
            if path.is_relative_to(out):
                continue
            if path.is_relative_to(seed_folder(self.config, self.seed)):
                makers = [step for folder, step in outputs.items() if path.is_relative_to(folder)]
                needs += makers
                if not makers:
                    reason = "no earlier step of this seed or variant writes this"
                    self._fault(where, Fault(at, reason, str(value)))
            elif isinstance(value, Path) and not path.exists():
                self._fault(where, Fault(at, "there is no such file or folder", str(value)))
            elif isinstance(value, Path) or ("/" in value and path.is_dir()):
                contents.append(_content_hash(path))
        return needs, contents

    def _filled(self, where: str, given: Mapping[str, Any], folders: Mapping[str, str]) -> dict[str, Any]:
        """The settings with their placeholders filled in."""
        values = {"seed": str(self.seed), "seed_dir": str(seed_folder(self.config, self.seed)), **folders}

        def fill(at: str, value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: fill(f"{at}.{name}", item) for name, item in value.items()}
            if isinstance(value, list):
                return [fill(f"{at}.{index}", item) for index, item in enumerate(value)]
            if not isinstance(value, str):
                return value
            unknown = [name for name in _PLACEHOLDER.findall(value) if name not in values]
            if unknown:
                known = ", ".join(f"{{{name}}}" for name in values)
                self._fault(where, Fault(at, f"there is no {{{unknown[0]}}} here; there are {known}", value))
            return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), value)

        return {name: fill(name, value) for name, value in given.items()}

    def _fault(self, where: str, fault: Fault) -> None:
        # What its own command line would say comes from the sweep's settings, as `where` says already.
        origin = None if fault.origin == "command line" else fault.origin
        told = Fault(f"{where}: {fault.path}", fault.message, fault.value, origin)
        self.faults.setdefault((fault.path, re.sub(r"seed-\d+", "", f"{fault.message} {fault.value}")), told)


def stage_config(stage: str) -> type[Settings]:
    """The settings class that a stage's script names as `CONFIG`; read, not run: running it would load torch."""
    body = ast.parse(stage_script(stage).read_text(encoding="utf-8")).body
    (name,) = [
        node.value.id
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and _names(node) == ["CONFIG"]
    ]
    (module,) = [
        node.module
        for node in body
        if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]
    ]
    found = getattr(importlib.import_module(module), name)
    assert issubclass(found, Settings)
    return found


def _seed_setting(settings_class: type[Settings] | None, seed: int) -> dict[str, int]:
    """The seed under the name that the stage has for it; nothing where all it does is settled by its inputs."""
    if settings_class is None:
        return {"seed": seed}
    names = (name for name in ("seed", "training.seed") if annotation_at(settings_class, name.split(".")) is not None)
    return {name: seed for name in names}


def _names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def _chains(config: SweepConfig) -> dict[str, list[StepConfig]]:
    """Variant -> its steps."""
    chains: dict[str, list[StepConfig]] = {}
    for name, changed in config.vary.items():
        varied = config.vary_step or config.each[-1].folder
        chains[name] = [
            step.model_copy(update={"set": {**step.set, **changed}}) if step.folder == varied else step
            for step in config.each
        ]
    return chains | config.variants


def _words(given: Mapping[str, Any]) -> list[str]:
    """Settings as a command line; what is no text stands as JSON, which is YAML."""
    words = []
    for name, value in given.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
    return words


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, str | Path]]:
    """Every text and path of resolved settings, with its dotted name."""
    if isinstance(value, str | Path):
        yield at, value
    elif isinstance(value, Mapping | list | tuple):
        for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(item, f"{at}.{name}" if at else str(name))


@cache
def _content_hash(path: Path) -> str:
    if path.is_file():
        return file_hash(path)
    seals = [path / name for name in _SEALS if (path / name).exists()]
    if seals:
        return file_hash(seals[0])
    sizes = sorted((str(file.relative_to(path)), file.stat().st_size) for file in path.rglob("*") if file.is_file())
    return hashlib.blake2b(json.dumps(sizes).encode(), digest_size=16).hexdigest()
