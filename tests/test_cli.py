"""The command `disranker`: dispatch, exit codes, and messages without tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import disranker
from disranker.cli import COMMANDS, main
from disranker.data.readers import read_candidates, read_clicks, read_judged
from disranker.launch import STAGES, call_main, run_stage, stage_script


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [name for name in (*COMMANDS, *STAGES) if not any(line.startswith(f"  {name} ") for line in lines)] == []
    assert main([]) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"disranker {disranker.__version__}\n"


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distil", "--out", "x"]) == 2
    assert capsys.readouterr().err == "disranker: there is no command 'distil'; did you mean distill?\n"
    assert main(["zzzz"]) == 2
    assert "`disranker --help` lists the commands" in capsys.readouterr().err


def test_help_loads_nothing_that_takes_time() -> None:
    code = (
        "import sys; from disranker.cli import main; main(['--help']); print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "numpy", "pyarrow", "pydantic", "rich"} & set(done.stderr.split()) == set()


@pytest.mark.parametrize("name", ["world", "check", "import"])
def test_help_of_a_data_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: disranker {name} ")


def test_world_check_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, imported = tmp_path / "world", tmp_path / "imported"
    sizes = ["--judged_train", "3", "--judged_dev", "2", "--judged_test", "4", "--candidate_queries", "5"]
    arguments = ["world", "--out", str(world), "--rows", "50", "--seed", "7", *sizes, "--docs_per_query", "6"]
    assert main([*arguments, "--language", "mixed"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"to {world}")
    assert sum(1 for _ in read_clicks(world / "clicks.parquet")) == 50
    for split, num_queries in (("train", 3), ("dev", 2), ("test", 4)):
        judged = list(read_judged(world / f"judged.{split}.parquet"))
        assert len({judgment.query_id for judgment in judged}) == num_queries
        assert len(judged) == 6 * num_queries
    assert sum(1 for _ in read_candidates(world / "candidates.parquet")) == 30
    assert json.loads((world / "world.json").read_text("utf-8"))

    assert main(["check", str(world)]) == 0
    assert "judged.test.parquet" in capsys.readouterr().out

    assert main(["import", str(world / "judged.test.parquet"), "--out", str(imported)]) == 0
    assert f"to {imported}" in capsys.readouterr().out.splitlines()[-1]
    (file,) = imported.iterdir()
    assert set(read_judged(file)) == set(read_judged(world / "judged.test.parquet"))


def test_faults_of_the_data_exit_with_1_and_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "judged.jsonl"
    row = {"query_id": "1", "doc_id": "a", "query": "q", "title": "t", "summary": "s", "label": "good"}
    file.write_text(json.dumps(row) + "\n")
    assert main(["check", str(file)]) == 1
    assert f"{file}:1" in capsys.readouterr().out
    assert main(["import", str(file), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"disranker import: {file}:1: ")
    assert "Traceback" not in error


def test_a_folder_that_cannot_be_written_is_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["world", "--out", str(file)]) == 1
    assert capsys.readouterr().err == f"disranker world: [Errno 17] File exists: '{file}'\n"
    systems = ["--systems", "{random: {kind: random}}", "--judged", f"[{file}]"]
    assert main(["eval", "--out", str(file / "out"), *systems]) == 2
    assert f": {file} is a file, not a folder  (command line)" in capsys.readouterr().err


def test_an_interrupt_exits_with_130_and_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(argv: list[str] | None) -> int:
        raise KeyboardInterrupt

    assert call_main(interrupted) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_faults_of_the_call_exit_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "none.jsonl")]) == 2
    assert main(["import", "hf:", "--out", str(tmp_path), "--qrels", "x"]) == 2
    assert "qrels" in capsys.readouterr().err
    for argv in (["world"], ["world", "--out", "x", "--rows", "0"], ["world", "--out", "x", "--language", "fr"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2


@pytest.mark.parametrize("name", sorted(STAGES))
def test_stage_help_runs_the_script(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: {STAGES[name][0]} --config FILE.yaml ")


def test_faults_of_a_stages_settings_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "--learning_rate", "1"]) == 2
    error = capsys.readouterr().err
    assert "learning_rate = 1: no such field; did you mean optim.learning_rate?  (command line)" in error
    assert "Traceback" not in error


def test_run_stage_gives_back_what_the_script_ends_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # An installed package has the stages beside it, and takes those.
    script = tmp_path / "disranker" / "stages" / "rank" / "train.py"
    script.parent.mkdir(parents=True)
    monkeypatch.setattr(disranker, "__file__", str(tmp_path / "disranker" / "__init__.py"))
    script.write_text("def main(argv):\n    print(argv)\n    return 1\n")
    assert stage_script("rank") == script
    assert run_stage("rank", ["--a", "b"]) == 1
    assert capsys.readouterr().out == "['--a', 'b']\n"
    for end, code in (("raise SystemExit(2)", 2), ("raise SystemExit", 0), ("raise SystemExit('no')", 1)):
        script.write_text(f"def main(argv):\n    {end}\n")
        assert run_stage("rank", []) == code
    script.unlink()
    with pytest.raises(FileNotFoundError, match="reinstall disranker"):
        run_stage("rank", [])
