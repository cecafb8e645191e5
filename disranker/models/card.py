"""The model card of a bundle, its README.md: what it reads and answers, how it is opened, what it has learnt from.

The block at its top is what a model hub reads: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ENCODER = """# A ranker of search results

It reads a query and a document, which is title and summary joined by one space and stripped, and gives one number: the
raw logit, higher is better, no scale. {size}; it reads {max_tokens} tokens, and of a longer pair the
longer text is cut.

```python
from sentence_transformers import CrossEncoder

CrossEncoder("FOLDER").predict([("query", "title summary")])  # the raw score, no sigmoid
```

```python
from disranker.models.scorer import Scorer

Scorer.load("FOLDER").score([("query", "title", "summary")])  # the same numbers
```

`disranker serve FOLDER` answers over HTTP; `disranker export` makes ONNX of it."""

_DECODER = """# A ranker of search results, read at the last token

It reads a query with a document in the prompt `{template[name]}`, version {template[version]}, and gives one number by
the head `{head}`: higher is better, no scale. {size}; it reads {max_tokens} tokens.

```python
from disranker.models.scorer import Scorer

Scorer.load("FOLDER").score([("query", "title", "summary")])
```

`AutoModelForSequenceClassification` of transformers opens it, too, and gives the same logits for the same token ids.
`disranker score --teacher FOLDER` scores files of candidates."""

_LANGUAGE_MODEL = """# A language model that has read a click log

It has gone on learning from queries and the pages that were clicked for them. It has no score: a ranker is trained from
it (`disranker rank --model.name FOLDER`). {size}.

```python
from transformers import AutoModelForCausalLM

AutoModelForCausalLM.from_pretrained("FOLDER")
```"""

_BARE_ENCODER = """# An encoder for a ranker to start from

It has no score yet: a student is trained from it (`disranker distill --model.name FOLDER`). {size}."""

_INPUTS = {
    "clicks": "clicks",
    "judged": "judged pairs",
    "store": "teacher scores",
    "teacher": "teacher",
    "candidates": "candidates",
}
"""Setting -> what the files are that it names."""


def make_card(facts: Mapping[str, Any], model_type: str) -> str:
    """The card as Markdown, from the facts of a bundle and the model type of its config."""
    is_ranker, is_encoder = facts["kind"] == "ranker", facts.get("head") == "cls"
    if is_ranker:
        text, task = _ENCODER if is_encoder else _DECODER, "text-ranking"
    elif facts["kind"] == "language-model":
        text, task = _LANGUAGE_MODEL, "text-generation"
    else:
        text, task = _BARE_ENCODER, "feature-extraction"
    hub = {
        "library_name": "sentence-transformers" if is_encoder else "transformers",
        "pipeline_tag": task,
        "tags": "[disranker" + ", reranker" * is_ranker + ", cross-encoder" * is_encoder + "]",
    }
    start = _start(facts)
    # A folder may be called like a model of the hub, and is none.
    if start is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", start) and not Path(start).exists():
        hub["base_model"] = start
    return "\n".join(
        [
            "---",
            *(f"{name}: {value}" for name, value in hub.items()),
            "---",
            "",
            text.format(size=f"{model_type}, {facts['num_parameters']:,} parameters", **facts),
            "",
            "## How it was made",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in _history(facts).items()),
            "",
            "`disranker.json` has every setting, and the fingerprint by which stores and exports know these weights.",
            "",
        ]
    )


def _start(facts: Mapping[str, Any]) -> str | None:
    """The weights that it began with; None where they were fresh, or are not told."""
    name = facts.get("adopted", facts.get("config", {}).get("model", {}).get("name"))
    return None if name is None else str(name)


def _history(facts: Mapping[str, Any]) -> dict[str, str]:
    """What was done -> with what, as far as the facts tell it."""
    config, training = facts.get("config"), facts.get("training")
    told = {}
    if "adopted" in facts:
        told["adopted"] = f"`{facts['adopted']}`"
    if "shrunk" in facts:
        told["shrunk"] = ", ".join(f"{name} {value}" for name, value in facts["shrunk"].items())
    if config:
        told["start"] = f"`{start}`" if (start := _start(facts)) is not None else "fresh weights"
        for setting, what in _INPUTS.items():
            if files := config.get(setting):
                told[what] = ", ".join(f"`{file}`" for file in ([files] if isinstance(files, str) else files))
        for setting in ("loss", "distill", "supervised"):
            if terms := config.get(setting):
                told[setting] = " + ".join(f"{term['weight']:g} {term['name']}" for term in terms)
        told["optimizer"] = f"AdamW, learning rate {config['optim']['learning_rate']:g}, {config['optim']['schedule']}"
    if config and training is not None:
        told["training"] = (
            f"{training['steps']:,} steps, {training['tokens']:,} tokens, {training['pairs']:,} pairs "
            f"({training['distinct_pairs']:,} distinct), seed {config['training']['seed']}"
        )
        if training["best_value"] is not None and "dev_measure" in config:
            files = ", ".join(f"`{file}`" for file in config["judged_dev"])
            best = f"{float(training['best_value']):.4f} at step {training['best_step']:,}, the one kept"
            told["dev"] = f"{config['dev_measure']} on {files}: {best}"
    if "provenance" in facts:
        packages = facts["provenance"]["packages"]
        versions = [f"{name} {packages[name]}" for name in ("torch", "transformers") if packages.get(name)]
        told["made with"] = ", ".join([f"disranker {facts['disranker']}", *versions])
    return told
