"""The settings mechanism: every kind of fault with its message, all of them at once, help, and the round trip."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pytest
import yaml
from pydantic import Field, ValidationError, model_validator

from disranker.settings import InputPath, OutputFolder, Settings, SettingsError, dump


class Lora(Settings):
    r: Annotated[int, Field(gt=0)] = 16
    """Rank of the update."""
    alpha: float = 32.0
    """Scale of the update."""

    @model_validator(mode="after")
    def _not_too_large(self) -> Self:
        if self.alpha > 10 * self.r:
            raise ValueError("alpha is more than ten times r")
        return self


class Model(Settings):
    name: str
    """Folder or hub name."""
    kind: Literal["decoder", "encoder"] = "decoder"
    """Family of the model."""
    lora: Lora | None = None
    """Low-rank adapters; null trains all weights."""

    @model_validator(mode="after")
    def _no_lora_on_encoders(self) -> Self:
        if self.kind == "encoder" and self.lora is not None:
            raise ValueError("kind encoder takes no lora")
        return self


class Optim(Settings):
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Steps to take; null takes all."""
    fused: bool = False
    """Use the fused kernel."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the moments."""


class Teacher(Settings):
    path: InputPath
    """Folder of the teacher."""
    weight: float = 1.0
    """Share in the mixture."""


class Constant(Settings):
    shape: Literal["constant"]
    """Keeps the rate."""


class Cosine(Settings):
    shape: Literal["cosine"]
    """Follows half a cosine."""
    final_share: float = 0.0
    """Share of the peak at the end."""


class Config(Settings):
    out: str
    """Folder that is written."""
    model: Model
    """The network."""
    optim: Optim = Optim()
    """The optimizer."""
    teachers: list[Teacher] = []
    """Teachers to mix."""
    inputs: list[InputPath] = []
    """Files to read."""
    systems: dict[str, Teacher] = {}
    """Named teachers."""
    extra: dict[str, Any] = {}
    """Anything."""
    schedule: Annotated[Constant | Cosine, Field(discriminator="shape")] = Constant(shape="constant")
    """Shape of the learning rate."""
    limit: Literal["all"] | int = "all"
    """Rows to read."""
    seed: int = 0
    """Root of all randomness."""

    @model_validator(mode="after")
    def _seed_is_usable(self) -> Self:
        if self.seed == 13:
            raise ValueError("seed 13 is not used")
        return self

    @model_validator(mode="after")
    def _seed_fits_steps(self) -> Self:
        if self.optim.steps is not None and self.seed > self.optim.steps:
            raise ValueError("seed is greater than optim.steps")
        return self


REQUIRED = ["--out", "runs/x", "--model.name", "some/model"]


def faults_of(*argv: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Config.parse(argv)
    return [str(fault) for fault in caught.value.faults]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    return write(
        tmp_path / "c.yaml",
        "# a comment\nout: runs/file\nmodel:\n  name: from/file\noptim:\n  learning_rate: 1e-4\n  steps: 7\n",
    )


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


# --- faults, one kind at a time ---


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
