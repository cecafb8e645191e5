"""Warm-up of an encoder: masked-language modelling on the domain's own texts, before it learns to rank.

    deepspeed distill/warmup.py --config distill/configs/warmup_world.yaml

Reads click logs and candidates, writes a folder that rank/train.py and distill/train.py start from by `model.name`.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from disranker.config.warmup import WarmupConfig
from disranker.data.domain_texts import domain_texts
from disranker.launch import call_main
from disranker.models.build import build_masked_model, describe, load_tokenizer
from disranker.models.bundle import make_encoder
from disranker.models.masked import MaskedLanguageModel, pooler_weights, save_warmed
from disranker.settings import provenance
from disranker.shards import file_hash
from disranker.text.encode import PairEncoder
from disranker.train.dry_run import dry_run
from disranker.train.engine import train
from disranker.train.masked import MaskedItems, MaskedObjective, Masker, masked_likelihood
from disranker.train.run import encode_once, open_run, plan_steps, print_plan, record_training

CONFIG = WarmupConfig


def main(argv: list[str] | None = None) -> int:
    config = WarmupConfig.load(argv, prog="distill/warmup.py", description=__doc__)
    if config.dry_run is not None:
        return dry_run("warm-up", config, MaskedLanguageModel, partial(read_items, config))
    out, config_text = open_run(config)
    tokenizer = load_tokenizer(config.model.tokenizer_name)
    model = MaskedLanguageModel(build_masked_model(config.model, tokenizer, seed=config.training.seed))
    encoder = make_encoder(tokenizer, config.text, model.model)

    items, dev_items = (read_items(config, out, encoder, held_out=held_out) for held_out in (False, True))
    plan, num_steps = plan_steps(items, config.training)
    facts = {
        "model": describe(model.model),
        "hidden": f"{config.mask_share:.0%} of the tokens of a row, drawn anew in every epoch",
        "held out": f"{len(dev_items.table):,} rows",
    }
    print_plan("warm-up", config.training, items.table, num_steps, facts)
    about = {"config": config.model_dump(mode="json"), "provenance": provenance()}
    pooler = pooler_weights(config.model)
    trained = train(
        model,
        MaskedObjective(),
        plan,
        num_steps=num_steps,
        settings=(config.model, config.optim, config.training),
        config_text=config_text,
        out=out,
        save=lambda: save_warmed(out, model, pooler, tokenizer, about),
        evaluate=masked_likelihood(model, dev_items, config.training.tokens_per_step),
        evaluate_first=True,
    )
    record_training(out, trained, num_pairs=len(items.table))
    return 0


def read_items(config: WarmupConfig, out: Path, encoder: PairEncoder, *, held_out: bool = False) -> MaskedItems:
    """The encoded texts of the training or the held-out part, written by one process and mapped by all."""
    part = {"dev_share": config.dev_share, "held_out": held_out}
    content = f"{[file_hash(path) for path in (*config.clicks, *config.candidates)]} {len(config.clicks)} {part}"
    table = encode_once(out, encoder, lambda: domain_texts(config.clicks, config.candidates, **part), content)
    return MaskedItems(table, Masker(encoder.tokenizer, share=config.mask_share, seed=config.training.seed))


if __name__ == "__main__":
    sys.exit(call_main(main))
