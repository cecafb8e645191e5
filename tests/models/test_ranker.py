"""A ranker's scores and gradients against the stock padded model, family by family."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from disranker.models.packed import Packed, pack
from disranker.models.ranker import ROWS_AFTER_ATTENTION, Ranker, has_token_types, is_decoder
from disranker.text.encode import Tokens
from tests.tiny import FAMILIES, classifier, padded, sequences, spread

ENCODERS = ["bert", "roberta", "xlm-roberta-xl", "electra", "albert", "distilbert", "modernbert"]
DECODERS = ["llama", "qwen2", "qwen3", "mistral"]
PADDED = ["deberta-v2", "mobilebert", "gemma2", "gpt_oss"]
# Not sorted, some equally long, one a single token; the longest is far longer than the windows of FAMILIES.
LENGTHS = [5, 17, 9, 17, 1, 12]


def stock_scores(model: PreTrainedModel, tokens: list[Tokens], *, side: str = "right") -> Tensor:
    """What transformers itself gives for a padded batch."""
    inputs = padded(tokens, model.config.pad_token_id, side=side)
    if not has_token_types(model):
        del inputs["token_type_ids"]
    scores: Tensor = model(**inputs).logits[:, 0]
    return scores


def test_every_family_is_tested() -> None:
    assert {*ENCODERS, *DECODERS, *PADDED} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded(family: str) -> None:
    model = classifier(family)
    reference = copy.deepcopy(model)
    ranker = Ranker(model)
    assert ranker.is_packed is (family not in PADDED)
    assert ranker.is_decoder is (family in [*DECODERS, "gemma2", "gpt_oss"])

    tokens = sequences(LENGTHS)
    theirs, ours = stock_scores(reference, tokens), ranker(pack(tokens))
    # Without a spread far above the tolerance this test could not fail.
    assert torch.pdist(theirs.detach()[:, None]).min() > 1e-3
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)

    target = torch.linspace(-1, 1, len(LENGTHS))
    (theirs - target).square().mean().backward()
    (ours - target).square().mean().backward()
    moved = 0
    for (name, left), right in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert (left.grad is None) == (right.grad is None), name
        if left.grad is not None and right.grad is not None:
            torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
            moved += bool(left.grad.abs().max() > 1e-2)
    assert moved > 10  # gradients, too, are far above the tolerance


@pytest.mark.parametrize(
    ("family", "wide"),
    [
        ("mistral", {"sliding_window": 64}),
        ("qwen2", {"use_sliding_window": False}),
        ("modernbert", {"local_attention": 128}),
    ],
)
def test_the_window_reaches_the_scores(family: str, wide: dict[str, object]) -> None:
    tokens = sequences([5, 17])
    narrow_scores, wide_scores = (Ranker(classifier(family, **changed))(pack(tokens)) for changed in ({}, wide))
    assert (narrow_scores - wide_scores).abs()[1] > 1e-3


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "llama", "mistral", "deberta-v2", "mobilebert"])
@pytest.mark.parametrize("new_length", [9, 14])
def test_no_sequence_sees_another(family: str, new_length: int) -> None:
    ranker = Ranker(classifier(family))
    tokens = sequences(LENGTHS)
    changed = [*tokens[:2], *sequences([new_length], seed=1), *tokens[3:]]
    with torch.inference_mode():
        before, after = ranker(pack(tokens)), ranker(pack(changed))
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(after[others], before[others], rtol=0, atol=2e-6)
    assert (after[2] - before[2]).abs() > 1e-3


def test_scores_come_in_the_order_of_the_caller() -> None:
    ranker = Ranker(classifier("bert"))
    tokens = sequences(LENGTHS)
    with torch.inference_mode():
        together = ranker(pack(tokens))
        alone = torch.cat([ranker(pack([one])) for one in tokens])
        backwards = ranker(pack(tokens[::-1]))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together, backwards.flip(0), rtol=0, atol=1e-5)


def test_token_types_reach_bert_and_only_where_there_are_two() -> None:
    tokens = sequences(LENGTHS)
    moved = [Tokens(one.ids, 0, 0) for one in tokens]
    for family, matters in [("bert", True), ("roberta", False), ("llama", False)]:
        ranker = Ranker(classifier(family))
        with torch.inference_mode():
            difference = (ranker(pack(tokens)) - ranker(pack(moved))).abs().max()
        assert bool(difference > 1e-3) is matters


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "albert", "distilbert", "modernbert", "llama"])
def test_the_head_computes_in_float32_with_bfloat16_weights(family: str) -> None:
    model = classifier(family).to(torch.bfloat16)
    names = [name for name, _ in model.named_parameters()]
    reference = copy.deepcopy(model)
    ranker = Ranker(model)
    tokens = sequences([*LENGTHS, 7, 8, 11, 13, 15, 16])
    with torch.inference_mode():
        ours, theirs = ranker(pack(tokens)), stock_scores(reference, tokens)
    assert theirs.dtype == torch.bfloat16
    assert ours.dtype == torch.float32
    # Most float32 numbers are not on the grid of bfloat16, which has 8 bits.
    assert (ours != ours.bfloat16().float()).sum() > len(tokens) / 2
    assert (ours - theirs.float()).abs().max() < 0.3 * theirs.float().std()
    assert [name for name, _ in model.named_parameters()] == names
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


class _Recorder(torch.nn.Module):
    """Stands where the head stands and keeps what it is given."""

    def forward(self, rows: Tensor) -> Tensor:
        self.rows = rows
        return rows[:, :1]


def test_only_the_pooled_rows_reach_the_head() -> None:
    model = classifier("llama")
    ranker = Ranker(model)
    model.score = _Recorder()
    ranker(pack(sequences(LENGTHS)))
    assert model.score.rows.shape == (len(LENGTHS), 32)


@pytest.mark.parametrize("family", ROWS_AFTER_ATTENTION)
def test_the_last_layer_goes_on_with_the_pooled_rows_alone(family: str) -> None:
    model = classifier(family if family in FAMILIES else "roberta", model_type=family)
    ranker, packed = Ranker(model), pack(sequences(LENGTHS))
    seen: list[torch.Size] = []
    layers: Any = model.base_model.encoder.layer
    for layer in layers:
        layer.intermediate.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape))
    scores = ranker(packed)
    hidden = model.config.hidden_size
    assert seen == [torch.Size([1, sum(LENGTHS), hidden])] * (len(layers) - 1) + [torch.Size([1, len(LENGTHS), hidden])]

    # Whoever asks for the states of that layer gets all of them, and the same scores.
    outputs = ranker.read(packed, hidden_layers=[len(layers)])
    assert outputs.layers is not None
    assert outputs.layers.hidden_TH[len(layers)].shape == (sum(LENGTHS), hidden)
    torch.testing.assert_close(outputs.scores_B, scores, rtol=0, atol=1e-6)


def test_several_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="a ranker has one score, but the model has num_labels = 2"):
        Ranker(_with_labels(2))


def test_mean_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="set classifier_pooling to 'cls'"):
        Ranker(classifier("modernbert", classifier_pooling="mean"))


def test_a_head_that_is_not_known_is_refused() -> None:
    model = classifier("distilbert")
    del model.pre_classifier
    with pytest.raises(ValueError, match="no way known to read the score head of a DistilBertFor"):
        Ranker(model)(pack(sequences([3])))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mixes", [False, True])
def test_a_family_nobody_tried_is_tried_when_it_is_loaded(mixes: bool, training: bool) -> None:
    model = classifier("bert")
    model.config.model_type = "bert-of-another-house"
    if mixes:  # what stands before a token changes it, whatever sequence that is of
        model.base_model.embeddings.register_forward_hook(lambda _, __, hidden: hidden + hidden.roll(1, dims=1))
    reference = copy.deepcopy(model)
    ranker = Ranker(model.train(training))
    assert ranker.is_packed is not mixes
    assert model.training is model.base_model.training is training
    tokens = sequences(LENGTHS)
    with torch.inference_mode():
        theirs = stock_scores(reference, tokens)
        torch.testing.assert_close(ranker.eval()(pack(tokens)), theirs, rtol=0, atol=1e-5)
    if mixes:
        assert model.config._attn_implementation == reference.config._attn_implementation


def _with_labels(count: int) -> PreTrainedModel:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=count)
    )


def test_a_modernbert_decoder_is_read_at_its_last_token() -> None:
    from transformers import ModernBertDecoderConfig, ModernBertDecoderForSequenceClassification

    config = ModernBertDecoderConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_labels=1,
        local_attention=5,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
    )
    model = spread(ModernBertDecoderForSequenceClassification(config)).eval()
    reference, tokens = copy.deepcopy(model), sequences(LENGTHS)
    assert is_decoder(model)
    with torch.inference_mode():
        theirs = stock_scores(reference, tokens)
        torch.testing.assert_close(Ranker(model)(pack(tokens)), theirs, rtol=0, atol=1e-5)
    assert theirs.std() > 0.1


@pytest.mark.parametrize("family", ["bert", "llama", "modernbert"])
def test_training_with_gradient_checkpointing_is_the_same(family: str) -> None:
    packed = pack(sequences(LENGTHS))
    plain, checkpointed = classifier(family, **_no_dropout(family)), classifier(family, **_no_dropout(family))
    checkpointed.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    scores = [_train_once(model, packed) for model in (plain, checkpointed)]
    assert any(getattr(module, "gradient_checkpointing", False) for module in checkpointed.modules())
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-6)
    for (name, left), right in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert left.grad is not None, name
        assert right.grad is not None, name
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-6, atol=1e-6)


def _no_dropout(family: str) -> dict[str, float]:
    return {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if family == "bert" else {}


def _train_once(model: PreTrainedModel, packed: Packed) -> Tensor:
    scores: Tensor = Ranker(model.train())(packed)
    scores.square().mean().backward()
    return scores.detach()
