"""The demo: the whole way on the built-in world, from a click log to an exported student with a report.

Every step does what the command line says that is printed.  The two students have the same model, optimizer, steps and
dev set, and so have the two teachers.  The world and the sizes below were settled while looking at results of seed 0
(RESULTS.md says how, and has the grid of the students' rates).
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from disranker.launch import run_stage, stage_script
from disranker.train.journal import clock

if TYPE_CHECKING:
    from rich.console import Console

    from disranker.data.world import Language, Split

NUM_CLICKS = 24_000
JUDGED_QUERIES: dict[Split, int] = {"train": 150, "dev": 60, "test": 200}
DOCS_PER_QUERY = 12
CANDIDATE_QUERIES = 4_000
CANDIDATE_DOCS = 8
VOCAB_SIZE = 3_000


def main(argv: Sequence[str]) -> int:
    """`disranker demo --out DIR [--seed S] [--language en|zh|mixed]`; 0 when every step was done."""
    parser = argparse.ArgumentParser(prog="disranker demo", description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", default="demo", help="folder to write; what an earlier demo left there is removed")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world and of all training")
    parser.add_argument("--language", choices=("en", "zh", "mixed"), default="en", help="language of the world")
    args = parser.parse_args(argv)
    out = Path(args.out)
    if out.exists() and any(out.iterdir()) and not (out / "world").exists():
        print(f"{out} holds something else; give the demo a folder of its own with --out")
        return 2
    shutil.rmtree(out, ignore_errors=True)

    from rich.console import Console

    console = Console(highlight=False)
    began = time.monotonic()
    make_world(console, out, args.seed, args.language)
    for name, arguments in steps(out, args.seed):
        code = run_step(console, name, arguments)
        if code != 0:
            return code
    print_table(console, out)
    console.print(f"Done in {clock(time.monotonic() - began)}.  The report: {out / 'report' / 'report.html'}")
    return 0


def make_world(console: Console, out: Path, seed: int, language: Language) -> None:
    """Write the world and the two tokenizers."""
    from disranker.data.vocabularies import write_tokenizers
    from disranker.data.world import write_world

    sizes = [f"--judged_{split} {number}" for split, number in JUDGED_QUERIES.items()]
    sizes += [f"--docs_per_query {DOCS_PER_QUERY}", f"--candidate_queries {CANDIDATE_QUERIES}"]
    sizes += [f"--candidate_docs {CANDIDATE_DOCS}", f"--tokenizers {out / 'tokenizers'}", f"--vocab_size {VOCAB_SIZE}"]
    command = f"disranker world --out {out / 'world'} --rows {NUM_CLICKS} --language {language} --seed {seed}"
    console.rule("[bold]world[/]", align="left")
    console.print(" ".join([command, *sizes]), style="dim", markup=False, soft_wrap=True)
    began = time.monotonic()
    write_world(
        out / "world",
        seed=seed,
        language=language,
        num_clicks=NUM_CLICKS,
        judged_queries=JUDGED_QUERIES,
        candidate_queries=CANDIDATE_QUERIES,
        docs_per_query=DOCS_PER_QUERY,
        candidate_docs=CANDIDATE_DOCS,
    )
    write_tokenizers(out / "world" / "clicks.parquet", out / "tokenizers", VOCAB_SIZE)
    console.print(f"[dim]{clock(time.monotonic() - began)}[/]")


def steps(out: Path, seed: int) -> list[tuple[str, list[str]]]:
    """(stage, its arguments) in order: the shipped configs, with what lies under another folder said anew."""
    world, decoder, encoder = out / "world", out / "tokenizers" / "decoder", out / "tokenizers" / "encoder"
    judged = {split: f"[{world / f'judged.{split}.parquet'}]" for split in JUDGED_QUERIES}
    candidates = f"[{world / 'candidates.parquet'}]"
    learn = ["--training.seed", str(seed), "--judged_dev", judged["dev"]]
    teach = [*learn, "--judged", judged["train"]]
    untaught = ["--model.name", "null", "--model.tokenizer", str(decoder), "--model.architecture", _decoder()]
    systems = {
        "random": "{kind: random}",
        "bm25": "{kind: bm25}",
        "student-labels": f"{{kind: bundle, path: {out / 'student-labels'}}}",
        "teacher-without-pretraining": f"{{kind: bundle, path: {out / 'teacher-without-pretraining'}}}",
        "teacher": f"{{kind: bundle, path: {out / 'teacher'}}}",
        "student-distilled": f"{{kind: bundle, path: {out / 'student-distilled'}}}",
        "student-onnx": f"{{kind: onnx, path: {out / 'student-onnx'}}}",
    }
    evaluated = ["--systems", "{" + ", ".join(f"{name}: {system}" for name, system in systems.items()) + "}"]

    def step(stage: str, config: str, name: str, *arguments: str) -> tuple[str, list[str]]:
        file = stage_script(stage).parent / "configs" / config
        return stage, ["--config", str(file), "--out", str(out / name), *arguments]

    student = [*learn, "--model.tokenizer", str(encoder)]
    return [
        step(
            "pretrain", "world.yaml", "pretrained", "--clicks", f"[{world / 'clicks.parquet'}]",
            "--model.tokenizer", str(decoder), "--training.seed", str(seed),
        ),
        step("rank", "world.yaml", "teacher", *teach, "--model.name", str(out / "pretrained")),
        step("rank", "world.yaml", "teacher-without-pretraining", *teach, *untaught),
        step("score", "score_world.yaml", "store", "--teacher", str(out / "teacher"), "--candidates", candidates),
        step(
            "distill", "world.yaml", "student-distilled", *student,
            "--store", str(out / "store"), "--candidates", candidates,
        ),
        step("rank", "world_student.yaml", "student-labels", *student, "--judged", judged["train"]),
        step("export", "export.yaml", "student-onnx", "--bundle", str(out / "student-distilled"),
             "--judged", judged["dev"]),
        step("eval", "world.yaml", "evaluated", "--judged", judged["test"], *evaluated),
        step("report", "report_world.yaml", "report", "--evaluated", f"[{out / 'evaluated'}]",
             "--judged", judged["test"]),
    ]  # fmt: skip


def _decoder() -> str:
    """The architecture of the pretrained decoder, for the teacher that starts without pretraining."""
    import json

    import yaml

    config = yaml.safe_load((stage_script("pretrain").parent / "configs" / "world.yaml").read_text())
    return json.dumps(config["model"]["architecture"])


def run_step(console: Console, stage: str, arguments: Sequence[str]) -> int:
    """Run one stage as its command line would, and show that line."""
    console.rule(f"[bold]{stage}[/]", align="left")
    # markup off: a list of files looks like one of its tags
    console.print(f"disranker {stage} {shlex.join(arguments)}", style="dim", markup=False, soft_wrap=True)
    began = time.monotonic()
    code = run_stage(stage, list(arguments))
    console.print(f"[dim]{clock(time.monotonic() - began)}[/]")
    return code


def print_table(console: Console, out: Path) -> None:
    """The systems from worst to best."""
    from rich.table import Table

    from disranker.evaluation.runs import read_systems

    table = Table(title="Test queries of the built-in world", title_justify="left")
    for heading in ("system", "NDCG@5", "NDCG@10", "PNR", "params", "pairs/s"):
        table.add_column(heading, justify="left" if heading == "system" else "right")
    systems = read_systems(out / "evaluated").values()
    for system in sorted(systems, key=lambda system: system.measured.aggregate["nDCG@10"]):
        values, cost = system.measured.aggregate, system.efficiency
        table.add_row(
            system.name,
            *(f"{values[measure]:.4f}" for measure in ("nDCG@5", "nDCG@10")),
            f"{values['PNR']:.3f}",
            f"{cost.parameters / 1e6:.2f} M" if cost.parameters else "–",
            f"{cost.pairs_per_second:,.0f}" if cost.pairs_per_second else "–",
        )
    console.print(table)
