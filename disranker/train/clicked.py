"""What stage 1 trains on: clicks in the forms of its objectives, general text beside them, and what is held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from disranker import dist
from disranker.config.pretrain import PretrainConfig
from disranker.data.evidence import Evidence, plan_evidence
from disranker.data.general import general_texts
from disranker.data.lengths import describe_lengths
from disranker.data.text_items import Replay, TextItems
from disranker.data.tokens import Encodes, TokenTable, token_table
from disranker.schema import Pair, stable_seed
from disranker.shards import file_hash, write_atomic
from disranker.text.encode import FormatEncoder, PairEncoder, PieceEncoder
from disranker.text.templates import get_format

T = TypeVar("T")

# Objective -> what the names of its figures on held-out clicks begin with; the paper's has none.
_PREFIXES = {"document_given_query": "", "query_given_document": "query", "document": "document"}


@dataclass(frozen=True, slots=True)
class Examples:
    """What a run of stage 1 reads, encoded."""

    train: TextItems
    dev: Mapping[str, TextItems]
    """What is measured, by the name of its figures; the first one decides.  Empty: no click is held out."""
    general: TokenTable | None
    """the general text that is replayed"""
    formats: Mapping[str, Mapping[str, object]]
    """objective -> name and version of its format, for whoever asks the model for a query"""
    facts: dict[str, str]
    """lines of the plan"""


def read_examples(config: PretrainConfig, out: Path, encoder: PairEncoder) -> Examples:
    """Read and encode the clicks and the general text; the main process writes them to `out`, all map them.

    Raises:
        ValueError: a file is at fault, nothing is left to learn, or the settings ask for evaluations and no query is
            held out.
    """
    evidence = plan_evidence(
        config.clicks,
        config.evidence,
        max_clicks=config.max_clicks,
        dev_share=config.dev_share,
        seed=config.training.seed,
        faults=out / "faults.txt",
    )
    shares = config.objectives.shares()
    encoders = {name: _encoder(name, encoder) for name in shares}
    tables = {name: _clicks(out, encoders[name], evidence, held_out=False) for name in shares}
    held_out = {name: _clicks(out, encoders[name], evidence, held_out=True) for name in shares}
    num_dev = len(next(iter(held_out.values())))
    if num_dev == 0 and config.training.evaluate_every is not None:
        raise ValueError(
            f"training.evaluate_every has nothing to measure: dev_share {config.dev_share:g} holds out none of the "
            "queries of this log; raise it, or set evaluate_every to null"
        )
    weights = _weights(out, evidence) if evidence.weighted else None
    pieces = PieceEncoder(encoder.tokenizer, max_tokens=encoder.max_tokens)
    general, general_dev = _general(config, out, pieces)
    replay = Replay(general, config.replay.share) if general is not None and config.replay is not None else None
    train = TextItems(
        list(tables.values()),
        shares=list(shares.values()),
        weights=weights,
        replay=replay,
        seed=config.training.seed,
    )
    dev = {_PREFIXES[name]: TextItems([table]) for name, table in held_out.items()} if num_dev else {}
    if dev and general_dev is not None and len(general_dev):
        dev["general"] = TextItems([general_dev])
    templates = {name: encoders[name].template for name in shares}
    formats = {name: {"name": template.name, "version": template.version} for name, template in templates.items()}
    facts = {
        **(evidence.facts if dist.is_main() else {}),  # process 0 alone has read the log, and speaks
        "learns": ", ".join(
            f"{share / sum(shares.values()):.0%} {name} ({templates[name].name})" for name, share in shares.items()
        ),
        "held out": f"{num_dev:,} clicks" if num_dev else "no clicks: nothing is measured",
    }
    if replay is not None:
        rounds = train.num_replayed / len(replay.table)
        facts["replay"] = (
            f"{replay.share:.1%} of the tokens: {train.num_replayed:,} of {len(replay.table):,} pieces of general text "
            f"an epoch ({rounds:.2g} times)"
        )
    if "general" in dev and general_dev is not None:
        facts["general"] = f"perplexity on {len(general_dev):,} pieces"
    if config.penalty is not None:
        facts["penalty"] = config.penalty.describe()
    # A packed row has no padding; the line says so because others have.
    facts["lengths"] = f"{describe_lengths(train.lengths(0))}; 0% padding, as examples are packed"
    return Examples(train, dev, general, formats, facts)


def _encoder(objective: str, encoder: PairEncoder) -> Encodes[Pair]:
    if objective == "document_given_query":
        return encoder
    template = get_format("query" if objective == "query_given_document" else "document", encoder.template)
    return FormatEncoder(
        encoder.tokenizer, template, max_tokens=encoder.max_tokens, max_query_tokens=encoder.max_query_tokens
    )


def _clicks(out: Path, encoder: Encodes[Pair], evidence: Evidence, *, held_out: bool) -> TokenTable:
    content = f"{evidence.content} {held_out}"
    return _encoded(out, encoder, lambda: evidence.pairs(held_out), content)


def _weights(out: Path, evidence: Evidence) -> NDArray[np.float32]:
    """[rows] weight of each click that is learnt, written by one process and mapped by all."""
    path = out / "cache" / f"weights-{stable_seed(evidence.content):016x}.npy"
    if dist.is_main() and not path.exists():
        with write_atomic(path) as temporary, temporary.open("wb") as file:
            np.save(file, evidence.weights())
    dist.barrier()
    mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return mapped


def _general(config: PretrainConfig, out: Path, encoder: PieceEncoder) -> tuple[TokenTable | None, TokenTable | None]:
    """General text to learn and to measure; None where the settings name none.

    Raises:
        ValueError: nothing is left to replay.
    """

    def read(paths: list[Path], share: float, held_out: bool) -> TokenTable:
        content = f"general {[file_hash(path) for path in paths]} {share} {held_out}"
        return _encoded(out, encoder, lambda: general_texts(paths, held_out_share=share, held_out=held_out), content)

    replayed = None if config.replay is None else read(config.replay.texts, config.dev_share, False)
    if replayed is not None and len(replayed) == 0:
        raise ValueError(f"replay.texts leave nothing to learn: dev_share {config.dev_share:g} holds out every text")
    if config.general_dev:
        return replayed, read(config.general_dev, 0.0, False)
    return replayed, None if config.replay is None else read(config.replay.texts, config.dev_share, True)


def _encoded(out: Path, encoder: Encodes[T], rows: Callable[[], Iterator[T]], content: str) -> TokenTable:
    """The table of a stream, written by one process and mapped by all."""
    opened = token_table(out / "cache", encoder, rows, content=content, is_main=dist.is_main())
    dist.barrier()
    return opened()
