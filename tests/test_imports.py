"""The house rules on imports and on size, held by reading the source; DESIGN in one table: `TIERS`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAGE_FOLDERS = ("pretrain", "rank", "distill", "eval")

# Module or package -> tier; the longest prefix counts.  Imports point to a lower tier, or stay in one without a cycle.
TIERS = {
    "disranker": 0,  # only __version__
    "disranker.schema": 0,
    "disranker.config": 0,
    "disranker.settings": 0,
    "disranker.settings_help": 0,
    "disranker.yaml_text": 0,
    "disranker.dist": 0,
    "disranker.shards": 0,
    "disranker.text": 1,
    "disranker.losses": 1,
    "disranker.evaluation.measures": 1,
    "disranker.evaluation.pnr_measure": 1,
    "disranker.evaluation.pairs": 1,
    "disranker.evaluation.rules": 1,
    "disranker.evaluation.columns": 1,
    "disranker.evaluation.column_measures": 1,
    "disranker.evaluation.tables": 1,
    "disranker.data": 2,
    "disranker.models": 2,
    "disranker.train": 3,
    "disranker.teacher": 3,
    "disranker.augment": 3,
    "disranker.evaluation": 3,
    "disranker.export": 4,
    "disranker.serve": 4,
    "disranker.sweep": 4,
    "disranker.launch": 4,
    "disranker.demo": 4,
    "disranker.cli": 4,
}

# (who, what it must not import, why); prefixes on both sides.
BANNED = [
    ("disranker.losses", "disranker.models", "losses are functions of tensors"),
    ("disranker.losses", "disranker.text", "losses are functions of tensors"),
    ("disranker.train.engine", "disranker.models", "the engine is handed objects"),
    ("disranker.train.engine", "disranker.data", "the engine is handed objects"),
    ("disranker.train.engine", "disranker.text", "the engine is handed objects"),
    ("disranker.serve", "disranker.train", "serving needs no training"),
    ("disranker.export", "disranker.train", "exporting needs no training"),
]

# A module that must be usable with little in hand -> the third-party packages that it may import at its top.
LIGHT = {
    "disranker.schema": set(),
    "disranker.shards": set(),
    "disranker.cli": set(),
    "disranker.launch": set(),
    "disranker.yaml_text": {"yaml"},
    "disranker.settings": {"pydantic", "pydantic_core"},
    "disranker.settings_help": {"pydantic", "typing_extensions"},
    "disranker.config": {"pydantic"},
    "disranker.evaluation.measures": {"numpy", "ir_measures"},
    "disranker.evaluation.pnr_measure": {"numpy", "ir_measures"},
    "disranker.evaluation.pairs": {"numpy"},
    "disranker.evaluation.columns": {"numpy"},
    "disranker.evaluation.column_measures": {"numpy"},
    "disranker.losses": {"torch"},
    "disranker.data.world": {"numpy", "pyarrow"},
}

Edge = tuple[str, str, int]
"""Importing module, imported module, line."""


def module_name(path: Path) -> str:
    """`disranker/data/world.py` -> `disranker.data.world`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_files() -> list[Path]:
    return sorted((ROOT / "disranker").rglob("*.py"))


def stage_files() -> list[Path]:
    return sorted(path for folder in STAGE_FOLDERS for path in (ROOT / folder).rglob("*.py"))


@cache
def read_imports(source: str, module: str, is_package: bool, *, top_only: bool = False) -> list[tuple[str, int]]:
    """Dotted names that a source imports, with lines; `from a import b` gives `a.b`; `if TYPE_CHECKING` counts too.

    With `top_only` those inside functions are left out.
    """
    imports = []
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            imports += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                home = module.split(".") if is_package else module.split(".")[:-1]
                home = home[: len(home) - node.level + 1]
                base = ".".join([*home, base] if base else home)
            imports += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
        elif top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        waiting.extend(ast.iter_child_nodes(node))
    return imports


def longest_known(name: str, known: set[str]) -> str | None:
    """The module that `a.b.c` lies in: itself, or the nearest parent that is known."""
    while name not in known:
        name, dot, _ = name.rpartition(".")
        if not dot:
            return None
    return name


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def tier_of(module: str) -> int:
    # A new file at the top of the package must be placed by name: the package itself is no home for it.
    home = longest_known(module, set(TIERS))
    assert home is not None and (home != "disranker" or module == "disranker"), f"{module} has no tier: add it to TIERS"
    return TIERS[home]


def read_edges(files: dict[str, Path], *, top_only: bool = False) -> list[Edge]:
    """All edges between the given modules."""
    edges, known = [], set(files)
    for module, path in files.items():
        imports = read_imports(path.read_text("utf-8"), module, path.name == "__init__.py", top_only=top_only)
        for name, line in imports:
            target = longest_known(name, known)
            if target is not None and target != module:
                edges.append((module, target, line))
    return edges


def find_cycle(edges: list[Edge]) -> list[str]:
    """Some cycle as a list of modules, or nothing."""
    targets: dict[str, set[str]] = {}
    for module, target, _ in edges:
        targets.setdefault(module, set()).add(target)
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for target in sorted(targets.get(module, ())):
            cycle = visit(target, [*trail, module])
            if cycle:
                return cycle
        done.add(module)
        return []

    return next((cycle for module in sorted(targets) if (cycle := visit(module, []))), [])


@pytest.fixture(scope="module")
def modules() -> dict[str, Path]:
    found = {module_name(path): path for path in package_files()}
    assert len(found) >= 20, "the walk finds too little to hold anything"
    return found


@pytest.fixture(scope="module")
def edges(modules: dict[str, Path]) -> list[Edge]:
    found = read_edges(modules)
    assert len(found) >= 20, "the walk finds too little to hold anything"
    return found


@pytest.fixture(scope="module")
def edges_at_top(modules: dict[str, Path]) -> list[Edge]:
    return read_edges(modules, top_only=True)


def test_imports_point_down_the_tiers(edges: list[Edge]) -> None:
    # Everyone may read the version.
    upward = [
        f"{module}:{line} (tier {tier_of(module)}) imports {target} (tier {tier_of(target)})"
        for module, target, line in edges
        if tier_of(target) > tier_of(module)
    ]
    assert upward == []


def test_no_cycles(edges: list[Edge]) -> None:
    assert find_cycle(edges) == []


def test_banned_edges(edges: list[Edge]) -> None:
    banned = [
        f"{module}:{line} imports {target}: {reason}"
        for module, target, line in edges
        for who, what, reason in BANNED
        if within(module, who) and within(target, what)
    ]
    assert banned == []


def test_nothing_imports_a_stage() -> None:
    files = [*package_files(), *stage_files()]
    assert len(stage_files()) >= 4
    found = []
    for path in files:
        # A stage script runs with its own folder first on sys.path, so its siblings' bare names are stages too.
        siblings = {other.stem for other in path.parent.glob("*.py")} if path.parent.name in STAGE_FOLDERS else set()
        for name, line in read_imports(path.read_text("utf-8"), module_name(path), path.name == "__init__.py"):
            if name.split(".")[0] in {*STAGE_FOLDERS, *siblings} or within(name, "disranker.stages"):
                found.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert found == []


def test_stage_folders_are_no_packages() -> None:
    assert [str(path) for path in stage_files() if path.name == "__init__.py"] == []
    assert [folder for folder in STAGE_FOLDERS if not (ROOT / folder).is_dir()] == []


@pytest.mark.parametrize("light", sorted(LIGHT))
def test_light_modules_import_little_at_their_top(
    light: str, modules: dict[str, Path], edges_at_top: list[Edge]
) -> None:
    """Also through the modules of ours that they import."""
    reached = {module for module in modules if within(module, light)}
    assert reached, f"{light} is gone: mend LIGHT"
    waiting = list(reached)
    while waiting:
        module = waiting.pop()
        for who, target, _ in edges_at_top:
            if who == module and target not in reached:
                reached.add(target)
                waiting.append(target)
    imported = {
        name.split(".")[0]
        for module in reached
        for name, _ in read_imports(
            modules[module].read_text("utf-8"), module, modules[module].name == "__init__.py", top_only=True
        )
    }
    allowed = LIGHT[light].union(*(LIGHT[module] for module in reached if module in LIGHT))
    assert imported - set(sys.stdlib_module_names) - {"disranker"} - allowed == set()


def test_light_modules_load_nothing_heavy() -> None:
    light = "disranker.schema, disranker.settings, disranker.config.rank, disranker.cli, disranker.data.world"
    heavy = ["torch", "transformers", "deepspeed", "matplotlib", "bm25s", "onnxruntime", "datasets", "peft"]
    code = f"import sys, {light}\nprint(*sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_third_party_imports_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    required = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    declared = {re.split(r"[<>=!~\[; ]", item)[0].lower().replace("-", "_") for item in required}
    # What is imported under another name than it is installed, or comes with one that is declared.
    declared |= {"yaml", "pydantic_core"}
    undeclared = {}
    for path in [*package_files(), *stage_files()]:
        for name, line in read_imports(path.read_text("utf-8"), module_name(path), path.name == "__init__.py"):
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top != "disranker" and top.lower() not in declared:
                undeclared[top] = f"{path.relative_to(ROOT)}:{line}"
    assert undeclared == {}


def test_sizes_and_names() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in package_files()}
    assert {str(path): number for path, number in lengths.items() if number > 500} == {}
    scripts = {path: len(path.read_text("utf-8").splitlines()) for path in stage_files()}
    # A benchmark has nobody else to leave its work to.
    assert {str(path): n for path, n in scripts.items() if n >= (250 if path.stem == "benchmark" else 80)} == {}
    assert [str(path) for path in [*lengths, *scripts] if path.stem in ("utils", "helpers", "common", "misc")] == []


def test_the_walk_itself() -> None:
    """The checks above are as good as their reading of imports."""
    source = (
        "import a.b\nfrom . import c\nfrom .d import e\nfrom ..f import g\n"
        "if True:\n    import h\ndef x():\n    from i import j\n"
        "class K:\n    def l(self):\n        import m\n    import n\n"
    )
    every = {"a.b", "p.q.c", "p.q.d.e", "p.f.g", "h", "i.j", "m", "n"}
    assert {name for name, _ in read_imports(source, "p.q.r", False)} == every
    assert {name for name, _ in read_imports(source, "p.q.r", False, top_only=True)} == every - {"i.j", "m"}
    assert {name for name, _ in read_imports("from . import c", "p.q", True)} == {"p.q.c"}
    assert find_cycle([("a", "b", 1), ("b", "c", 1)]) == []
    assert find_cycle([("a", "b", 1), ("b", "c", 1), ("c", "b", 1)]) == ["b", "c", "b"]
    with pytest.raises(AssertionError, match="has no tier"):
        tier_of("disranker.novelty")
