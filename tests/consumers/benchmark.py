"""How fast an export scores whole requests, beside other software on the same model, and what each changes of nDCG@10.

    python -m tests.consumers.benchmark --export runs/student-export --judged runs/trec_dl20/judged.full.parquet

A request is one query with as many of its judged documents as `--docs` says.  Everybody runs in a process and an
environment of its own (`make test-consumers` makes them) and is asked in turn; seconds are those of the consumer's own
call, tokenization included.  The others make their own files of the same weights: sentence-transformers its ONNX, its
OpenVINO and int8 of both by its own functions (calibrated on pairs of other queries), FlashRank runs on these ONNX
files.  nDCG@10 is that of the documents of the requests alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from disranker.data.groups import PairSet, collect_judged
from disranker.data.readers import read_judged
from disranker.evaluation.correlation import spearman_rho
from disranker.evaluation.measures import measure_run
from disranker.export.manifest import read_manifest
from disranker.text.templates import document_text
from tests.consumers.environments import python_of
from tests.consumers.scores import WORKERS, Answer, Worker, start_worker

CALIBRATION_PAIRS = 300
TORCH = "sentence-transformers torch"
OURS = "disranker"


class Request(NamedTuple):
    """One query and its documents."""

    query: str
    documents: list[str]
    labels: list[int]


class System(NamedTuple):
    """One consumer, and what it opens."""

    worker: str
    environment: str | None
    folder: Path
    options: tuple[str, ...] = ()


def main() -> int:
    args = _parse()
    requests, calibration = _choose(args)
    num_docs = sum(len(request.documents) for request in requests)
    print(f"{len(requests)} requests, {num_docs:,} documents, {args.rounds} rounds; {_cpu()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        systems = _systems(args.export.resolve(), Path(folder), calibration)
        if args.only:
            systems = {name: system for name, system in systems.items() if name == TORCH or name in args.only}
        for threads in args.threads:
            _report(threads, requests, args.rounds, _measure(systems, requests, threads))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path, required=True, help="folder that distill/export.py wrote")
    parser.add_argument("--judged", type=Path, nargs="+", required=True, help="judged pairs to make requests of")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of everybody, one after the other")
    parser.add_argument("--only", nargs="+", help="names of systems; torch is always there")
    for name, default, text in (
        ("requests", 20, "queries, the first in the order of a seeded draw among those with enough documents"),
        ("docs", 100, "documents of a request"),
        ("rounds", 5, "shares of the requests that a rate is computed of"),
        ("seed", 0, "of the draw"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    return parser.parse_args()


def _choose(args: argparse.Namespace) -> tuple[list[Request], list[list[str]]]:
    """The requests, and pairs of the other queries."""
    pair_set, labels = collect_judged(read_judged(args.judged))
    random = np.random.default_rng(args.seed)
    groups = [rows for _, rows in pair_set.groups()]
    order: list[int] = random.permutation(len(groups)).tolist()
    chosen = [index for index in order if len(groups[index]) >= args.docs][: args.requests]
    if len(chosen) < max(args.requests, args.rounds):
        raise SystemExit(f"{len(chosen)} queries have {args.docs} documents; ask for fewer requests, rounds or docs")
    requests = [_request(pair_set, labels, random.permutation(groups[index])[: args.docs]) for index in chosen]
    others = [row for index in order if index not in chosen for row in groups[index].tolist()]
    if not others:
        raise SystemExit("no query is left to calibrate on; ask for fewer requests")
    texts = [pair_set.pairs[row] for row in random.permutation(others)[:CALIBRATION_PAIRS].tolist()]
    return requests, [[pair.query, document_text(pair.title, pair.summary)] for pair in texts]


def _request(pair_set: PairSet, labels: NDArray[np.float32], rows: NDArray[np.int64]) -> Request:
    pairs = [pair_set.pairs[row] for row in rows.tolist()]
    documents = [document_text(pair.title, pair.summary) for pair in pairs]
    return Request(pairs[0].query, documents, labels[rows].astype(int).tolist())


def _systems(export: Path, work: Path, calibration: Sequence[Sequence[str]]) -> dict[str, System]:
    """Everybody, with the files that the others make of the model first."""
    plain, onnx, openvino = work / "plain", work / "onnx", work / "openvino"
    plain.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(export / name, plain / name)
    shutil.copyfile(export / "special_tokens_map.json", plain / "special_tokens_map.json")
    (work / "pairs").mkdir()
    rows = (json.dumps({"pair": pair}) + "\n" for pair in calibration)
    (work / "pairs" / "train.jsonl").write_text("".join(rows), encoding="utf-8")
    _quantise("optimum", "onnx", plain, onnx, work)
    _quantise("intel", "openvino", plain, openvino, work)
    for name in ("model.onnx", "model_int8.onnx"):
        model = work / f"flashrank-{name}" / "layouts" / "flashrank" / "disranker"
        model.mkdir(parents=True)
        for file in plain.glob("*.json"):
            shutil.copyfile(file, model / file.name)
        shutil.copyfile(plain / "tokenizer_config.json", work / f"flashrank-{name}" / "tokenizer_config.json")
        shutil.copyfile(onnx / "onnx" / name, model / "model.onnx")
    manifest = read_manifest(export)
    return {
        TORCH: System("cross_encoder.py", "current", plain, ("--backend", "torch")),
        "sentence-transformers ONNX": System("cross_encoder.py", "optimum", onnx, ("--backend", "onnx")),
        "sentence-transformers ONNX int8": System(
            "cross_encoder.py", "optimum", onnx, ("--backend", "onnx", "--file", "onnx/model_int8.onnx")
        ),
        "sentence-transformers OpenVINO": System("cross_encoder.py", "intel", openvino, ("--backend", "openvino")),
        "sentence-transformers OpenVINO int8": System(
            "cross_encoder.py",
            "intel",
            openvino,
            ("--backend", "openvino", "--file", "openvino/openvino_model_int8.xml"),
        ),
        "FlashRank": System("flashrank_.py", "current", work / "flashrank-model.onnx"),
        "FlashRank int8": System("flashrank_.py", "current", work / "flashrank-model_int8.onnx"),
        "infinity torch": System("infinity.py", "infinity", plain),
        f"{OURS} bundle in torch": System("ours.py", None, export, ("--backend", "torch")),
        **{f"{OURS} {name}": System("ours.py", None, export, ("--file", name)) for name in manifest["variants"]},
    }


def _quantise(environment: str, backend: str, model: Path, out: Path, work: Path) -> None:
    command = [str(python_of(environment)), str(WORKERS / "quantise.py"), str(model), str(out)]
    command += ["--backend", backend, "--pairs", str(work / "pairs")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _measure(systems: dict[str, System], requests: Sequence[Request], threads: int) -> dict[str, list[Answer]]:
    """What everybody answers to each request; who is asked first changes from request to request."""
    answers: dict[str, list[Answer]] = {name: [] for name in systems}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {
            name: stack.enter_context(
                start_worker(system.worker, system.environment, system.folder, *system.options, threads=threads)
            )
            for name, system in systems.items()
        }
        for worker in workers.values():
            worker.score(requests[-1].query, requests[-1].documents)  # a warm-up that does not count
        names = list(workers)
        for number, request in enumerate(requests):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                answers[name].append(workers[name].score(request.query, request.documents))
    return answers


def _report(threads: int, requests: Sequence[Request], rounds: int, answers: dict[str, list[Answer]]) -> None:
    rates = {name: _rates(requests, found, rounds) for name, found in answers.items()}
    others = [name for name in rates if not name.startswith(OURS)]
    best = max(others, key=lambda name: statistics.median(rates[name]))
    expected = _all_scores(answers[TORCH])
    lengths = np.array([len(request.documents) for request in requests])
    reference = _ndcg(requests, answers[TORCH])
    print(f"\n{threads} threads; x: times {best}, the median over rounds")
    print(f"{'':<40} pairs/s median (range)        x  ms a request  nDCG@10  change   Spearman  largest difference")
    for name, found in answers.items():
        ratio = statistics.median(one / other for one, other in zip(rates[name], rates[best], strict=True))
        latency = statistics.median(answer.seconds for answer in found) * 1000
        ndcg = _ndcg(requests, found)
        scores = _all_scores(found)
        rho = spearman_rho(lengths, scores, expected).mean()
        # FlashRank gives sigmoids only.
        shown = "-" if name.startswith("FlashRank") else f"{np.abs(scores - expected).max():.1e}"
        rate, low, high = statistics.median(rates[name]), min(rates[name]), max(rates[name])
        print(
            f"{name:<40} {rate:7.1f} ({low:.1f} to {high:.1f}) {ratio:8.2f} {latency:9.0f} {ndcg:11.4f} "
            f"{ndcg - reference:+.4f}  {rho:8.4f}  {shown}",
            flush=True,
        )


def _all_scores(answers: Sequence[Answer]) -> NDArray[np.float64]:
    return np.array([score for answer in answers for score in answer.scores])


def _rates(requests: Sequence[Request], answers: Sequence[Answer], rounds: int) -> list[float]:
    """Pairs a second in each round."""
    shares = np.array_split(np.arange(len(requests)), rounds)
    return [
        sum(len(requests[at].documents) for at in share.tolist()) / sum(answers[at].seconds for at in share.tolist())
        for share in shares
    ]


def _ndcg(requests: Sequence[Request], answers: Sequence[Answer]) -> float:
    judgments, run = {}, {}
    for number, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        judgments[str(number)] = {str(at): label for at, label in enumerate(request.labels)}
        run[str(number)] = {str(at): score for at, score in enumerate(answer.scores)}
    return measure_run(judgments, run, ["nDCG@10"]).aggregate["nDCG@10"]


def _cpu() -> str:
    """The model of the CPU, as Linux names it."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(named)} x {named[0]}" if named else platform.processor()


if __name__ == "__main__":
    raise SystemExit(main())
