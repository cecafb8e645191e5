"""The settings mechanism: every kind of fault with its message, and all of them at once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Self

import pytest
from pydantic import model_validator

from disranker.settings import OutputFolder, Settings, SettingsError
from tests.trial_settings import REQUIRED, Config, Teacher, write, write_config


def faults_of(*argv: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Config.parse(argv)
    return [str(fault) for fault in caught.value.faults]


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    return write_config(tmp_path)


def test_unknown_key_in_the_file_names_its_line_and_the_nearest_field(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "# first line\noptim:\n  fused: true\n  learning_rte: 0.1\n")
    assert faults_of(*REQUIRED, "--config", file) == [
        f"optim.learning_rte = 0.1: no such field; did you mean optim.learning_rate?  ({file}:4)"
    ]


def test_unknown_key_on_the_command_line() -> None:
    assert faults_of(*REQUIRED, "--optm.fused") == [
        "optm = {'fused': True}: no such field; did you mean optim?  (command line)"
    ]
    assert faults_of(*REQUIRED, "--learning_rate", "0.1") == [
        "learning_rate = 0.1: no such field; did you mean optim.learning_rate?  (command line)"
    ]
    assert faults_of(*REQUIRED, "--optim.zzz", "1") == [
        "optim.zzz = 1: no such field; here are learning_rate, steps, fused, betas  (command line)"
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("optim.learning_rate", "fast", "must be a valid number, unable to parse string as a number"),
        ("optim.learning_rate", "0", "must be greater than 0"),
        ("optim.learning_rate", ".nan", "must be a finite number"),
        ("optim.steps", "1.5", "must be a valid integer, got a number with a fractional part"),
        ("optim.steps", "true", "must be a number, not true or false"),
        ("optim.fused", "7", "must be a valid boolean, unable to interpret input"),
        ("optim", "7", "must be a mapping of fields"),
        ("model.kind", "decodr", "must be 'decoder' or 'encoder'"),
        ("model.lora", "12", "must be a mapping of fields"),
        ("inputs", "a.jsonl", "must be a list, as in [a, b]"),
        ("extra", "[1]", "must be a mapping of fields"),
        ("limit", "some", "must be all or integer"),
    ],
)
def test_wrong_type_names_path_value_and_what_is_allowed(name: str, text: str, message: str) -> None:
    shown = "nan" if text == ".nan" else "[1]" if text == "[1]" else text
    assert faults_of(*REQUIRED, f"--{name}={text}") == [f"{name} = {shown}: {message}  (command line)"]


def test_number_for_a_text_in_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "out: 12\nmodel:\n  name: m\n")
    assert faults_of("--config", file) == [f"out = 12: must be text; put quotes around it  ({file}:1)"]


def test_missing_fields_are_named_down_to_the_leaf(tmp_path: Path) -> None:
    assert faults_of() == [
        "out: required, and not given; it takes text",
        "model.name: required, and not given; it takes text",
    ]
    file = write(tmp_path / "c.yaml", "out: x\nmodel: {name: m}\nteachers:\n  - weight: 2\n")
    assert faults_of("--config", file) == [
        f"teachers.0.path: required, and not given; it takes existing path  ({file}:4)"
    ]


def test_missing_input_files(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "inputs:\n  - /no/such/a\n  - /no/such/b\n")
    assert faults_of(*REQUIRED, "--config", file) == [
        f"inputs.0 = /no/such/a: there is no such file or folder  ({file}:2)",
        f"inputs.1 = /no/such/b: there is no such file or folder  ({file}:3)",
    ]


def test_input_paths_are_not_looked_for_outside_of_parse() -> None:
    assert Teacher(path=Path("/no/such/a")).path == Path("/no/such/a")


def test_a_plan_is_parsed_before_its_inputs_are_there() -> None:
    assert Teacher.parse(["--path", "/no/such/a"], look_at_inputs=False).path == Path("/no/such/a")
    with pytest.raises(SettingsError, match="pth = x: no such field"):
        Teacher.parse(["--path", "/no/such/a", "--pth", "x"], look_at_inputs=False)


class Writing(Settings):
    out: OutputFolder
    """Where to write."""


def test_a_folder_that_cannot_be_written_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    for out in (file, file / "deep" / "below"):
        with pytest.raises(SettingsError, match=re.escape(f": {file} is a file, not a folder")):
            Writing.parse(["--out", str(out)])
        assert Writing.parse(["--out", str(out)], look_at_inputs=False) == Writing(out=str(out))
    monkeypatch.chdir(tmp_path)
    assert Writing.parse(["--out", "new/folder"]).out == "new/folder"
    assert not Path("new").exists()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SettingsError, match=re.escape(f"out = new/folder: {tmp_path} may not be written")):
        Writing.parse(["--out", "new/folder"])


def test_broken_rules_of_parts_and_of_the_whole_come_together() -> None:
    assert faults_of(
        *REQUIRED, "--model.kind=encoder", "--model.lora.alpha", "999", "--seed", "13", "--optim.steps", "2"
    ) == [
        "model.lora: alpha is more than ten times r",
        "model: kind encoder takes no lora",
        "seed 13 is not used",
        "seed is greater than optim.steps",
    ]


def test_a_rule_speaks_only_when_what_it_reads_is_sound() -> None:
    # optim.steps is at fault, so the rule that reads it is silent; the one that reads seed alone is not.
    assert faults_of(*REQUIRED, "--optim.steps", "none", "--seed", "13") == [
        "optim.steps = none: must be a valid integer, unable to parse string as an integer  (command line)",
        "seed 13 is not used",
    ]
    # Another field of the same part is at fault: the rule can still be held.
    assert faults_of(*REQUIRED, "--optim.steps", "2", "--optim.fused=7", "--seed", "5") == [
        "optim.fused = 7: must be a valid boolean, unable to interpret input  (command line)",
        "seed is greater than optim.steps",
    ]
    # `kid` meant `kind`, whose default is then nobody's wish.
    assert faults_of(*REQUIRED, "--model.kid", "decoder", "--model.lora.r", "1") == [
        "model.lora: alpha is more than ten times r",
        "model.kid = decoder: no such field; did you mean model.kind?  (command line)",
    ]


def test_a_fault_in_a_discriminated_part_has_the_users_path() -> None:
    assert faults_of(*REQUIRED, "--schedule.shape", "cosine", "--schedule.final_share", "much") == [
        "schedule.final_share = much: must be a valid number, unable to parse string as a number  (command line)"
    ]


def test_config_file_that_is_missing_or_not_yaml(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.yaml")
    # The fields that the file would give are not called missing.
    assert faults_of("--config", missing, "--optim.fused=7") == [
        f"--config = {missing}: cannot be read: No such file or directory  ({missing})",
        "optim.fused = 7: must be a valid boolean, unable to interpret input  (command line)",
    ]
    broken = write(tmp_path / "broken.yaml", "a: 1\nb: [1, 2\nc: 3\n")
    assert faults_of("--config", broken)[0].endswith(f"({broken}:3)")
    assert "is not YAML" in faults_of("--config", broken)[0]
    a_list = write(tmp_path / "list.yaml", "\n- 1\n")
    assert faults_of("--config", a_list) == [f"--config = {a_list}: must hold a mapping of fields  ({a_list}:2)"]
    (tmp_path / "latin.yaml").write_bytes(b"out: \xe9\n")
    assert "it is not UTF-8 text" in faults_of("--config", str(tmp_path / "latin.yaml"))[0]
    (tmp_path / "object.yaml").write_text("out: !!python/object/apply:os.getcwd []\n")
    assert "is not YAML" in faults_of("--config", str(tmp_path / "object.yaml"))[0]


def test_an_empty_config_file_gives_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "empty.yaml", "# nothing\n")
    assert Config.parse([*REQUIRED, "--config", file]) == Config.parse(REQUIRED)


def test_a_key_given_twice(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "optim:\n  steps: 1\n  fused: true\n  steps: 2\n")
    assert faults_of(*REQUIRED, "--config", file) == [f"optim.steps: given twice, first at {file}:2  ({file}:4)"]


def test_faults_of_the_command_line_itself(config_file: str) -> None:
    assert faults_of(*REQUIRED, "loose") == [
        "loose: stands alone; write --name value, and a list as --name '[a, b]'  (command line)"
    ]
    assert faults_of(*REQUIRED, "--optim.steps") == ["optim.steps: needs a value  (command line)"]
    assert faults_of(*REQUIRED, "--optim.betas", "[1, 2")[0].startswith("optim.betas = [1, 2: is not YAML: ")
    assert faults_of(*REQUIRED, "--config") == ["--config: needs a file  (command line)"]
    assert faults_of("--config", config_file, "--config", config_file)[0].startswith("--config = ")
    assert faults_of(*REQUIRED, "--teachers.1.path", "/") == [
        "teachers.1.path: teachers has 0 items; the next is teachers.0  (command line)"
    ]


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.yaml",
        "sed: 3\nmodel:\n  kind: encodr\noptim:\n  learning_rate: fast\n  stps: 1\ninputs: [/no/such]\nseed: 13\n",
    )
    with pytest.raises(SettingsError) as caught:
        Config.parse(["--config", file, "--teachers", "[{weight: x}]", "loose"])
    assert str(caught.value).splitlines() == [
        "11 faults in the settings:",
        "  - loose: stands alone; write --name value, and a list as --name '[a, b]'  (command line)",
        "  - out: required, and not given; it takes text",
        f"  - model.name: required, and not given; it takes text  ({file}:2)",
        f"  - model.kind = encodr: must be 'decoder' or 'encoder'  ({file}:3)",
        f"  - optim.learning_rate = fast: must be a valid number, unable to parse string as a number  ({file}:5)",
        f"  - optim.stps = 1: no such field; did you mean optim.steps?  ({file}:6)",
        "  - teachers.0.path: required, and not given; it takes existing path  (command line)",
        "  - teachers.0.weight = x: must be a valid number, unable to parse string as a number  (command line)",
        f"  - inputs.0 = /no/such: there is no such file or folder  ({file}:7)",
        f"  - sed = 3: no such field; did you mean seed?  ({file}:1)",
        "  - seed 13 is not used",
    ]


def test_a_bug_in_a_rule_is_not_swallowed() -> None:
    class Buggy(Settings):
        a: int = 1
        """A number."""

        @model_validator(mode="after")
        def _rule(self) -> Self:
            assert self.no_such_name
            return self

    with pytest.raises(AttributeError, match="no_such_name"):
        Buggy.parse([])
