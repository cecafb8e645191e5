"""The README.md of an export: the commands that open it, with the lengths and the scores of this very ranker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from disranker.export.manifest import LAYOUTS

_LAYOUTS = {
    "vespa": "a Vespa application package",
    "triton": "a Triton model repository",
    "opensearch": "an archive for OpenSearch ML Commons and the request that registers it",
    "torchscript": "the ranker for libtorch",
    "flashrank": "a model folder for FlashRank",
}


def write_readme(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write README.md into an export folder."""
    drifts = "\n".join(
        f"| {name} | {variant['drift']['max_difference']:.1e} | {variant['bytes'] / 1e6:.1f} | "
        f"{' / '.join(f'{rate:,.0f}' for rate in variant['pairs_per_second'].values())} |"
        for name, variant in manifest["variants"].items()
    )
    made = [*manifest["layouts"]]
    if "opensearch" in made and "torchscript" not in made:
        made.append("torchscript")
    layouts = "".join(f"- `{LAYOUTS / name}/`: {_LAYOUTS[name]}\n" for name in made)
    inputs = ", ".join(f"`{one['name']}`" for one in manifest["inputs"])
    text = f"""# A ranker, ready to load

It scores a query and a document, which is title and summary joined by one space and stripped. The score is the raw
logit: higher is better, no scale. It reads {manifest["max_tokens"]} tokens; of a longer pair the longer text is cut
(longest_first). `export.json` says all this to programs, and what was measured.

| file | largest difference from torch | MB | pairs/s at {" / ".join(manifest["bundle"]["pairs_per_second"])} threads |
|---|---|---|---|
{drifts}

## Prove your integration

`golden.jsonl` holds {manifest["golden_pairs"]} pairs with their ids and scores; what you build must give the same.

    python check.py                                     # onnxruntime and tokenizers
    npm install @huggingface/transformers && node check.mjs

What it catches most often: token types that are all 0, a tokenizer that cuts elsewhere, a sigmoid on the score.

## Open it

sentence-transformers, and what builds on its `CrossEncoder` (LangChain, LlamaIndex, LanceDB, txtai):

    from sentence_transformers import CrossEncoder
    CrossEncoder("DIR").predict([("query", "title summary")])        # the raw score, no sigmoid

transformers:

    AutoModelForSequenceClassification.from_pretrained("DIR")        # logits[:, 0]

onnxruntime: `onnx/model.onnx` takes {inputs}, int64 [batch, sequence],
and gives `logits` [batch, 1]. `tokenizer.json` cuts by itself and pads nothing. `check.py` is the shortest example.

rerankers (`model_type` must be given):

    Reranker("DIR", model_type="cross-encoder", device="cpu")

FastEmbed:

    TextCrossEncoder.add_custom_model(
        model="me/disranker", model_file="onnx/model.onnx", sources=ModelSource(hf="me/disranker")
    )
    TextCrossEncoder("me/disranker", specific_model_path="DIR")

infinity, engine torch (its engine optimum sends token types of 0, and so other scores):

    infinity_emb v2 --model-id DIR --engine torch --device cpu --no-bettertransformer --no-compile

text-embeddings-inference; ask for `"raw_scores": true`, else it answers with the sigmoid:

    text-embeddings-router --model-id DIR

There is no `sentence_bert_config.json` here, and none may be added: the router reads it where it is, and refuses one
without `max_seq_length`, as `CrossEncoder.save_pretrained` writes it.

transformers.js: the folder as it is, with `env.localModelPath` at its parent. Its pipeline puts a softmax on one label,
which is always 1: use `AutoModelForSequenceClassification`. Its truncation loses the last [SEP]; `check.mjs` shows how
to cut.
"""
    if layouts:
        text += f"\n## Layouts for engines\n\nEach has a README of its own.\n\n{layouts}"
    (folder / "README.md").write_text(text, encoding="utf-8")
