"""The layouts that are made of an export for software that cannot open the export folder itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from disranker.export.flashrank import write_flashrank
from disranker.export.manifest import LAYOUTS, Exported
from disranker.export.opensearch import write_opensearch
from disranker.export.torchscript import write_torchscript
from disranker.export.triton import write_triton
from disranker.export.vespa import write_vespa

TORCHSCRIPT_MODEL = LAYOUTS / "torchscript" / "model.pt"
_OF_FILES: dict[str, Callable[[Exported, Path], None]] = {
    "vespa": write_vespa,
    "triton": write_triton,
    "flashrank": write_flashrank,
}


def write_layouts(exported: Exported, model: PreTrainedModel, names: Sequence[str]) -> Path | None:
    """Write the named layouts under `layouts/`; the TorchScript file that was made on the way, if any.

    The layout opensearch holds TorchScript, so torchscript comes with it.

    Raises:
        ValueError: a layout cannot hold this model.
    """
    for name in names:
        if name in _OF_FILES:
            _OF_FILES[name](exported, exported.folder / LAYOUTS / name)
    if not {"torchscript", "opensearch"} & set(names):
        return None
    file = exported.folder / TORCHSCRIPT_MODEL
    write_torchscript(model, exported.encoder, file)
    if "opensearch" in names:
        write_opensearch(exported, exported.folder / LAYOUTS / "opensearch", file)
    shutil.copyfile(exported.folder / "tokenizer.json", file.parent / "tokenizer.json")
    (file.parent / "README.md").write_text(_torchscript_readme(exported), encoding="utf-8")
    return file


def _torchscript_readme(exported: Exported) -> str:
    example = exported.example
    arguments = ", ".join(
        {
            "input_ids": "torch.tensor([pair.ids])",
            "attention_mask": "torch.ones(1, len(pair.ids), dtype=torch.long)",
            "token_type_ids": "torch.tensor([pair.type_ids])",
        }[name]
        for name in exported.input_names
    )
    return f"""# TorchScript

    import torch
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file("tokenizer.json")     # cuts at {exported.encoder.max_tokens} tokens by itself
    pair = tokenizer.encode({example["query"]!r}, {example["document"]!r})
    model = torch.jit.load("model.pt")
    model({arguments})

gives [[{example["score"]:.6f}]], the raw score. In C++ it is `torch::jit::load("model.pt")` with the same inputs in the
same order ({", ".join(exported.input_names)}), int64 [batch, sequence].
"""
