"""Export of a student for search engines, with proof that it scores as before.

    python distill/export.py --config distill/configs/export.yaml

Reads a student's bundle and judged pairs, writes a folder that onnxruntime, transformers, sentence-transformers and
others open, and layouts for engines.  Drift beyond the limit ends the export with 1, and nothing is written.
"""

from __future__ import annotations

import sys

from disranker.config.export import ExportConfig
from disranker.data.readers import read_judged
from disranker.export.folder import export_student
from disranker.export.gate import describe_cost
from disranker.launch import call_main
from disranker.settings import provenance

CONFIG = ExportConfig


def main(argv: list[str] | None = None) -> int:
    config = ExportConfig.load(argv, prog="distill/export.py", description=__doc__)
    judgments = list(read_judged(config.judged))
    made = ", ".join(["onnx", *config.variants, *config.layouts])
    read = f"{len(judgments):,} judged pairs, up to {config.max_pairs:,} of them scored"
    print(f"exporting {config.bundle}: {made}; {read}", flush=True)
    export = export_student(
        config.bundle,
        config.out,
        judgments,
        opset=config.opset,
        max_pairs=config.max_pairs,
        max_difference=config.max_difference,
        accept_drift=config.accept_drift,
        variants=config.variants,
        layouts=config.layouts,
        facts={"config": config.model_dump(mode="json"), "provenance": provenance()},
    )
    print(f"  bundle in torch: {describe_cost(export.bundle_bytes, export.bundle_speeds)}")
    for variant in export.variants:
        print(f"  {variant}")
    fastest = ", ".join(f"{name} with {threads}" for threads, name in export.fastest.items())
    print(f"  fastest by threads: {fastest}")
    print(f"wrote {config.out}: {made}, golden pairs with their checkers, export.json and README.md")
    return 0


if __name__ == "__main__":
    sys.exit(call_main(main))
