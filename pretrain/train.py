"""Stage 1: continued pretraining of a decoder on query → clicked title + summary.

    deepspeed pretrain/train.py --config pretrain/configs/world.yaml

Reads click logs (and general text that is not to be forgotten), writes a language-model bundle that stage 2 starts
from.  One process works as well: `python`.
"""

from __future__ import annotations

import sys

from disranker import dist
from disranker.config.pretrain import PretrainConfig
from disranker.launch import call_main
from disranker.models.build import build_language_model, describe, load_tokenizer
from disranker.models.bundle import make_encoder, save_bundle
from disranker.models.language import LanguageModel
from disranker.settings import provenance
from disranker.text.token_bytes import token_bytes
from disranker.train.clicked import read_examples
from disranker.train.curves import write_perplexities
from disranker.train.dev import dev_likelihood
from disranker.train.dry_run import dry_run
from disranker.train.engine import train
from disranker.train.language import LanguageModelObjective
from disranker.train.penalty import make_penalty
from disranker.train.run import open_run, plan_steps, print_plan, record_training
from disranker.train.throughput import Meter

CONFIG = PretrainConfig


def main(argv: list[str] | None = None) -> int:
    config = PretrainConfig.load(argv, prog="pretrain/train.py", description=__doc__)
    if config.dry_run is not None:
        return dry_run("stage 1", config, LanguageModel, lambda *at: read_examples(config, *at).train)
    out, config_text = open_run(config)
    tokenizer = load_tokenizer(config.model.tokenizer_name)
    model = LanguageModel(build_language_model(config.model, tokenizer, seed=config.training.seed))
    encoder = make_encoder(tokenizer, config.text, model.model)
    examples = read_examples(config, out, encoder)

    plan, num_steps = plan_steps(examples.train, config.training)
    meter = Meter(model, examples.train)
    facts = {"model": describe(model.model), **examples.facts, "peak": meter.describe()}
    print_plan("stage 1", config.training, examples.train, num_steps, facts)
    bytes_V = token_bytes(tokenizer)
    penalty = make_penalty(config.penalty, model, examples.general, seed=config.training.seed)
    tokens_per_batch = max(1, config.training.tokens_per_step // (config.training.accumulation * dist.world_size()))
    about = {"formats": examples.formats, "config": config.model_dump(mode="json"), "provenance": provenance()}

    trained = train(
        model,
        LanguageModelObjective(bytes_V, penalty),
        plan,
        num_steps=num_steps,
        settings=(config.model, config.optim, config.training),
        config_text=config_text,
        out=out,
        save=lambda: save_bundle(out, model.model, encoder, about),
        evaluate=dev_likelihood(model, examples.dev, bytes_V, tokens_per_batch=tokens_per_batch),
        evaluate_first=True,
        derive=meter.derive,
    )
    record_training(out, trained, num_pairs=examples.train.num_clicks)
    if dist.is_main():
        write_perplexities(out)
    return 0


if __name__ == "__main__":
    sys.exit(call_main(main))
