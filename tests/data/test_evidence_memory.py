"""Memory of reading a log as evidence: next to none a row with everything off, some 300 bytes with everything on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disranker.data.readers import write_records
from disranker.schema import Click
from tests.memory import run_measured

EVERYTHING = {
    "position": {"propensities": [1.0, 0.5, 0.3]},
    "dwell": {"min_seconds": 1.0, "weight": "log"},
    "ctr": {"weight": True},
    "near_duplicates": 0.9,
    "max_per_query": 20,
    "max_per_document": 20,
}
READ = """
import json, sys
from pathlib import Path
from disranker.config.clicks import EvidenceConfig
from disranker.data.evidence import plan_evidence
config = EvidenceConfig(**json.loads(sys.argv[2]))
evidence = plan_evidence([Path(sys.argv[1])], config, max_clicks=None, dev_share=0.01, seed=0)
print(sum(1 for _ in evidence.pairs(held_out=False)))
"""


def write_log(path: Path, num_rows: int) -> Path:
    """Five rows a query, every document another one."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{number:04}" for number in range(5000)])

    def clicks():
        for row in range(num_rows):
            summary = " ".join(words[rng.integers(len(words), size=12)])
            yield Click(f"query {row // 5}", f"title {row}", summary, 1, 4, row % 5 + 1, 30.0)

    write_records(path, Click, clicks())
    return path


def read(path: Path, config: dict[str, Any]) -> tuple[int, int]:
    """Rows, and bytes at the peak, of a process that does nothing else."""
    (num_rows,), peak = run_measured(READ, path, json.dumps(config))
    return int(num_rows), peak


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_grows_by_bytes_a_row(tmp_path: Path) -> None:
    logs = {num_rows: write_log(tmp_path / f"{num_rows}.parquet", num_rows) for num_rows in (100_000, 300_000)}
    for config, bytes_a_row in [({}, 60), (EVERYTHING, 450)]:
        (few, low), (many, high) = (read(log, config) for log in logs.values())
        assert few > 98_000
        assert many > 294_000
        # the allocator keeps what is freed, so this is more than what is in use
        assert (high - low) / 200_000 < bytes_a_row, f"{low:,} -> {high:,}"
        assert high < 400e6
