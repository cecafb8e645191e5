"""Evaluation: systems score judged pairs and are measured; one run file and one metrics file each.

    python eval/run.py --config eval/configs/world.yaml

Systems are ranker bundles, ONNX exports, TREC runs, BM25 and random order; eval/report.py compares them.
"""

from __future__ import annotations

import sys

import torch

from disranker.config.evaluation import EvalConfig, SystemConfig
from disranker.data.readers import read_trec_run
from disranker.evaluation.judged_set import TestSet, read_test_set
from disranker.evaluation.rules import Rules
from disranker.evaluation.systems import (
    Scored,
    describe_model,
    record_system,
    score_bm25,
    score_random,
    score_run,
    score_with,
)
from disranker.export.scorer import ExportScorer
from disranker.export.variants import find_variant
from disranker.launch import call_main
from disranker.models.scorer import Scorer
from disranker.settings import provenance

CONFIG = EvalConfig


def main(argv: list[str] | None = None) -> int:
    config = EvalConfig.load(argv, prog="eval/run.py", description=__doc__)
    test_set = read_test_set(config.judged, config.candidates, config.qrels)
    print(f"evaluating {len(test_set.rows):,} pairs of {len(test_set.labels):,} queries:", flush=True)
    rules = Rules(**config.rules.model_dump())
    for name, system in config.systems.items():
        scored = score(config, system, test_set)
        about = {"seed": config.seed, **provenance()}
        if system.path is not None:
            about |= {"path": str(system.path)} if system.kind == "run" else describe_model(system.path)
        if system.kind == "onnx" and system.path is not None:
            about["variant"], exported = find_variant(system.path, system.variant)
            about["drift"] = exported["drift"]
        recorded = record_system(config.out, name, system.kind, test_set, scored, config.measures, about, rules)
        shown = "  ".join(f"{measure} {value:.4f}" for measure, value in recorded.measured.aggregate.items())
        print(f"  {name:<28} {shown}", flush=True)
    print(f"wrote {config.out}: a run and a metrics file for {len(config.systems)} systems")
    return 0


def score(config: EvalConfig, system: SystemConfig, test_set: TestSet) -> Scored:
    """The scores of one system."""
    price = {"price_per_hour": system.price_per_hour, "currency": config.currency}
    if system.kind == "random":
        return score_random(test_set.rows, config.seed)
    if system.kind == "bm25":
        return score_bm25(test_set.rows, **price)
    assert system.path is not None
    if system.kind == "run":
        return score_run(test_set.rows, read_trec_run(system.path), system.path)
    cost = {"device": "cpu", "threads": torch.get_num_threads(), **price}
    if system.kind == "onnx":
        variant, exported = find_variant(system.path, system.variant)
        cost |= {"bytes": exported["bytes"], "dtype": exported["precision"]}
        return score_with(ExportScorer.load(system.path, variant), test_set.rows, config.latency, config.seed, **cost)
    size = sum(file.stat().st_size for file in system.path.glob("*.safetensors"))
    cost |= {"bytes": size, "dtype": system.dtype}
    scorer = Scorer.load(system.path, dtype=system.dtype, tokens_per_batch=config.tokens_per_batch)
    cost["device"] = next(scorer.ranker.parameters()).device.type
    return score_with(scorer, test_set.rows, config.latency, config.seed, **cost)


if __name__ == "__main__":
    sys.exit(call_main(main))
