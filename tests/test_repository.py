"""Facts that stand in two places of the repository, compared: configs and scripts, README and folders, pins."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from disranker.launch import STAGES
from disranker.settings import Settings, SettingsError

ROOT = Path(__file__).resolve().parent.parent
STAGE_FOLDERS = ("pretrain", "rank", "distill", "eval")
CONFIG_FILES = sorted(path for folder in STAGE_FOLDERS for path in (ROOT / folder).rglob("*.y*ml"))


def config_class(script: Path) -> type[Settings]:
    """The class that a stage script names as `CONFIG`, read without running it (running it would import torch)."""
    source = script.read_text("utf-8")
    (name,) = re.findall(r"^CONFIG = (\w+)$", source, re.MULTILINE)
    (module,) = re.findall(rf"^from (disranker\.config\.\w+) import .*\b{name}\b", source, re.MULTILINE)
    found = getattr(importlib.import_module(module), name)
    assert issubclass(found, Settings)
    return found


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def project_table() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


# --- shipped configs ---


def test_every_training_and_evaluation_stage_ships_a_config() -> None:
    # A walk that finds nothing would hold nothing.
    assert {path.parent.parent.name for path in CONFIG_FILES if path.parent.name == "configs"} == set(STAGE_FOLDERS)


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_config_loads_by_its_launch_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    first_line = path.read_text("utf-8").splitlines()[0]
    assert first_line.startswith("# "), "the first line is the command that runs the file"
    words = shlex.split(first_line[2:])
    script = next((ROOT / word for word in words if word.endswith(".py")), None)
    assert script is not None and script.exists(), first_line
    arguments = words[words.index(str(script.relative_to(ROOT))) + 1 :]
    assert arguments[:2] == ["--config", str(path.relative_to(ROOT))], first_line
    try:
        config_class(script).parse(arguments)
    except SettingsError as error:
        # What earlier stages write is not there yet; nothing else may be at fault.
        faults = [str(fault) for fault in error.faults if fault.message != "there is no such file or folder"]
        assert faults == []


@pytest.mark.parametrize("name", sorted(STAGES))
def test_every_stage_command_has_a_script_with_a_config_and_help(name: str) -> None:
    script = ROOT / STAGES[name][0]
    assert script.exists()
    config = config_class(script)
    text = config.help_text(prog=STAGES[name][0])
    undocumented = [
        line.split()[0]
        for line, below in zip(text.splitlines(), [*text.splitlines()[1:], ""], strict=True)
        if line.startswith("  --") and not below.startswith("      ")
    ]
    assert undocumented == []


# --- README ---


def readme() -> str:
    return (ROOT / "README.md").read_text("utf-8")


def tree_paths(text: str) -> set[str]:
    """The paths of the annotated tree: the fenced block that names pyproject.toml; folders end with a slash."""
    blocks = [block for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    block = next((block for block in blocks if re.search(r"^\W*pyproject\.toml\b", block, re.MULTILINE)), None)
    assert block is not None, "README has no fenced tree with pyproject.toml in it"
    paths: set[str] = set()
    open_folders: list[tuple[int, str]] = []
    for line in block.splitlines():
        entry = re.match(r"^([\s│├└─|`+-]*)([\w./-]+)", line)
        if entry is None:
            continue
        depth, name = len(entry[1]), entry[2]
        while open_folders and open_folders[-1][0] >= depth:
            open_folders.pop()
        parent = open_folders[-1][1] if open_folders else ""
        paths.add(parent + name)
        if name.endswith("/"):
            open_folders.append((depth, parent + name))
    return paths


def folders() -> set[str]:
    """The folders at the top, and those of the package, that git does not ignore."""
    ignored = set(re.findall(r"^/?([\w.-]+)/$", (ROOT / ".gitignore").read_text("utf-8"), re.MULTILINE))
    at_top = {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name not in ignored}
    inside = {f"disranker/{path.name}/" for path in (ROOT / "disranker").iterdir() if path.is_dir()}
    return {
        name
        for name in at_top | inside
        if not name.startswith(".") and "__pycache__" not in name and not name.endswith(".egg-info/")
    }


def test_readme_tree_equals_the_folders() -> None:
    paths = tree_paths(readme())
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    assert sorted(folders() - paths) == []


def test_tree_paths_reads_both_ways_of_drawing() -> None:
    expected = {"pyproject.toml", "a/", "a/b/", "a/b/c.py", "a/d.py", "e/"}
    drawn = "├── pyproject.toml  what\n├── a/   text\n│   ├── b/\n│   │   └── c.py\n│   └── d.py\n└── e/\n"
    plain = "pyproject.toml   what\na/       text\n  b/\n    c.py\n  d.py   more a/x text\ne/\n"
    for block in (drawn, plain):
        assert tree_paths(f"words\n```text\n{block}```\n") == expected


def test_make_targets_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"(?:^|`|\$ |&& )make ([a-z][a-z-]*)", readme(), re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named - makefile_targets() == set()


def test_commands_that_the_readme_names_exist() -> None:
    from disranker.cli import COMMANDS

    named = set(re.findall(r"(?:^|`|\$ |/)disranker ([a-z][a-z-]*)", readme(), re.MULTILINE))
    assert named - {*COMMANDS, *STAGES} == set()


# --- packaging ---


def test_makefile_explains_every_target() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    assert {"demo", "test", "test-all", "check", "models", "help", "clean"} <= makefile_targets()
    assert [name for name in makefile_targets() if not re.search(rf"^{name}:.*## \S", text, re.MULTILINE)] == []
    assert re.search(r"^\.DEFAULT_GOAL := help$", text, re.MULTILINE)


def test_packages_of_the_wheel_equal_the_folders() -> None:
    setuptools = project_table()["tool"]["setuptools"]
    with_python = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "disranker").rglob("*.py") if path.is_file()
    }
    stages = {f"disranker.stages.{folder}" for folder in STAGE_FOLDERS}
    assert set(setuptools["packages"]) == with_python | stages
    assert setuptools["package-dir"] == {f"disranker.stages.{folder}": folder for folder in STAGE_FOLDERS}
    # the configs of the stages, and what the report's page is made of
    assert set(setuptools["package-data"]) == {*stages, "disranker.evaluation"}


def test_constraints_pin_every_line_and_torch_as_the_makefile_does() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 30
    # No path, no address, no local label such as +cpu: the file must serve any machine.
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
    torch_pin = next(line for line in pins if line.startswith("torch=="))
    assert torch_pin in (ROOT / "Makefile").read_text("utf-8")
    names = {line.split("==")[0].lower().replace("_", "-") for line in pins}
    project = project_table()["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *extras["export"], *extras["dev"], *extras["models"]]
    unpinned = {re.split(r"[<>=!~\[; ]", item)[0].lower().replace("_", "-") for item in required} - names
    assert unpinned == set()
