"""What every training stage does around the engine: open the output folder, print the plan, write the bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from disranker import dist
from disranker.config.parts import TrainedStage, TrainingConfig
from disranker.data.batches import Items, Order, StepPlan
from disranker.data.groups import PairSet
from disranker.data.text_items import TextItems
from disranker.data.tokens import TokenTable, token_table
from disranker.models.adapters import check_quantization
from disranker.models.bundle import FACTS_NAME, read_facts, write_facts
from disranker.models.ranker import Ranker
from disranker.models.verify import NUM_PROBES, save_verified
from disranker.schema import Pair, pair_key, stable_seed
from disranker.settings import Settings, dump, provenance
from disranker.shards import MANIFEST_NAME, file_hash, write_atomic
from disranker.text.encode import PairEncoder
from disranker.train.checkpoint import CHECKPOINT_FOLDER, check_settings
from disranker.train.engine import Trained
from disranker.train.journal import clock, finite


def open_run(config: TrainedStage) -> tuple[Path, str]:
    """Join the other processes, make the output folder and write the resolved settings there; (folder, settings).

    The settings end with the hash of every input, so a run never goes on from its checkpoint over other data.

    Raises:
        ValueError: the folder holds a checkpoint of a run with other settings or inputs, or this machine lacks what
            the settings need.
    """
    check_quantization(config.model)
    dist.initialize()
    hashes = [f"# input {path} {file_hash(path)}\n" for path in input_files(config)]
    out, text = Path(config.out), dump(config) + "".join(hashes)
    check_settings(out / CHECKPOINT_FOLDER, text)
    dist.barrier()
    if dist.is_main():
        with write_atomic(out / "config.yaml") as temporary:
            temporary.write_text(text, encoding="utf-8")
    dist.barrier()
    return out, text


def input_files(config: TrainedStage) -> list[Path]:
    """The files that a stage reads besides its model; of a store, the manifest, of a bundle, its facts."""
    files = [path / name for path in input_paths(config) for name in ("", MANIFEST_NAME, FACTS_NAME)]
    return [file for file in files if file.is_file()]  # whoever reads the input says what is wrong with it


def input_paths(value: object) -> Iterator[Path]:
    """The paths in settings, in their parts and lists too; they may be missing."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Settings | list):
        for inner in (inner for _, inner in value) if isinstance(value, Settings) else value:
            yield from input_paths(inner)


def encode_once(
    out: Path, encoder: PairEncoder, pairs: Callable[[], Iterable[Pair]], content: str | None = None
) -> TokenTable:
    """The token table of a stream of pairs, written by one process and mapped by all.

    `content` is a hash that stands for the texts; without it the texts themselves are hashed.
    """
    if content is None:
        content = f"{stable_seed(*(pair_key(pair) for pair in pairs())):016x}"
    opened = token_table(out / "cache", encoder, pairs, content=content, is_main=dist.is_main())
    dist.barrier()
    return opened()


def plan_steps(items: Items[Any], training: TrainingConfig, order: Order | None = None) -> tuple[StepPlan[Any], int]:
    """The plan of this rank's steps, and how many steps the run has; `order` is that of `StepPlan`.

    Raises:
        ValueError: there is no item.
    """
    if len(items.lengths(0)) == 0:
        raise ValueError("there is nothing to train on: no row is left for training")
    plan: StepPlan[Any] = StepPlan(
        items,
        tokens_per_step=training.tokens_per_step,
        accumulation=training.accumulation,
        process_rank=dist.process_rank(),
        world_size=dist.world_size(),
        seed=training.seed,
        order=order,
    )
    if training.steps is not None:
        return plan, training.steps
    assert training.epochs is not None
    return plan, plan.num_steps(training.epochs)


def print_plan(
    stage: str, training: TrainingConfig, table: TokenTable | TextItems, num_steps: int, facts: Mapping[str, str]
) -> None:
    """Say what was derived, before anything starts; what an epoch draws anew is told of the first."""
    lengths = table.lengths(0) if isinstance(table, TextItems) else table.lengths
    cut = f"{dist.world_size()} ranks x {training.accumulation} micro-batches"
    lines = {
        **facts,
        "tokens": f"{lengths.sum():,} in {len(lengths):,} pairs, {table.num_truncated / len(lengths):.1%} cut to fit",
        "steps": f"{num_steps:,}, about {training.tokens_per_step:,} tokens a step = {cut}",
        "device": f"{dist.device().type}, ZeRO {training.zero_stage}",
    }
    dist.print_once(f"{stage}:")
    for name, value in lines.items():
        dist.print_once(f"  {name:<10} {value}")


def ranker_saver(
    out: Path, ranker: Ranker, encoder: PairEncoder, pair_set: PairSet, config: TrainedStage
) -> Callable[[], None]:
    """A function that writes the bundle of the ranker as it is; it takes its place once it scores the same reopened."""
    facts = {"config": config.model_dump(mode="json"), "provenance": provenance()}

    def save() -> None:
        save_verified(out, ranker, encoder, facts, pair_set.pairs[:NUM_PROBES], dtype=config.model.dtype)

    return save


def record_training(out: Path, trained: Trained, *, num_pairs: int) -> None:
    """Add to the bundle what training it took, remove the cache, and say where the bundle is."""
    dist.barrier()
    if not dist.is_main():
        return
    facts = read_facts(out)
    facts["training"] = {
        "steps": trained.steps,
        "tokens": trained.tokens,
        "pairs": trained.pairs,
        "distinct_pairs": num_pairs,
        "seconds": round(trained.seconds, 1),
        "best_step": trained.best_step,
        "best_value": trained.best_value,
    }
    write_facts(out, finite(facts))
    shutil.rmtree(out / "cache", ignore_errors=True)
    kept = f"the best of step {trained.best_step}" if trained.best_value is not None else "the last"
    dist.print_once(f"wrote {out}: {kept}, after {trained.steps:,} steps in {clock(trained.seconds)}")
