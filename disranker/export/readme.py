"""The README.md of an export: the commands that open it, with the lengths and the scores of this very ranker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

_DYNAMIC = """ With onnx-int8-dynamic the score
of a pair depends on the batch that it is in: compare scores of one request only."""


def write_readme(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write README.md into an export folder."""
    threads = list(manifest["bundle"]["pairs_per_second"])
    rows = "\n".join([_row("torch", manifest["bundle"]), *(_row(*one) for one in manifest["variants"].items())])
    fastest = ", ".join(f"**{name}** with {number}" for number, name in manifest["fastest"].items())
    made = [*manifest["layouts"]]
    if "opensearch" in made and "torchscript" not in made:
        made.append("torchscript")
    layouts = "".join(f"- `{LAYOUTS / name}/`: {_LAYOUTS[name]}\n" for name in made)
    onnx = manifest["variants"]["onnx"]
    speeds = [f"pairs/s, {number} threads" for number in threads]
    drifts = ["nDCG@10 (95%)", "PNR (95%)", "largest difference", "mean", "Spearman in a query"]
    heads = ["variant", "file", "MB", *speeds, *drifts]
    has_dynamic = "onnx-int8-dynamic" in manifest["variants"]
    inputs = ", ".join(f"`{one['name']}`" for one in manifest["inputs"])
    text = f"""# A ranker, ready to load

It scores a query and a document, which is title and summary joined by one space and stripped. The score is the raw
logit: higher is better, no scale. It reads {manifest["max_tokens"]} tokens; of a longer pair the longer text is cut
(longest_first). `export.json` says all this to programs, and what was measured.

## Quality and speed

Beside the student in torch, on {onnx["drift"]["num_pairs"]:,} judged pairs of {onnx["drift"]["num_queries"]:,} queries;
speed on the machine that exported it, on requests of 100 pairs of all lengths. Fastest there, by threads: {fastest}.

{_line(heads)}
{_line(["---"] * len(heads))}
{rows}

`disranker serve DIR` and `ExportScorer.load("DIR")` in Python take the fastest by themselves.{_DYNAMIC * has_dynamic}

## Prove your integration

`golden.jsonl` holds {manifest["golden_pairs"]} pairs with their ids and scores; what you build must give the same.

    python check.py                                     # onnxruntime and tokenizers
    python check.py --model FILE --tolerance D          # of an int8 ONNX file; D: twice its largest difference above
    npm install @huggingface/transformers && node check.mjs

What it catches most often: token types that are all 0, a tokenizer that cuts elsewhere, a sigmoid on the score.

## Open it

sentence-transformers, and what builds on its `CrossEncoder` (LangChain, LlamaIndex, LanceDB, txtai):

    from sentence_transformers import CrossEncoder
    CrossEncoder("DIR").predict([("query", "title summary")])        # the raw score, no sigmoid

LlamaIndex's SentenceTransformerRerank reads 512 tokens unless it is told `cross_encoder_kwargs={{"max_length":
{manifest["max_tokens"]}}}`; txtai cuts nothing.

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

Elasticsearch; eland needs `pip install eland 'transformers<5' 'sentence-transformers<6' requests` and torch:

    eland_import_hub_model --url URL --hub-model-id DIR --task-type text_similarity

transformers.js: the folder as it is, with `env.localModelPath` at its parent. Its pipeline puts a softmax on one label,
which is always 1: use `AutoModelForSequenceClassification`. Its truncation loses the last [SEP]; `check.mjs` shows how
to cut.
"""
    if layouts:
        text += f"\n## Layouts for engines\n\nEach has a README of its own.\n\n{layouts}"
    (folder / "README.md").write_text(text, encoding="utf-8")


def _row(name: str, measured: Mapping[str, Any]) -> str:
    """A line of the table: a variant, or the bundle, which nothing is compared with."""
    cells = [name, f"`{measured['file']}`" if "file" in measured else "bundle", f"{measured['bytes'] / 1e6:.1f}"]
    cells += [f"{rate:,.0f}" for rate in measured["pairs_per_second"].values()]
    drift = measured.get("drift")
    if drift is None:
        cells += ["", "", "", "", ""]
    else:
        cells += [_change(drift["changes"][measure]) for measure in ("nDCG@10", "PNR")]
        rho = drift["spearman"]
        cells += [
            f"{drift['max_difference']:.1e}",
            f"{drift['mean_difference']:.1e}",
            "" if rho is None else f"{rho:.5f}",
        ]
    return _line(cells)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _change(change: Mapping[str, Any]) -> str:
    if change["delta"] is None:
        return "not finite"
    low, high = ("?" if bound is None else f"{bound:+.4f}" for bound in change["interval"])
    return f"{change['delta']:+.4f} [{low}, {high}]"
