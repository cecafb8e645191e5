"""The command `disranker`, for those who installed the wheel: data commands, and the stages as a shell would run them.

Nothing heavy is imported before a command needs it.  Exit codes: 0 done, 1 the data or the result is at fault, 2 the
call is at fault.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import disranker
from disranker.launch import STAGES, run_stage, stage_script


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; faults of input and settings are printed without a traceback."""
    # Before anything loads OpenMP: threads that wait spin briefly, then sleep.  Where the cores are shared, endless
    # spinning made training ten times slower; sleeping at once costs a quarter where they are not (LOG.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help_text())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"disranker {disranker.__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in STAGES and name not in COMMANDS:
        near = difflib.get_close_matches(name, [*COMMANDS, *STAGES], n=1)
        hint = f"did you mean {near[0]}?" if near else "`disranker --help` lists the commands"
        print(f"disranker: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    try:
        return run_stage(name, rest) if name in STAGES else COMMANDS[name][0](rest)
    except ValueError as error:
        from disranker.data.faults import InputError
        from disranker.settings import SettingsError

        if not isinstance(error, InputError | SettingsError):
            raise
        print(f"disranker {name}: {error}", file=sys.stderr)
        return 1 if isinstance(error, InputError) else 2
    except OSError as error:  # a folder that is a file, no right to write there, a full disk
        print(f"disranker {name}: {error}", file=sys.stderr)
        return 1


def _help_text() -> str:
    commands = [(name, text) for name, (_, text) in COMMANDS.items()]
    stages = [(name, f"{text}  ({script})") for name, (script, text) in STAGES.items()]
    lines = ["usage: disranker COMMAND [...]", "       disranker COMMAND --help", "", "data and demo:"]
    lines += [f"  {name:<10}{text}" for name, text in commands]
    lines += ["", "stages, each with --config FILE.yaml and --part.field value:"]
    lines += [f"  {name:<10}{text}" for name, text in stages]
    lines += ["", f"shipped configs: {stage_script('rank').parent.parent}/*/configs/*.yaml"]
    return "\n".join(lines)


# --- data and demo ----------------------------------------------------------------------------------------------------


def _parser(name: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"disranker {name}",
        description=COMMANDS[name][1].capitalize() + ".",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a count of 1 or more")
    return number


def _world(argv: list[str]) -> int:
    parser = _parser("world")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--rows", type=_count, default=100_000, help="rows of the click log")
    parser.add_argument("--language", choices=("en", "zh", "mixed"), default="en", help="language of all texts")
    parser.add_argument("--seed", type=int, default=0, help="root of all randomness: same seed, same files")
    parser.add_argument("--judged_train", type=_count, default=200, help="judged queries to train on")
    parser.add_argument("--judged_dev", type=_count, default=100, help="judged queries to tune on")
    parser.add_argument("--judged_test", type=_count, default=300, help="judged queries to report on")
    parser.add_argument("--candidate_queries", type=_count, default=2000, help="queries with unjudged candidates")
    parser.add_argument("--docs_per_query", type=_count, default=20, help="documents of a judged or unjudged query")
    parser.add_argument(
        "--candidate_docs", type=_count, help="documents of an unjudged query, where they are not as many"
    )
    parser.add_argument(
        "--tokenizers", metavar="DIR", help="also train tokenizers on the clicks: DIR/decoder, DIR/encoder"
    )
    parser.add_argument("--vocab_size", type=_count, default=3000, help="tokens of each of them")
    args = parser.parse_args(argv)

    from disranker.data.world import write_world

    world = write_world(
        args.out,
        seed=args.seed,
        language=args.language,
        num_clicks=args.rows,
        judged_queries={"train": args.judged_train, "dev": args.judged_dev, "test": args.judged_test},
        candidate_queries=args.candidate_queries,
        docs_per_query=args.docs_per_query,
        candidate_docs=args.candidate_docs,
    )
    if args.tokenizers:
        from disranker.data.vocabularies import write_tokenizers

        write_tokenizers(Path(args.out) / "clicks.parquet", Path(args.tokenizers), args.vocab_size)
    print(f"wrote {args.rows} clicks and {len(world)} facts about the world (world.json) to {args.out}")
    return 0


def _check(argv: list[str]) -> int:
    parser = _parser("check")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="file, BEIR folder, or folder of files")
    parser.add_argument("--limit", type=_count, default=50, help="faults to print; all are counted")
    args = parser.parse_args(argv)

    from disranker.data.check import check, format_report

    report = check(args.paths, limit=args.limit)
    print(format_report(report))
    return report.exit_code


def _import(argv: list[str]) -> int:
    parser = _parser("import")
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="beir:DIR, trec:, ir_datasets:ID, hf:NAME, clicks:FILE (judged pairs from clicks), or a CSV, JSONL or "
        "Parquet file",
    )
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--qrels", nargs="+", metavar="FILE", help="judgments, for trec:")
    parser.add_argument(
        "--run", nargs="+", metavar="FILE", help="TREC runs that become candidates, for trec: and beir:"
    )
    parser.add_argument("--corpus", metavar="FILE", help="documents with their texts, for trec:")
    parser.add_argument("--queries", metavar="FILE", help="queries with their texts, for trec:")
    parser.add_argument(
        "--missing_documents", choices=("fault", "skip"), default="fault", help="pairs whose document has no text"
    )
    parser.add_argument("--negative_labels", choices=("fault", "zero"), default="fault", help="labels below 0")
    args = parser.parse_args(argv)

    from disranker.data.faults import InputError
    from disranker.data.importer import import_source

    try:
        imported = import_source(
            args.source,
            args.out,
            qrels=args.qrels,
            run=args.run,
            corpus=args.corpus,
            queries=args.queries,
            missing_documents=args.missing_documents,
            negative_labels=args.negative_labels,
        )
    except InputError:
        raise
    except (ValueError, ModuleNotFoundError) as error:
        # The source, an option that it has no use for, or the package that would read it.
        print(f"disranker import: {error}", file=sys.stderr)
        return 2
    for file, counts in imported["files"].items():
        print(f"{file}: " + ", ".join(f"{number} {what}" for what, number in counts.items()))
    print(f"wrote {len(imported['files'])} files to {imported['out_dir']}")
    return 0


def _adopt(argv: list[str]) -> int:
    parser = _parser("adopt")
    parser.add_argument("model", metavar="MODEL", help="folder, hub name, or package:PACKAGE/FOLDER")
    parser.add_argument("--out", required=True, help="folder of the bundle to write")
    parser.add_argument(
        "--head",
        choices=("last-token", "expected-label", "yes-no"),
        default="last-token",
        help="last-token keeps the score head of a trained classifier; the others read a language model's answer",
    )
    parser.add_argument("--template", help="format of the texts; none takes the one that goes with the head")
    parser.add_argument("--max_tokens", type=_count, default=512, help="tokens of a whole pair")
    parser.add_argument("--max_query_tokens", type=_count, default=64, help="tokens of the query in a prompt")
    parser.add_argument("--label_tokens", nargs="+", help="labels from the worst to the best; none takes 0 to 4")
    parser.add_argument("--yes_no_tokens", nargs=2, metavar=("YES", "NO"), help="answers; none takes yes and no")
    args = parser.parse_args(argv)
    tokens = {name: value for name in ("label_tokens", "yes_no_tokens") if (value := getattr(args, name)) is not None}

    from pydantic import ValidationError

    from disranker.config.parts import ModelConfig, TextConfig
    from disranker.launch import hush
    from disranker.models.adopt import adopt

    hush()
    text = {"template": args.template, "max_tokens": args.max_tokens, "max_query_tokens": args.max_query_tokens}
    try:
        settings = ModelConfig(name=args.model, head=args.head, **tokens), TextConfig.model_validate(text)
    except ValidationError as error:
        print("\n".join(f"disranker adopt: {fault['msg']}" for fault in error.errors()), file=sys.stderr)
        return 2
    try:
        about = adopt(args.out, *settings)
    except (ValueError, OSError) as error:
        print(f"disranker adopt: {error}", file=sys.stderr)
        return 1
    print(f"wrote {args.out}: {about}")
    return 0


def _store(argv: list[str]) -> int:
    parser = _parser("store")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, what, several in (
        ("info", "print teacher, counts, distribution and health", True),
        ("verify", "check every file and row; exit code 1 and each fault by name where one is wrong", True),
        ("merge", "make one store of several, of one teacher over different inputs", True),
        ("fuse", "make one store of several, of different teachers over the same pairs", True),
        ("export-trec", "write the scores as a TREC run", False),
    ):
        action = actions.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".", allow_abbrev=False)
        action.add_argument("stores", nargs="+" if several else 1, metavar="DIR", help="folder of a store")
        if name in ("merge", "fuse", "export-trec"):
            action.add_argument("--out", required=True, help="folder to write" if several else "file to write")
        if name == "fuse":
            _add_fusion(action)
    args = parser.parse_args(argv)
    folders = [Path(folder) for folder in args.stores]

    from disranker.teacher.audit import export_run, find_faults, info_lines

    try:
        if args.action == "info":
            print("\n\n".join("\n".join(info_lines(folder)) for folder in folders))
        elif args.action == "verify":
            faults = {folder: find_faults(folder) for folder in folders}
            for folder, found in faults.items():
                print("\n".join([*(f"{folder}: {fault}" for fault in found), f"{folder}: {len(found)} faults"]))
            return int(any(faults.values()))
        elif args.action == "merge":
            from disranker.teacher.merge import merge_stores

            manifest = merge_stores(folders, Path(args.out))
            print(f"wrote {args.out}: {manifest['num_pairs']:,} scores of {manifest['num_candidates']:,} candidates")
        elif args.action == "fuse":
            return _fuse(args, folders)
        else:
            print(f"wrote {args.out}: {export_run(folders[0], Path(args.out)):,} lines")
    except ValueError as error:
        print(f"disranker store: {error}", file=sys.stderr)
        return 1
    return 0


def _fuse(args: argparse.Namespace, folders: list[Path]) -> int:
    from disranker.teacher.fusion import check_call, fuse_stores, fusion_lines

    judged = [Path(file) for file in args.judged]
    try:
        check_call(folders, args.method, weights=args.weights, temperature=args.temperature, judged=judged)
    except ValueError as error:
        print(f"disranker store: {error}", file=sys.stderr)
        return 2
    manifest = fuse_stores(
        folders,
        Path(args.out),
        args.method,
        weights=args.weights,
        temperature=args.temperature,
        judged=judged,
        missing=args.missing,
    )
    print("\n".join(fusion_lines(manifest)))
    print(f"wrote {args.out}: {manifest['num_pairs']:,} scores of {manifest['num_candidates']:,} candidates")
    return 0


def _add_fusion(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--method",
        required=True,
        choices=("mean", "weights", "gate", "stack"),
        help="how the teachers' standardised scores become one: equal weights, given ones, in each query more for the "
        "teachers that are sure of it, or weights fitted on judged pairs",
    )
    action.add_argument("--weights", nargs="+", type=float, metavar="W", help="weights: one for each store, 0 or more")
    action.add_argument(
        "--temperature",
        type=float,
        help="gate: a teacher whose share of the highest entropy is lower by this has e times the weight (0.1)",
    )
    action.add_argument(
        "--judged", nargs="+", default=[], metavar="FILE", help="labelled pairs: stack fits on them, all are measured"
    )
    action.add_argument(
        "--missing",
        choices=("error", "skip-pair", "others"),
        default="error",
        help="a pair that a teacher did not score: refuse, leave it out, or go by the other teachers",
    )


def _serve(argv: list[str]) -> int:
    from disranker.launch import call_main
    from disranker.serve.run import main as run_server

    return call_main(run_server, argv)


def _demo(argv: list[str]) -> int:
    from disranker.demo import main as run_demo

    return run_demo(argv)


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "world": (_world, "write a search world: clicks, judged pairs, candidates"),
    "check": (_check, "count what inputs hold and name every fault with its line"),
    "import": (_import, "turn other layouts into the files that the stages read"),
    "adopt": (_adopt, "make a bundle of a published reranker, without training"),
    "store": (_store, "look at, check, merge, fuse and export stores of teacher scores"),
    "serve": (_serve, "answer rerank requests over HTTP with a bundle or an export"),
    "demo": (_demo, "run all stages on a small search world, from clicks to report"),
}
"""Command -> what runs it, and what it does."""
