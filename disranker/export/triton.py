"""A Triton model repository around an export: the ONNX file and its config.pbtxt; clients send token ids.

Written from Triton's documentation; no server was started with it here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from disranker.export.manifest import ONNX_MODEL, Exported

MAX_BATCH_SIZE = 64


def write_triton(exported: Exported, folder: Path) -> None:
    """Write a repository with one model, `disranker`, version 1."""
    model = folder / "disranker"
    (model / "1").mkdir(parents=True)
    shutil.copyfile(exported.folder / ONNX_MODEL, model / "1" / "model.onnx")
    inputs = ",\n".join(f'  {{ name: "{name}" data_type: TYPE_INT64 dims: [ -1 ] }}' for name in exported.input_names)
    config = f"""name: "disranker"
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH_SIZE}
input [
{inputs}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ 1 ] }}
]
dynamic_batching {{ }}
"""
    (model / "config.pbtxt").write_text(config, encoding="utf-8")
    shutil.copyfile(exported.folder / "tokenizer.json", folder / "tokenizer.json")
    (folder / "README.md").write_text(_readme(exported), encoding="utf-8")


def _readme(exported: Exported) -> str:
    ids = list(exported.example["input_ids"])
    rows = {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "token_type_ids": exported.example.get("token_type_ids"),
    }
    inputs = [
        {"name": name, "datatype": "INT64", "shape": [1, len(ids)], "data": rows[name]} for name in exported.input_names
    ]
    return f"""# Triton model repository

    tritonserver --model-repository=.

The model takes token ids, which the client makes with `tokenizer.json` (it cuts at {exported.encoder.max_tokens} tokens
by itself) and pads to the longest of a request; the mask is 0 at padding. A golden pair:

    curl -s localhost:8000/v2/models/disranker/infer -d '{json.dumps({"inputs": inputs})}'

must give `"data":[{exported.example["score"]:.6f}]`, the raw score. Requests are joined to batches of up to
{MAX_BATCH_SIZE} when their texts have the same length; send the documents of a query in one request, sorted by length.
The repository was checked as far as parsing goes; it has not been loaded by our tests.
"""
