"""A path from teacher to student, as teacher → assistant → student: its steps one after another, and what each keeps.

    python distill/path.py --config distill/configs/path_assistant.yaml

Called again it skips what is done, does anew what has changed, and goes on with what a kill cut short; it stops at the
first step that fails.  Writes path.json and path.md; the rankers are in OUT/seed-S, under the names of their steps.
"""

from __future__ import annotations

import sys
from pathlib import Path

from disranker.config.path import PathConfig
from disranker.launch import call_main
from disranker.settings import SettingsError, dump
from disranker.shards import write_atomic
from disranker.sweep.path_table import assemble_path, write_path
from disranker.sweep.plan import make_plan
from disranker.sweep.runner import log_tail, open_sweep, run_plan

CONFIG = PathConfig
LINES_OF_A_FAILURE = 20


def main(argv: list[str] | None = None) -> int:
    config = PathConfig.load(argv, prog="distill/path.py", description=__doc__)
    try:
        plan = make_plan(config)
    except SettingsError as error:
        print(f"distill/path.py: {error}", file=sys.stderr)
        return 2
    out = Path(config.out)
    with open_sweep(out) as lock:
        with write_atomic(out / "config.yaml") as temporary:
            temporary.write_text(dump(config), encoding="utf-8")
        names = [step.folder for step in config.steps]
        seeds = ", ".join(map(str, config.seeds))
        print(f"path on seed {seeds}: {' → '.join(names)} → evaluation", flush=True)
        outcome = run_plan(plan, jobs=1, threads=config.threads, lock=lock, stop_at_failure=True)
        if outcome.failed:
            for step in plan:
                if step.name in outcome.failed:
                    lines = "\n".join(f"  {line}" for line in log_tail(step)[-LINES_OF_A_FAILURE:])
                    print(f"{step.name} failed; the end of {step.log}:\n{lines}", file=sys.stderr)
            return 1
        print(f"\n{write_path(config, assemble_path(config), plan)}")
    print(f"wrote {out}: path.json and path.md, and in seed-S the rankers {', '.join(config.rankers)}")
    return 0


if __name__ == "__main__":
    sys.exit(call_main(main))
