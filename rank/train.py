"""Stage 2: train a ranker on judged pairs, its score read at the last token (decoder) or at [CLS] (encoder).

    deepspeed rank/train.py --config rank/configs/world.yaml

Reads judged pairs, writes a ranker bundle: the teacher, or a student that learns from labels alone.
"""

from __future__ import annotations

import sys

from disranker.config.losses import describe_terms
from disranker.config.rank import RankConfig
from disranker.launch import call_main
from disranker.models.build import build_ranker_model, describe, load_tokenizer
from disranker.models.bundle import make_encoder
from disranker.models.ranker import Ranker
from disranker.train.dev import dev_evaluation
from disranker.train.dry_run import dry_run
from disranker.train.engine import train
from disranker.train.judged import encode_items, read_training_pairs
from disranker.train.objectives import RankObjective
from disranker.train.run import open_run, plan_steps, print_plan, ranker_saver, record_training

CONFIG = RankConfig


def main(argv: list[str] | None = None) -> int:
    config = RankConfig.load(argv, prog="rank/train.py", description=__doc__)
    if config.dry_run is not None:
        return dry_run("stage 2", config, Ranker, lambda *at: encode_items(config, read_training_pairs(config), *at)[1])
    out, config_text = open_run(config)
    pairs = read_training_pairs(config)
    tokenizer = load_tokenizer(config.model.tokenizer_name)
    ranker = Ranker(build_ranker_model(config.model, tokenizer, seed=config.training.seed))
    encoder = make_encoder(tokenizer, config.text, ranker.model)

    table, items = encode_items(config, pairs, out, encoder)
    plan, num_steps = plan_steps(items, config.training)
    facts = {"model": describe(ranker.model), **pairs.facts, "loss": describe_terms(config.loss)}
    print_plan("stage 2", config.training, table, num_steps, facts)
    trained = train(
        ranker,
        RankObjective(config),
        plan,
        num_steps=num_steps,
        settings=(config.model, config.optim, config.training),
        config_text=config_text,
        out=out,
        save=ranker_saver(out, ranker, encoder, pairs.pair_set, config),
        evaluate=dev_evaluation(ranker, encoder, config.judged_dev, config.dev_measure),
    )
    record_training(out, trained, num_pairs=len(pairs.pair_set))
    return 0


if __name__ == "__main__":
    sys.exit(call_main(main))
