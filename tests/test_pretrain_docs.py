"""What docs/pretrain.md says of formats, and its configs, held to the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from disranker.config.pretrain import ObjectivesConfig, PretrainConfig
from disranker.schema import Pair
from disranker.text.templates import FORMATS, PromptTemplate, TextFormat, get_template

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "pretrain.md").read_text("utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_there_are_configs_to_check() -> None:
    assert len(BLOCKS) == 2 == TEXT.count("```yaml")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.search(r"--config (\S+)", block)[1])
def test_a_config_loads_by_its_launch_line(block: str, tmp_path: Path) -> None:
    assert re.match(r"# deepspeed pretrain/train\.py --config \w+\.yaml\n", block)
    assert len(block.splitlines()) <= 12
    (tmp_path / "c.yaml").write_text(block)
    PretrainConfig.parse(["--config", str(tmp_path / "c.yaml")], look_at_inputs=False)


def test_formats_are_those_of_the_code_and_all_of_them() -> None:
    shown = dict(re.findall(r"^    ([\w-]+) +(.+)$", TEXT, re.MULTILINE))
    templates: list[PromptTemplate | TextFormat] = [*FORMATS.values()]
    for name in ("plain", "prompt-en", "prompt-zh"):
        template = get_template(name)
        assert isinstance(template, PromptTemplate)
        templates.append(template)
    pair = Pair("{query}", "{title}", "{summary}")
    texts = {template.name: template.text(pair).replace("\n", "⏎") for template in templates}
    # Documents alone are the texts for queries without their end.
    assert shown == {name: text for name, text in texts.items() if not name.startswith("document-")}
    assert all(texts[f"query-{words}"].startswith(texts[f"document-{words}"]) for words in ("plain", "en", "zh"))
    assert all(f"`{name}`" in TEXT for name in texts)


def test_every_objective_is_told() -> None:
    assert all(f"| `{name}` |" in TEXT for name in ObjectivesConfig.model_fields)
