"""Export of a student as ONNX, with proof that it scores as before.

    python distill/export.py --config distill/configs/export.yaml

Reads a student's bundle and judged pairs, writes a folder that search engines, onnxruntime, transformers and
sentence-transformers open.  A score that differs by more than `max_difference` ends the export with 1.
"""

from __future__ import annotations

import sys
from itertools import islice

from disranker.config.export import ExportConfig
from disranker.data.groups import collect
from disranker.data.readers import read_judged
from disranker.export.onnx import export_student
from disranker.launch import call_main
from disranker.models.bundle import read_facts
from disranker.settings import provenance

CONFIG = ExportConfig


def main(argv: list[str] | None = None) -> int:
    config = ExportConfig.load(argv, prog="distill/export.py", description=__doc__)
    pairs = collect(islice(read_judged(config.judged), config.parity_pairs)).pairs
    print(f"exporting {config.bundle}: opset {config.opset}, parity on {len(pairs):,} pairs", flush=True)
    parity = export_student(
        config.bundle,
        config.out,
        pairs,
        opset=config.opset,
        max_difference=config.max_difference,
        facts={"config": config.model_dump(mode="json"), "provenance": provenance()},
    )
    print(f"  parity  {parity}")
    model = read_facts(config.out)["export"]
    print(f"wrote {config.out}: {model['file']} of {model['bytes'] / 1e6:.1f} MB, beside the bundle's own files")
    return 0


if __name__ == "__main__":
    sys.exit(call_main(main))
