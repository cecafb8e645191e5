"""A sweep: many variants on many seeds as stage commands, each done once, and one table with intervals and tests.

    python eval/sweep.py --config eval/configs/sweep_losses.yaml

Called again it skips what is done, does anew what has changed, and goes on with what a kill cut short.  Writes
sweep.{json,md,svg} and scores.svg; the evaluated systems of a seed are in OUT/seed-S/evaluated for eval/report.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from disranker.config.sweep import SweepConfig
from disranker.launch import call_main
from disranker.settings import SettingsError, dump
from disranker.shards import write_atomic
from disranker.sweep.plan import make_plan
from disranker.sweep.render import render_markdown, write_table
from disranker.sweep.runner import open_sweep, run_plan
from disranker.sweep.table import assemble_table

CONFIG = SweepConfig


def main(argv: list[str] | None = None) -> int:
    config = SweepConfig.load(argv, prog="eval/sweep.py", description=__doc__)
    try:
        plan = make_plan(config)
    except SettingsError as error:
        print(f"eval/sweep.py: {error}", file=sys.stderr)
        return 2
    out = Path(config.out)
    with open_sweep(out) as lock:
        with write_atomic(out / "config.yaml") as temporary:
            temporary.write_text(dump(config), encoding="utf-8")
        num_variants = len(config.vary) + len(config.variants)
        seeds = ", ".join(map(str, config.seeds))
        print(f"sweep: {num_variants} variants on seeds {seeds}: {len(plan)} steps, {config.jobs} at once", flush=True)
        outcome = run_plan(plan, jobs=config.jobs, threads=config.threads, lock=lock)
        table = assemble_table(config, plan, outcome)
        write_table(config, table)
    print(render_markdown(table))
    logs = {step.name: step.log for step in plan}
    for name, why in outcome.failed.items():
        print(f"failed: {name} ({why}), see {logs[name]}", file=sys.stderr)
    print(f"wrote {out}: sweep.{{json,md,svg}} and scores.svg, {len(table.rows)} systems on {len(config.seeds)} seeds")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(call_main(main))
