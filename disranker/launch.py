"""Where the stage scripts are, and how one is run in this process, as a shell would run it."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import disranker

STAGES = {
    "pretrain": ("pretrain/train.py", "continued pretraining of a decoder on a click log"),
    "rank": ("rank/train.py", "a ranker from judged pairs"),
    "score": ("rank/score.py", "a teacher's scores of candidates, into a store"),
    "shrink": ("distill/shrink.py", "a smaller encoder out of a larger one, for a student to start from"),
    "warmup": ("distill/warmup.py", "an encoder that knows the domain's texts, for a student to start from"),
    "distill": ("distill/train.py", "a student from a teacher's scores"),
    "path": ("distill/path.py", "rankers made one from another, and what each keeps of its teacher"),
    "eval": ("eval/run.py", "systems measured on judged pairs"),
    "report": ("eval/report.py", "a report over evaluated systems"),
    "sweep": ("eval/sweep.py", "many variants on many seeds, and one table of them"),
    "export": ("distill/export.py", "a student as ONNX, with proof that it scores as before"),
}
"""Command -> its script in the checkout, and what it makes."""


def stage_script(name: str) -> Path:
    """The script of a stage command: beside the package in a wheel, else at the top of the checkout."""
    relative = STAGES[name][0]
    package = Path(disranker.__file__).resolve().parent
    installed = package / "stages" / relative
    return installed if installed.exists() else package.parent / relative


def run_stage(name: str, argv: Sequence[str]) -> int:
    """Run the script of a stage command in this process, as `python SCRIPT ARGV…` would; returns its exit code.

    For several processes give the script itself to the launcher: `deepspeed rank/train.py …` in a checkout,
    `deepspeed --module disranker.stages.rank.train …` with a wheel.
    """
    script = stage_script(name)
    spec = importlib.util.spec_from_file_location(f"disranker_stage_{name}", script)
    if spec is None or spec.loader is None or not script.exists():
        raise FileNotFoundError(f"{script} is missing; reinstall disranker")
    module = importlib.util.module_from_spec(spec)
    # Processes that a stage spawns look its functions up by this name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    try:
        return call_main(module.main, list(argv))
    except SystemExit as stop:
        # --help and faults of the settings end a script this way.
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def call_main(main: Callable[[list[str] | None], int], argv: list[str] | None = None) -> int:
    """Call a stage's `main`; faults of data or files are one message and give 1 (`python -X dev` shows where)."""
    hush()
    try:
        return main(argv)
    except (ValueError, OSError) as error:
        if sys.flags.dev_mode:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130  # as a shell tells of an interrupt


def hush() -> None:
    """Keep libraries from telling on the screen what our own plan and progress tell."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
