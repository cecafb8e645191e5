"""What a scoring run tells while it runs: a line per shard on the screen and in metrics.jsonl.

metrics.jsonl stands in the store's folder for people and dashboards; it is no part of the store, whose other files are
the same bytes whoever made them and however often they were killed.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from disranker import dist
from disranker.teacher.plan import Plan
from disranker.teacher.store import METRICS_NAME, shard_path
from disranker.train.journal import clock


class Progress:
    """Counts the shards that stand in the folder, whichever rank wrote them; process 0 alone speaks."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder, self._plan = folder, plan
        self._began = self._told = time.monotonic()
        self._before = self._sums()
        if dist.is_main():
            _drop_half_line(folder / METRICS_NAME)

    def tell(self, *, at_end: bool = False) -> None:
        """Tell how far the run is, its speed and what is left, once a second at most; at the end in any case."""
        now = time.monotonic()
        if not dist.is_main() or (now - self._told < 1.0 and not at_end):
            return
        self._told = now
        shards, pairs, tokens = self._sums()
        seconds = now - self._began
        pair_rate, token_rate = (pairs - self._before[1]) / seconds, (tokens - self._before[2]) / seconds
        if not token_rate:
            return
        line = {
            "step": shards,
            "num_shards": self._plan.num_shards,
            "pairs": pairs,
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "pairs_per_second": round(pair_rate, 1),
            "tokens_per_second": round(token_rate, 1),
        }
        with (self._folder / METRICS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        left = clock((int(self._plan.tokens.sum()) - tokens) / token_rate)
        print(
            f"  shard {shards}/{self._plan.num_shards}: {pairs:,} of {self._plan.num_pairs:,} pairs, "
            f"{pair_rate:,.0f} pairs/s, {token_rate:,.0f} tokens/s, left {left}",
            flush=True,
        )

    def _sums(self) -> tuple[int, int, int]:
        """Shards, pairs and tokens that are done."""
        there = set(os.listdir(self._folder))
        done = [shard_path(self._folder, index).name in there for index in range(self._plan.num_shards)]
        return sum(done), int(self._plan.pairs[done].sum()), int(self._plan.tokens[done].sum())


def _drop_half_line(path: Path) -> None:
    """A killed run may leave half a line at the end."""
    if path.exists():
        text = path.read_text(encoding="utf-8")
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
