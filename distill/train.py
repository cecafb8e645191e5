"""Stage 3: a BERT student learns the teacher's scores with point-MSE + margin-MSE over all pairs of a group.

    deepspeed distill/train.py --config distill/configs/world.yaml

Reads a store of teacher scores and the candidates that were scored, writes the student's bundle.
"""

from __future__ import annotations

import sys

from disranker.config.distill import DistillConfig
from disranker.data.batches import GroupItems
from disranker.data.groups import collect, describe_groups
from disranker.data.readers import read_candidates
from disranker.launch import call_main
from disranker.models.build import build_ranker_model, describe, load_tokenizer
from disranker.models.bundle import make_encoder
from disranker.models.ranker import Ranker
from disranker.teacher.store import Store
from disranker.train.dev import dev_evaluation
from disranker.train.engine import train
from disranker.train.objectives import DistillObjective
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
    out, config_text = open_run(config)
    pair_set = collect(read_candidates(config.candidates))
    teacher_scores = Store(config.store).standardised(pair_set.pairs)
    tokenizer = load_tokenizer(config.model.tokenizer_name)
    ranker = Ranker(build_ranker_model(config.model, tokenizer, seed=config.training.seed))
    encoder = make_encoder(tokenizer, config.text, ranker.model)

    table = encode_once(out, encoder, lambda: pair_set.pairs)
    items = GroupItems(
        table, pair_set.groups(), teacher_scores, docs_per_query=config.docs_per_query, seed=config.training.seed
    )
    plan, num_steps = plan_steps(items, config.training)
    loss = f"{config.point_weight:g} x point-MSE + {config.margin_weight:g} x margin-MSE"
    facts = {"model": describe(ranker.model), "scored": describe_groups(pair_set), "loss": loss}
    print_plan("stage 3", config.training, table, num_steps, facts)
    trained = train(
        ranker,
        DistillObjective(config),
        plan,
        num_steps=num_steps,
        settings=(config.model, config.optim, config.training),
        config_text=config_text,
        out=out,
        save=ranker_saver(out, ranker, encoder, pair_set, config),
        evaluate=dev_evaluation(ranker, encoder, config.judged_dev, config.dev_measure),
    )
    record_training(out, trained, num_pairs=len(pair_set))
    return 0


if __name__ == "__main__":
    sys.exit(call_main(main))
