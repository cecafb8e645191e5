"""Scoring: a teacher's raw scores of candidates into a store, resumable at any moment.

    deepspeed rank/score.py --config rank/configs/score_world.yaml

The teacher is a ranker bundle, or someone else's scores as a TREC run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from disranker import dist
from disranker.config.score import ScoreConfig
from disranker.data.readers import read_candidates, read_trec_run
from disranker.launch import call_main
from disranker.models.bundle import read_facts
from disranker.models.scorer import Scorer
from disranker.schema import Candidate
from disranker.shards import file_hash
from disranker.teacher.scoring import Teacher, run_teacher, score_candidates

CONFIG = ScoreConfig


def main(argv: list[str] | None = None) -> int:
    config = ScoreConfig.load(argv, prog="rank/score.py", description=__doc__)
    dist.initialize()
    teacher = bundle_teacher(config) if config.teacher else foreign_teacher(config)
    dist.print_once("scoring:")
    dist.print_once(f"  teacher    {teacher.identity}")
    manifest = score_candidates(
        teacher,
        read_candidates(config.candidates),
        out=Path(config.out),
        input_hash=" ".join(map(file_hash, config.candidates)),
        pairs_per_shard=config.pairs_per_shard,
    )
    if dist.is_main():
        print(f"wrote {config.out}: {manifest['num_pairs']:,} scores of {manifest['num_candidates']:,} candidates")
    return 0


def bundle_teacher(config: ScoreConfig) -> Teacher:
    """A ranker bundle of ours."""
    assert config.teacher is not None
    facts = read_facts(config.teacher)
    scorer = Scorer.load(config.teacher, dtype=config.dtype, tokens_per_batch=config.tokens_per_batch)
    identity = {
        "kind": "bundle",
        "dtype": dist.usable_dtype(config.dtype),
        **{k: facts[k] for k in ("fingerprint", "template")},
    }

    def score(block: Sequence[Candidate]) -> NDArray[np.float32]:
        return scorer.score([candidate.pair for candidate in block])

    return Teacher(identity, score)


def foreign_teacher(config: ScoreConfig) -> Teacher:
    """A TREC run."""
    assert config.run is not None
    return run_teacher(config.run.stem, file_hash(config.run), read_trec_run(config.run))


if __name__ == "__main__":
    sys.exit(call_main(main))
