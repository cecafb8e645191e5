"""Folders of encoders that have no score yet, for training to start from: what warm-up and shrinking write.

A folder is a plain transformers one (config, safetensors, tokenizer) with `disranker.json` and README.md beside it,
which say where the weights come from.  Rankers are saved as bundles by `models.bundle`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from disranker import __version__
from disranker.models.bundle import fingerprint, write_facts


def save_encoder(
    out: str | Path,
    stock: PreTrainedModel,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    facts: Mapping[str, Any],
) -> None:
    """Write the folder: the model's config and these weights, the tokenizer, and `facts`, of which `kind` is one.

    One process calls this.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    stock.config.architectures = [type(stock).__name__]
    stock.save_pretrained(folder, state_dict=dict(weights))
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors 0.8 makes files that only their owner can read
    # The last call of the tokenizer leaves its truncation behind, which would be saved as if it were a setting.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    about = {
        "format": 1,
        "disranker": __version__,
        "num_parameters": sum(weight.numel() for weight in weights.values()),
        "fingerprint": fingerprint(weights, dict.fromkeys(("template", "max_tokens", "max_query_tokens"))),
    }
    write_facts(folder, {**about, **facts})
