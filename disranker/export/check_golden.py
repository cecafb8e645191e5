"""Proves an integration: golden pairs must give the token ids, the token types and the score of the ranker.

    python check.py [--model onnx/model.onnx] [--tolerance 1e-4]

Every export holds this file as `check.py`; it needs onnxruntime and tokenizers alone.  Read it for how a pair becomes a
score.  Exit code 0: all is equal; 1: something differs, and what.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def find_differences(folder: Path, model: str = "onnx/model.onnx", tolerance: float = 1e-4) -> list[str]:
    """What an export folder scores otherwise than `golden.jsonl` says; scores may differ by `tolerance`."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    golden = [json.loads(line) for line in (folder / "golden.jsonl").read_text("utf-8").splitlines()]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))  # cuts at max_tokens by itself, pads nothing
    session = onnxruntime.InferenceSession(str(folder / model), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    differences = []
    for number, pair in enumerate(golden, start=1):
        encoded = tokenizer.encode(pair["query"], pair["document"])
        found: dict[str, Any] = {"input_ids": encoded.ids, "token_type_ids": encoded.type_ids}
        for name in ("input_ids", "token_type_ids"):
            if name in pair and found[name] != pair[name]:
                differences.append(f"pair {number}: {name} are {found[name]}, and should be {pair[name]}")
        found["attention_mask"] = [1] * len(encoded.ids)
        inputs = {name: np.array([found[name]], dtype=np.int64) for name in names}
        score = float(session.run(["logits"], inputs)[0][0, 0])
        if not abs(score - pair["score"]) <= tolerance:
            differences.append(f"pair {number}: the score is {score:.6f}, and should be {pair['score']:.6f}")
    return differences


def main() -> int:
    """Check the folder that this file lies in."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="onnx/model.onnx", help="the ONNX file")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="difference of a score that is accepted")
    args = parser.parse_args()
    folder = Path(__file__).resolve().parent
    differences = find_differences(folder, args.model, args.tolerance)
    for difference in differences:
        print(difference, file=sys.stderr)
    print(f"{len(differences)} differences" if differences else "all golden pairs give their ids and their score")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
