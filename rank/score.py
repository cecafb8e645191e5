"""Scoring: a teacher's raw scores of candidates into a store, resumable at any moment.

    deepspeed rank/score.py --config rank/configs/score_world.yaml

The teacher is a ranker bundle, or someone else's scores or orderings in a file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from disranker import dist
from disranker.config.score import ScoreConfig
from disranker.data.readers import read_candidates
from disranker.launch import call_main
from disranker.models.bundle import read_facts
from disranker.models.scorer import Scorer
from disranker.schema import Candidate
from disranker.shards import file_hash
from disranker.teacher.foreign import foreign_teacher
from disranker.teacher.health import health_lines
from disranker.teacher.scoring import Teacher, score_candidates

CONFIG = ScoreConfig


def main(argv: list[str] | None = None) -> int:
    config = ScoreConfig.load(argv, prog="rank/score.py", description=__doc__)
    dist.initialize()
    teacher = make_teacher(config)
    dist.print_once("scoring:")
    dist.print_once(f"  teacher    {teacher.identity}")
    manifest = score_candidates(
        teacher,
        lambda: read_candidates(config.candidates),
        out=Path(config.out),
        input_hash=dist.broadcast_object(" ".join(map(file_hash, config.candidates)) if dist.is_main() else None),
        pairs_per_shard=config.pairs_per_shard,
    )
    if dist.is_main():
        print(*(f"  {line}" for line in health_lines(manifest)), sep="\n")
        print(f"wrote {config.out}: {manifest['num_pairs']:,} scores of {manifest['num_candidates']:,} candidates")
    return 0


def make_teacher(config: ScoreConfig) -> Teacher:
    """The one that the settings name."""
    if config.run is not None:
        return foreign_teacher("run", config.run)
    if config.scores is not None:
        return foreign_teacher("scores", config.scores)
    return bundle_teacher(config) if config.ordering is None else foreign_teacher("ordering", config.ordering)


def bundle_teacher(config: ScoreConfig) -> Teacher:
    """A ranker bundle of ours."""
    assert config.teacher is not None
    facts = {name: read_facts(config.teacher)[name] for name in ("fingerprint", "template")}
    scorer = Scorer.load(config.teacher, dtype=config.dtype, tokens_per_batch=config.tokens_per_batch)
    identity = {"kind": "bundle", "dtype": dist.usable_dtype(config.dtype), **facts}

    def score(block: Sequence[Candidate]) -> tuple[NDArray[np.float32], NDArray[np.float16] | None]:
        pairs = [candidate.pair for candidate in block]
        return scorer.score_and_represent(pairs) if config.representation else (scorer.score(pairs), None)

    return Teacher(identity, score, scorer.count_tokens, config.representation)


if __name__ == "__main__":
    sys.exit(call_main(main))
