"""What docs/ says that stands in the code, too: whole configs, settings in a line, tables of terms."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest

from disranker.config.distill import DistillConfig
from disranker.config.distill_terms import LEAST_DOCUMENTS, NEED_DISTANCES, NEED_REPRESENTATIONS, NEED_TEACHER, TermName
from disranker.config.losses import LossName
from disranker.config.mining import MiningConfig
from disranker.yaml_text import read_value
from tests.test_repository import ROOT, config_class

DOCS = sorted((ROOT / "docs").glob("*.md"))
CONFIGS = [
    pytest.param(block, id=f"{path.name}-{at}")
    for path in DOCS
    for at, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL))
]
DISTILL = (ROOT / "docs" / "distill.md").read_text("utf-8")
IN_A_LINE = re.findall(r"`((?:distill|supervised|mining|perturbation|consistency|quantisation): .+?)`", DISTILL)
LEAST: dict[str, Any] = {
    **{"out": "x", "store": "x", "candidates": ["x"], "model": {"name": "m"}, "optim": {"learning_rate": 1e-3}},
    "training": {"steps": 1000},
}


@pytest.mark.parametrize("block", CONFIGS)
def test_a_config_in_the_docs_is_one_of_its_stage(block: str, tmp_path: Path) -> None:
    first_line = block.splitlines()[0]
    assert first_line.startswith("# "), "a config begins with the command that runs it"
    script = next(ROOT / word for word in shlex.split(first_line[2:]) if word.endswith(".py"))
    path = tmp_path / "config.yaml"
    path.write_text(block, "utf-8")
    config_class(script).parse(["--config", str(path)], look_at_inputs=False)


def test_the_docs_have_configs_and_settings() -> None:
    # A walk that finds nothing would hold nothing.
    assert len(CONFIGS) >= 3 and len(IN_A_LINE) >= 4


@pytest.mark.parametrize("text", IN_A_LINE)
def test_settings_in_a_line_are_those_of_stage_3(text: str) -> None:
    name, value = text.split(": ", 1)
    config = DistillConfig.model_validate({**LEAST, name: read_value(value)})
    assert getattr(config, name) != DistillConfig.model_fields[name].default


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the table under a heading of distill.md, without its head."""
    section = DISTILL.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_of_signals_says_what_each_one_needs() -> None:
    def reads(name: TermName) -> str:
        kinds = {"scores": NEED_DISTANCES, "stored states": NEED_REPRESENTATIONS, "running teacher": NEED_TEACHER}
        return next((kind for kind, names in kinds.items() if name in names), "order")

    expected = {name: [reads(name), str(LEAST_DOCUMENTS[name])] for name in get_args(TermName)}
    rows = rows_of("Signals of the teacher")
    assert {row[0]: row[1:3] for row in rows} == expected and len(rows) == len(expected)


def test_every_loss_on_labels_and_every_choice_of_examples_is_named() -> None:
    section = DISTILL.split("## Labels", 1)[1].split("\n## ", 1)[0]
    assert all(f"`{name}`" in section for name in get_args(LossName))
    assert [row[0] for row in rows_of("Examples")] == list(MiningConfig.model_fields)
