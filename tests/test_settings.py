"""The settings mechanism: values from file and command line, help, and the round trip."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from disranker.settings import dump
from tests.trial_settings import REQUIRED, Config, Cosine, Lora, Optim, write, write_config


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    return write_config(tmp_path)


# --- values ---


def test_defaults_and_required_fields() -> None:
    config = Config.parse(REQUIRED)
    assert (config.out, config.model.name, config.optim.learning_rate, config.optim.steps) == (
        "runs/x",
        "some/model",
        1e-3,
        None,
    )


def test_file_then_command_line_which_wins(config_file: str) -> None:
    config = Config.parse(["--optim.steps", "9", "--config", config_file, "--optim.fused=true"])
    assert config.out == "runs/file"
    assert config.optim == Optim(learning_rate=1e-4, steps=9, fused=True)
    assert Config.parse([f"--config={config_file}"]).optim.steps == 7


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", "1.0e-4", ".0001", "'1e-4'"])
def test_numbers_with_exponents_are_numbers(tmp_path: Path, text: str) -> None:
    assert Config.parse([*REQUIRED, "--optim.learning_rate", text]).optim.learning_rate == 1e-4
    file = write(tmp_path / "lr.yaml", f"optim: {{learning_rate: {text}}}")
    assert Config.parse([*REQUIRED, "--config", file]).optim.learning_rate == 1e-4


def test_integers_may_be_written_in_powers_of_ten() -> None:
    assert Config.parse([*REQUIRED, "--seed", "1e3", "--extra", "{rows: 1_000}"]).seed == 1000
    assert Config.parse([*REQUIRED, "--extra", "{rows: 1_000}"]).extra == {"rows": 1000}
    assert Config.parse([*REQUIRED, "--seed", "-5"]).seed == -5


def test_text_fields_take_the_text_as_it_is() -> None:
    for text in ("007", "true", "null", "1e-4", "a: b", "[x", "#1", "2024-01-01"):
        assert Config.parse(["--out", text, "--model.name", "m"]).out == text


def test_null_turns_an_optional_part_off_and_a_field_creates_it(tmp_path: Path) -> None:
    file = write(tmp_path / "lora.yaml", "model:\n  lora:\n    r: 4\n")
    assert Config.parse([*REQUIRED, "--config", file]).model.lora == Lora(r=4)
    assert Config.parse([*REQUIRED, "--config", file, "--model.lora", "null"]).model.lora is None
    assert Config.parse([*REQUIRED, "--model.lora.r", "8"]).model.lora == Lora(r=8)
    assert Config.parse([*REQUIRED, "--model.lora", "null", "--model.lora.r", "8"]).model.lora == Lora(r=8)
    assert Config.parse([*REQUIRED, "--model.lora", "{}"]).model.lora == Lora()
    assert Config.parse([*REQUIRED, "--optim.steps", "3", "--optim.steps", "null"]).optim.steps is None


def test_a_bare_flag_is_true() -> None:
    assert Config.parse(["--optim.fused", *REQUIRED]).optim.fused is True
    assert Config.parse([*REQUIRED, "--optim.fused"]).optim.fused is True
    assert Config.parse([*REQUIRED, "--optim.fused", "false"]).optim.fused is False


def test_lists_mappings_and_discriminated_parts(tmp_path: Path) -> None:
    here = str(tmp_path)
    config = Config.parse(
        [
            *REQUIRED,
            *("--teachers", f"[{{path: {here}}}]"),
            *("--teachers.0.weight", "0.5"),
            *("--teachers.1.path", here),
            *("--inputs", f"[{here}]"),
            *("--systems.first.path", here),
            *("--schedule.shape", "cosine"),
            *("--schedule.final_share", "0.1"),
            *("--limit", "10"),
            *("--optim.betas", "[0.9, 0.95]"),
        ]
    )
    assert [(teacher.path, teacher.weight) for teacher in config.teachers] == [(tmp_path, 0.5), (tmp_path, 1.0)]
    assert config.inputs == [tmp_path]
    assert config.systems["first"].path == tmp_path
    assert config.schedule == Cosine(shape="cosine", final_share=0.1)
    assert config.limit == 10
    assert config.optim.betas == (0.9, 0.95)


def test_the_launchers_rank_is_ignored() -> None:
    for given in (["--local_rank=3"], ["--local-rank", "3"], ["--local_rank", "0"]):
        assert Config.parse([*given, *REQUIRED]) == Config.parse(REQUIRED)


def test_settings_are_frozen() -> None:
    config = Config.parse(REQUIRED)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1


def test_yaml_words_of_version_one_stay_text(tmp_path: Path) -> None:
    file = write(tmp_path / "w.yaml", "extra: {a: yes, b: off, c: 010, d: '12:30', e: 12:30, f: 2024-01-01, g: true}")
    extra = Config.parse([*REQUIRED, "--config", file]).extra
    assert extra == {"a": "yes", "b": "off", "c": "010", "d": "12:30", "e": "12:30", "f": "2024-01-01", "g": True}


# --- load, help, dump ---


def test_load_prints_faults_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Config.load(["--seed", "x"], prog="rank/train.py")
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("rank/train.py: 3 faults in the settings:\n  - ")
    assert captured.err.endswith("`rank/train.py --help` lists every field.\n")


def test_load_takes_sys_argv_when_given_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prog", *REQUIRED])
    assert Config.load(None, prog="prog") == Config.parse(REQUIRED)


def test_help_lists_every_field_with_type_default_and_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Config.load(["--help"], prog="rank/train.py", description="Trains a ranker.\n\n    run  me\n")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0] == "usage: rank/train.py --config FILE.yaml [--part.field value ...]"
    assert lines[2:5] == ["Trains a ranker.", "", "    run  me"]
    expected = {
        "--out  text  (required)": "Folder that is written.",
        "--model.name  text  (required)": "Folder or hub name.",
        "--model.kind  decoder|encoder  (default: decoder)": "Family of the model.",
        "--model.lora  group of fields or null  (default: null)": "Low-rank adapters; null trains all weights.",
        "--model.lora.r  integer > 0  (default: 16)": "Rank of the update.",
        "--model.lora.alpha  number  (default: 32.0)": "Scale of the update.",
        "--optim.learning_rate  number > 0  (default: 0.001)": "Peak learning rate.",
        "--optim.steps  integer >= 1 or null  (default: null)": "Steps to take; null takes all.",
        "--optim.fused  true|false  (default: false)": "Use the fused kernel.",
        "--optim.betas  list of number  (default: [0.9, 0.999])": "Decay rates of the moments.",
        "--teachers  list of groups of fields  (default: [])": "Teachers to mix.",
        "--teachers.N.path  existing path  (required)": "Folder of the teacher.",
        "--teachers.N.weight  number  (default: 1.0)": "Share in the mixture.",
        "--inputs  list of existing path  (default: [])": "Files to read.",
        "--systems  mapping of groups of fields  (default: {})": "Named teachers.",
        "--systems.NAME.path  existing path  (required)": "Folder of the teacher.",
        "--systems.NAME.weight  number  (default: 1.0)": "Share in the mixture.",
        "--extra  mapping  (default: {})": "Anything.",
        "--schedule.shape  constant  (required)": "Keeps the rate.",
        "--schedule.final_share  number  (default: 0.0)": "Share of the peak at the end.",
        "--limit  all or integer  (default: all)": "Rows to read.",
        "--seed  integer  (default: 0)": "Root of all randomness.",
    }
    for heading, docstring in expected.items():
        assert f"  {heading}" in lines, heading
        assert lines[lines.index(f"  {heading}") + 1] == f"      {docstring}"
    assert "model: The network." in lines
    assert "teachers.N:" in lines
    assert max(len(line) for line in lines) <= 100


def test_dump_is_read_back_to_an_equal_object(tmp_path: Path) -> None:
    config = Config.parse(
        [
            *("--out", "1e-4", "--model.name", "yes", "--model.lora.r", "8", "--optim.learning_rate", "1e-7"),
            *("--inputs", f"[{tmp_path}]", "--schedule.shape", "cosine", "--limit", "5"),
            *("--extra", "{a: '007', b: [1, null, 'null'], c: 搜索, d: 'off', e: '1:30', f: '2024-01-01'}"),
        ]
    )
    text = dump(config)
    assert Config.parse(["--config", write(tmp_path / "c.yaml", text)]) == config
    # Other readers of YAML must not mistake a text for something else either.
    other = yaml.safe_load(text)
    assert (other["out"], other["model"]["name"], other["extra"]["d"]) == ("1e-4", "yes", "off")
    assert (other["extra"]["e"], other["extra"]["f"], other["extra"]["c"]) == ("1:30", "2024-01-01", "搜索")
