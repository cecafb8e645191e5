"""An archive for OpenSearch ML Commons: the ranker as TorchScript and its tokenizer, with the body that registers it.

Written from the documentation and source of ML Commons; no cluster was started with it here.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

from disranker.export.manifest import INPUT_NAMES, Exported
from disranker.shards import write_json

ARCHIVE_NAME = "disranker.zip"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_opensearch(exported: Exported, folder: Path, torchscript: Path) -> None:
    """Write the archive and `register.json`, the request that registers it; equal files give equal archives.

    Raises:
        ValueError: the model has no token types, which ML Commons always sends.
    """
    if tuple(exported.input_names) != INPUT_NAMES:
        raise ValueError(
            f"layout opensearch: ML Commons sends {', '.join(INPUT_NAMES)}, and this model takes "
            f"{', '.join(exported.input_names)} only; take opensearch out of layouts"
        )
    folder.mkdir(parents=True)
    archive = folder / ARCHIVE_NAME
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as zipped:
        for name, file in (("disranker.pt", torchscript), ("tokenizer.json", exported.folder / "tokenizer.json")):
            # A fixed time, so that the hash depends on what is inside alone.
            zipped.writestr(zipfile.ZipInfo(name, _EPOCH), file.read_bytes())
    body = {
        "name": "disranker",
        "version": "1.0.0",
        "description": "Scores documents for a query; the similarity is the raw score.",
        "model_format": "TORCH_SCRIPT",
        "function_name": "TEXT_SIMILARITY",
        "model_content_hash_value": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "model_content_size_in_bytes": archive.stat().st_size,
        "model_config": {
            "model_type": "bert",
            "embedding_dimension": 1,
            "framework_type": "huggingface_transformers",
            "all_config": json.dumps(json.loads((exported.folder / "config.json").read_text("utf-8"))),
        },
        "url": f"https://your.server/{ARCHIVE_NAME}",
    }
    write_json(folder / "register.json", body)
    (folder / "README.md").write_text(_readme(exported), encoding="utf-8")


def _readme(exported: Exported) -> str:
    example = exported.example
    predict = json.dumps({"query_text": example["query"], "text_docs": [example["document"]]}).replace("'", "\\u0027")
    return f"""# OpenSearch ML Commons, 2.12 or newer

Put `{ARCHIVE_NAME}` where the cluster can fetch it (http, https, or a file of a node), write that address as `url` into
`register.json`, and:

    curl -X PUT localhost:9200/_cluster/settings -H 'Content-Type: application/json' -d '{{"persistent": {{
        "plugins.ml_commons.only_run_on_ml_node": false, "plugins.ml_commons.allow_registering_model_via_url": true}}}}'
    curl -X POST 'localhost:9200/_plugins/_ml/models/_register?deploy=true' \\
        -H 'Content-Type: application/json' -d @register.json
    curl localhost:9200/_plugins/_ml/tasks/TASK_ID            # gives the model_id

Prove it with a golden pair; `similarity` must be {example["score"]:.6f}, the raw score:

    curl -X POST localhost:9200/_plugins/_ml/_predict/text_similarity/MODEL_ID \\
        -H 'Content-Type: application/json' -d '{predict}'

A pipeline that reranks with it, on a field that holds title and summary joined by one space:

    curl -X PUT localhost:9200/_search/pipeline/disranker -H 'Content-Type: application/json' -d '{{
        "response_processors": [{{"rerank": {{"ml_opensearch": {{"model_id": "MODEL_ID"}},
                                  "context": {{"document_fields": ["text"]}}}}}}]}}'

The tokenizer in the archive cuts at {exported.encoder.max_tokens} tokens by itself. The archive was checked as far as
its content and its scores in libtorch go; it has not been registered by our tests.
"""
