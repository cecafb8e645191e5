"""How long measuring takes on a large test set, and how much memory: seeded rows, Parquet in, values by query out.

    python eval/benchmark.py --rows 10000000 --queries 100000

Writes two Parquet files of judgments and scores into a temporary folder, then measures them in a process of its own, so
that the memory of making them is not counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from disranker.evaluation.measures import measure_columns
from disranker.evaluation.tables import join_tables, read_label_table, read_score_table


def main() -> int:
    parser = argparse.ArgumentParser(prog="eval/benchmark.py", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="judged and scored documents")
    parser.add_argument("--queries", type=int, default=100_000, help="queries that they are shared out to")
    parser.add_argument("--decimals", type=int, default=6, help="of the scores; few make many ties")
    parser.add_argument("--measures", nargs="+", default=["nDCG@5", "nDCG@10", "PNR"], help="what is measured")
    parser.add_argument("--seed", type=int, default=0, help="of the rows")
    parser.add_argument("--folder", type=Path, help="measure the files of this folder instead of making some")
    args = parser.parse_args()
    if args.folder:
        measure(args.folder, args.measures)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        make_rows(Path(folder), args.rows, args.queries, args.decimals, args.seed)
        command = [sys.executable, __file__, "--folder", folder, "--measures", *args.measures]
        return subprocess.run(command, check=False).returncode


def make_rows(folder: Path, num_rows: int, num_queries: int, decimals: int, seed: int) -> None:
    """Judgments and scores of the same documents, in two orders."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, num_rows, dtype=np.int8)
    scores = (labels + 2 * rng.standard_normal(num_rows)).round(decimals).astype(np.float32)
    queries = pa.array(rng.integers(0, num_queries, num_rows)).cast(pa.string())
    docs = pa.array(rng.permutation(num_rows)).cast(pa.string())
    judged = pa.table({"query_id": queries, "doc_id": docs, "label": labels})
    pq.write_table(judged, folder / "judged.parquet")
    order = pa.array(rng.permutation(num_rows))
    scored = pa.table({"query_id": queries.take(order), "doc_id": docs.take(order), "score": scores[order.to_numpy()]})
    pq.write_table(scored, folder / "scored.parquet")


def measure(folder: Path, measures: list[str]) -> None:
    """Measure the files of a folder and print what it took."""
    began = time.perf_counter()
    columns = join_tables(read_label_table(folder / "judged.parquet"), read_score_table(folder / "scored.parquet"))
    joined = time.perf_counter()
    measured = measure_columns(columns, measures)
    ended = time.perf_counter()
    seconds, peak = time.process_time(), peak_memory() / (1 << 20)
    print("  ".join(f"{name} {value:.6f}" for name, value in measured.aggregate.items()))
    print("  ".join(f"{name} {count:,}" for name, count in measured.counts.items()))
    print(f"read and joined {joined - began:.1f} s, measured {ended - joined:.1f} s")
    print(f"{ended - began:.1f} s in all, {seconds:.1f} s of CPU; peak memory {peak:.2f} GiB")


def peak_memory() -> int:
    """The most KiB that this process held (Linux); its ru_maxrss would begin with that of the process that made it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    sys.exit(main())
