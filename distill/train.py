"""Stage 3: a student learns what a teacher, and labels if there are any, say of a query's documents.

    deepspeed distill/train.py --config distill/configs/world.yaml

Reads a store of teacher scores, the candidates that were scored and judged pairs, writes the student's bundle.
"""

from __future__ import annotations

import sys
from functools import partial

from disranker.config.distill import DistillConfig
from disranker.config.distill_terms import check_sum
from disranker.data.batches import DistillItems
from disranker.launch import call_main
from disranker.models.build import build_ranker_model, load_tokenizer
from disranker.models.bundle import make_encoder
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.train.dev import dev_evaluation
from disranker.train.distilled import encode_unmined, read_distill_pairs
from disranker.train.distilling import build_objective, describe_student
from disranker.train.dry_run import dry_run
from disranker.train.engine import train
from disranker.train.mining import check_reached, choose_examples
from disranker.train.quantised import quantise
from disranker.train.run import (
    encode_once,
    open_run,
    plan_steps,
    print_plan,
    ranker_saver,
    record_training,
)

CONFIG = DistillConfig


def main(argv: list[str] | None = None) -> int:
    config = DistillConfig.load(argv, prog="distill/train.py", description=__doc__)
    if config.dry_run is not None:
        return dry_run("stage 3", config, Ranker, partial(encode_unmined, config))
    out, config_text = open_run(config)
    pairs = read_distill_pairs(config)
    tokenizer = load_tokenizer(config.model.tokenizer_name)
    ranker = Ranker(build_ranker_model(config.model, tokenizer, seed=config.training.seed))
    encoder = make_encoder(tokenizer, config.text, ranker.model)
    student, objective = build_objective(config, ranker, encoder, pairs.store)

    table = encode_once(out, encoder, lambda: pairs.pair_set.pairs)
    chosen = choose_examples(config, pairs, table, Scorer(ranker, encoder), out)
    items = DistillItems(table, pairs.targets, chosen.sampler)
    plan, num_steps = plan_steps(items, config.training, chosen.order)
    check_sum(config.distill, config.supervised, num_steps)
    check_reached(config.mining, plan, num_steps)
    evaluate = dev_evaluation(ranker, encoder, config.judged_dev, config.dev_measure)
    learned = quantise(config.quantisation, ranker, objective, evaluate, num_steps)
    facts = {"model": describe_student(student), **pairs.facts, **chosen.facts, **learned.facts}
    print_plan("stage 3", config.training, table, num_steps, facts)
    trained = train(
        student,
        learned.objective,
        plan,
        num_steps=num_steps,
        settings=(config.model, config.optim, config.training),
        config_text=config_text,
        out=out,
        save=ranker_saver(out, ranker, encoder, pairs.pair_set, config),
        evaluate=learned.evaluate,
    )
    record_training(out, trained, num_pairs=len(pairs.pair_set))
    return 0


if __name__ == "__main__":
    sys.exit(call_main(main))
