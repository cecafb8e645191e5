"""Stage 1: continued pretraining of a decoder on query → clicked title + summary.

    deepspeed pretrain/train.py --config pretrain/configs/world.yaml

Reads click logs, writes a language-model bundle that stage 2 starts from.  One process works as well: `python`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from disranker.config.pretrain import PretrainConfig
from disranker.data.batches import TextItems
from disranker.data.clicks import clicked_pairs
from disranker.data.tokens import TokenTable
from disranker.launch import call_main
from disranker.models.build import build_language_model, describe, load_tokenizer
from disranker.models.bundle import make_encoder, save_bundle
from disranker.models.language import LanguageModel
from disranker.settings import provenance
from disranker.shards import file_hash
from disranker.text.encode import PairEncoder
from disranker.train.dev import dev_likelihood
from disranker.train.engine import train
from disranker.train.objectives import LanguageModelObjective
from disranker.train.run import encode_once, open_run, plan_steps, print_plan, record_training

CONFIG = PretrainConfig


def main(argv: list[str] | None = None) -> int:
    config = PretrainConfig.load(argv, prog="pretrain/train.py", description=__doc__)
    out, config_text = open_run(config)
    tokenizer = load_tokenizer(config.model.tokenizer_name)
    model = LanguageModel(build_language_model(config.model, tokenizer, seed=config.training.seed))
    encoder = make_encoder(tokenizer, config.text, model.model)

    train_table, dev_table = (clicked_tokens(config, out, encoder, held_out) for held_out in (False, True))
    items, dev_items = (TextItems(table, np.arange(len(table))) for table in (train_table, dev_table))
    plan, num_steps = plan_steps(items, config.training)
    print_plan("stage 1", config.training, train_table, num_steps, {"model": describe(model.model)})

    def save() -> None:
        save_bundle(out, model.model, encoder, {"config": config.model_dump(mode="json"), "provenance": provenance()})

    trained = train(
        model,
        LanguageModelObjective(),
        plan,
        num_steps=num_steps,
        settings=(config.model, config.optim, config.training),
        config_text=config_text,
        out=out,
        save=save,
        evaluate=dev_likelihood(model, dev_items, config.training.tokens_per_step) if len(dev_table) else None,
    )
    record_training(out, trained, num_pairs=len(train_table))
    return 0


def clicked_tokens(config: PretrainConfig, out: Path, encoder: PairEncoder, held_out: bool) -> TokenTable:
    """The encoded clicks of the training or the held-out part, written by one process and mapped by all."""
    part = {"max_clicks": config.max_clicks, "dev_share": config.dev_share, "held_out": held_out}
    content = f"{[file_hash(path) for path in config.clicks]} {part}"
    return encode_once(out, encoder, lambda: clicked_pairs(config.clicks, **part), content)


if __name__ == "__main__":
    sys.exit(call_main(main))
