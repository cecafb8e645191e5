"""Ready-made rerankers as bundles, without training: published cross-encoders and language models that answer.

Nothing is learnt here.  A language model is adopted with a head that reads its own output layer (yes-no or
expected-label); a sequence classifier with one label keeps the head that it was trained with.
"""

from __future__ import annotations

from pathlib import Path

from disranker.config.parts import ModelConfig, TextConfig
from disranker.models.build import build_ranker_model, has_score_head, load_tokenizer
from disranker.models.bundle import make_encoder, read_facts
from disranker.models.heads import LAST_TOKEN
from disranker.models.ranker import Ranker
from disranker.models.verify import NUM_PROBES, save_verified
from disranker.schema import Pair
from disranker.settings import provenance

_PROBES = [
    Pair(f"red shoes {number}", f"running shoes {number}", "light shoes for the road; 轻便透气 " * (number % 4))
    for number in range(NUM_PROBES)
]


def adopt(out: str | Path, model: ModelConfig, text: TextConfig) -> str:
    """Write the bundle of a published reranker, rescored after it was reopened; one line on what it is.

    Raises:
        ValueError: the model has no trained head of that kind, its template is none for it, or the bundle scores
            differently from the model.
    """
    if model.head == LAST_TOKEN and not has_score_head(model):
        raise ValueError(
            f"{model.name} has no score head that was trained: choose a head that reads its answers (yes-no or "
            "expected-label), or train it as a ranker"
        )
    tokenizer = load_tokenizer(model.tokenizer_name)
    ranker = Ranker(build_ranker_model(model, tokenizer, seed=0)).eval()
    encoder = make_encoder(tokenizer, text, ranker.model)
    facts = {"adopted": model.name, "provenance": provenance()}
    difference = save_verified(out, ranker, encoder, facts, _PROBES, dtype="float32")
    about = read_facts(out)
    return (
        f"{about['head']} head, template {about['template']['name']}, {about['num_parameters']:,} parameters, "
        f"rescored within {difference:.1g}"
    )
