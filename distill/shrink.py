"""A smaller encoder out of a larger one, for a student to start from: some of its layers, its vocabulary in use.

    python distill/shrink.py --model google-bert/bert-base-uncased --layers spaced --num_layers 6 --out runs/bert-6

Reads a model (folder, bundle, hub name, package:), writes a folder that every stage takes as `model.name`.
"""

from __future__ import annotations

import sys

from disranker.config.shrink import ShrinkConfig
from disranker.data.readers import read_clicks
from disranker.launch import call_main
from disranker.models.shrink import shrink

CONFIG = ShrinkConfig


def main(argv: list[str] | None = None) -> int:
    config = ShrinkConfig.load(argv, prog="distill/shrink.py", description=__doc__)
    # Judged pairs and candidates have the columns of a click, and more.
    rows = read_clicks(config.vocabulary) if config.vocabulary else ()
    print(f"shrink {config.model}:", flush=True)
    for line in shrink(config, (text for row in rows for text in (row.query, row.title, row.summary))):
        print(f"  {line}")
    print(f"wrote {config.out}")
    return 0


if __name__ == "__main__":
    sys.exit(call_main(main))
