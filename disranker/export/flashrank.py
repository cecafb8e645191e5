"""A model folder of FlashRank around an export: five flat files under the name by which it is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from disranker.export.manifest import ONNX_MODEL, Exported

_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def write_flashrank(exported: Exported, folder: Path) -> None:
    """Write a cache folder of FlashRank that holds one model, `disranker`."""
    model = folder / "disranker"
    model.mkdir(parents=True)
    shutil.copyfile(exported.folder / ONNX_MODEL, model / "model.onnx")
    for name in _FILES:
        shutil.copyfile(exported.folder / name, model / name)
    (folder / "README.md").write_text(_readme(exported), encoding="utf-8")


def _readme(exported: Exported) -> str:
    example = exported.example
    return f"""# FlashRank

    from flashrank import Ranker, RerankRequest
    from flashrank.Config import model_file_map

    model_file_map["disranker"] = "model.onnx"
    ranker = Ranker(model_name="disranker", cache_dir=".", max_length={exported.encoder.max_tokens})
    ranker.rerank(RerankRequest(query={example["query"]!r}, passages=[{{"id": 1, "text": {example["document"]!r}}}]))

The passage is title and summary joined by one space. FlashRank gives the sigmoid of the score, here of
{example["score"]:.6f}, and sends all passages of a request through the model at once.
"""
