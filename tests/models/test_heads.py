"""Heads of decoders against the language model's own logits, picked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from disranker.config.parts import LoraConfig, ModelConfig
from disranker.models.adapters import wrap_lora
from disranker.models.build import build_language_model, build_ranker_model
from disranker.models.bundle import check_template, default_template, read_facts, save_bundle
from disranker.models.heads import scores_from_logits
from disranker.models.packed import pack
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.text.encode import PairEncoder
from disranker.text.templates import get_template
from disranker.text.vocabulary import train_prompt_tokenizer
from tests.tiny import PAIRS, architecture, padded, spread

TOKENIZER = train_prompt_tokenizer([text for pair in PAIRS for text in pair], 300)
TOKENIZER.add_tokens([AddedToken("yes"), AddedToken("no")])
LABELS = ["0", "1", "2", "3", "4"]
FAMILIES = [("llama", False), ("llama", True), ("qwen3", True)]
TEMPLATE = {"yes-no": "qwen3-reranker", "expected-label": "label-en"}


def encoder(head: str) -> PairEncoder:
    return PairEncoder(TOKENIZER, get_template(TEMPLATE[head]), max_tokens=512, max_query_tokens=32)


@pytest.fixture(params=FAMILIES, ids=lambda param: f"{param[0]}-{'tied' if param[1] else 'untied'}")
def language_model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A saved language model whose weights are spread widely."""
    family, tied = request.param
    return save_language_model(tmp_path / "llm", family, tie_word_embeddings=tied)


def save_language_model(folder: Path, family: str, **changed: Any) -> str:
    shape = {"vocab_size": len(TOKENIZER), "max_position_embeddings": 512, **changed}
    config = ModelConfig(architecture=architecture(family, **shape), tokenizer="x")
    spread(build_language_model(config, TOKENIZER, seed=0)).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


def ranker_model(name: str, head: str, **more: Any) -> PreTrainedModel:
    return build_ranker_model(ModelConfig(name=name, head=head, **more), TOKENIZER, seed=0)


def next_token_logits(name: str, text: PairEncoder, texts: list[str]) -> torch.Tensor:
    """[pairs, texts] logits of the tokens after the prompt, each prompt alone through the stock language model."""
    model = AutoModelForCausalLM.from_pretrained(name).eval()
    ids = TOKENIZER.convert_tokens_to_ids(texts)
    with torch.inference_mode():
        rows = [
            model(torch.from_numpy(one.ids.astype(np.int64))[None]).logits[0, -1, ids] for one in text.encode(PAIRS)
        ]
    return torch.stack(rows)


@pytest.mark.parametrize("head", ["yes-no", "expected-label"])
def test_scores_are_those_of_the_language_models_logits(language_model: str, head: str, tmp_path: Path) -> None:
    text = encoder(head)
    if head == "yes-no":
        logits = next_token_logits(language_model, text, ["yes", "no"])
        expected = logits[:, 0] - logits[:, 1]
    else:
        probs = next_token_logits(language_model, text, LABELS).softmax(dim=1)
        expected = sum(label * probs[:, label] for label in range(5))
        assert 0.0 < expected.min() < expected.max() < 4.0
    assert torch.pdist(expected[:, None]).min() > 1e-3

    model = ranker_model(language_model, head)
    with torch.inference_mode():
        torch.testing.assert_close(Ranker(model.eval())(pack(text.encode(PAIRS))), expected, rtol=0, atol=2e-5)
    save_bundle(tmp_path / "bundle", model, text, {})
    assert read_facts(tmp_path / "bundle")["head"] == head
    np.testing.assert_allclose(Scorer.load(tmp_path / "bundle").score(PAIRS), expected.numpy(), rtol=0, atol=2e-5)

    # Anyone's way: the stock class, a padded batch, and what the config says of the head.
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bundle").eval()
    assert stock.config.num_labels == (1 if head == "yes-no" else 5)
    if head == "expected-label":
        assert [stock.config.id2label[label] for label in range(5)] == LABELS
    inputs = padded(text.encode(PAIRS), stock.config.pad_token_id)
    del inputs["token_type_ids"]
    with torch.inference_mode():
        logits = stock(**inputs).logits
    torch.testing.assert_close(scores_from_logits(stock.config, logits), expected, rtol=0, atol=2e-5)


def test_the_mean_label_by_hand() -> None:
    config = type("Config", (), {"score_head": "expected-label"})()
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, np.log(2.0), 0.0], [-1e4, -1e4, 1e4]])
    assert scores_from_logits(config, logits).tolist() == pytest.approx([1.0, 1.0, 2.0])
    assert scores_from_logits(config, torch.tensor([[np.log(3.0), 0.0]])).tolist() == pytest.approx([0.25])
    # bfloat16 logits make a float32 score.
    assert scores_from_logits(config, logits.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("head", ["yes-no", "expected-label"])
def test_a_fresh_architecture_gets_rows_made_by_the_seed(head: str) -> None:
    shape = architecture("llama", vocab_size=len(TOKENIZER))
    config = ModelConfig(architecture=shape, tokenizer="x", head=head)
    rows = [build_ranker_model(config, TOKENIZER, seed=seed).score.weight for seed in (1, 1, 2)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert rows[0].shape == (1 if head == "yes-no" else 5, 32) and rows[0].std() > 0


@pytest.mark.parametrize("lora", [None, LoraConfig(r=2)])
def test_an_expected_label_learns_through_the_stock_head(language_model: str, lora: LoraConfig | None) -> None:
    ranker = Ranker(ranker_model(language_model, "expected-label", lora=lora).train())
    ranker(pack(encoder("expected-label").encode(PAIRS))).sum().backward()
    moving = {name for name, parameter in ranker.named_parameters() if parameter.grad is not None}
    assert any("score" in name for name in moving) and len(moving) > 10


def test_the_head_of_a_bundle_is_kept(tmp_path: Path) -> None:
    name = save_language_model(tmp_path / "llm", "llama")
    model, text = ranker_model(name, "expected-label"), encoder("expected-label")
    with torch.no_grad():
        model.score.weight.add_(0.1 * torch.arange(5.0)[:, None])
    save_bundle(tmp_path / "bundle", model, text, {})
    again = ranker_model(str(tmp_path / "bundle"), "expected-label")
    assert torch.equal(again.score.weight, model.score.weight)
    with pytest.raises(ValueError, match=r"is a ranker with the head expected-label, and model.head is last-token"):
        ranker_model(str(tmp_path / "bundle"), "last-token")
    with pytest.raises(ValueError, match=r"has the labels \['0', .* and model.label_tokens is \['0', '1'\]"):
        ranker_model(str(tmp_path / "bundle"), "expected-label", label_tokens=["0", "1"])


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"head": "yes-no", "yes_no_tokens": ("yes", "nay")},
            r"model.yes_no_tokens: 'nay' must be one token, but this",
        ),
        ({"head": "expected-label", "label_tokens": ["0", "10"]}, r"splits it into \['Ġ', '1', '0'\]"),
        ({"head": "expected-label", "label_tokens": ["0", "0"]}, "two of .* are the same token"),
    ],
)
def test_what_is_no_token_is_named_with_its_pieces(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    shape = architecture("llama", vocab_size=len(TOKENIZER))
    with pytest.raises(ValueError, match=message):
        build_ranker_model(ModelConfig(architecture=shape, tokenizer="x", **settings), TOKENIZER, seed=0)


def test_tokens_of_another_head_are_refused() -> None:
    with pytest.raises(ValidationError, match="label_tokens belongs to the head expected-label; yes-no has none"):
        ModelConfig(name="x", head="yes-no", label_tokens=["0", "1"])
    with pytest.raises(ValidationError, match="yes_no_tokens belongs to the head yes-no; last-token has none"):
        ModelConfig(name="x", yes_no_tokens=("ja", "nein"))


@pytest.mark.parametrize("head", ["yes-no", "expected-label"])
def test_an_encoder_has_no_such_head(head: str) -> None:
    shape = architecture("bert", vocab_size=len(TOKENIZER))
    with pytest.raises(ValueError, match=f"model.head {head} needs a decoder; BertFor"):
        build_ranker_model(ModelConfig(architecture=shape, tokenizer="x", head=head), TOKENIZER, seed=0)


def test_logits_that_are_more_than_a_product_are_refused(tmp_path: Path) -> None:
    name = save_language_model(tmp_path, "gemma2", final_logit_softcapping=30.0)
    with pytest.raises(ValueError, match="the logits of a Gemma2ForCausalLM are more than its output layer times"):
        ranker_model(name, "yes-no")


def test_a_language_model_has_no_score_head() -> None:
    config = ModelConfig(architecture=architecture("llama"), tokenizer="x", head="yes-no")
    with pytest.raises(ValueError, match=r"model.head is yes-no, but a language model has no score head"):
        build_language_model(config, TOKENIZER, seed=0)


def test_the_template_of_a_head(tmp_path: Path) -> None:
    name = save_language_model(tmp_path / "llm", "llama")
    for head, template in TEMPLATE.items():
        model = ranker_model(name, head)
        assert default_template(wrap_lora(model, LoraConfig(r=2))) == template
        check_template(get_template("label-zh"), model)
        for ends_otherwise in ("plain", "pair"):
            with pytest.raises(ValueError, match=f"{ends_otherwise} does not end where an answer begins"):
                check_template(get_template(ends_otherwise), model)
    check_template(get_template("label-en"), ranker_model(name, "last-token"))
