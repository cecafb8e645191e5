"""One pair, one number: the ONNX file, its scorer, and every other way into an export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from disranker.export.padded import length_batches, pad
from disranker.export.scorer import ExportScorer
from disranker.models.bundle import save_bundle
from disranker.models.packed import pack
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.text.encode import Tokens
from tests.export.students import FAMILIES, MAX_TOKENS, PAIRS, build, document, export


def test_one_pair_scored_five_ways_is_one_number(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    model, encoder = build("bert")
    ranker = Ranker(model).train()  # no dropout in this model: the forward pass of training is the one of scoring
    trained = ranker(pack(encoder.encode(PAIRS))).detach().numpy()
    folder, out = tmp_path / "student", tmp_path / "student-onnx"
    save_bundle(folder, ranker.model, encoder, {})
    export(folder, out)
    texts = [(pair.query, document(pair)) for pair in PAIRS]

    scored = {"scorer": Scorer.load(folder).score(PAIRS), "onnx": ExportScorer.load(out).score(PAIRS)}
    for name, path in (("bundle", folder), ("export", out)):
        stock = AutoModelForSequenceClassification.from_pretrained(path).eval()
        queries, documents = map(list, zip(*texts, strict=True))
        inputs = AutoTokenizer.from_pretrained(path)(
            queries, documents, padding=True, truncation=True, return_tensors="pt"
        )
        assert inputs["input_ids"].shape == (len(PAIRS), MAX_TOKENS)
        with torch.inference_mode():
            scored[f"stock {name}"] = stock(**inputs).logits[:, 0].numpy()
        scored[f"cross-encoder {name}"] = CrossEncoder(str(path), device="cpu").predict(texts)

    assert trained.std() > 0.1
    for name, scores in scored.items():
        np.testing.assert_allclose(scores, trained, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "bert"])
def test_other_families_score_as_their_bundles(family: str, tmp_path: Path) -> None:
    save_bundle(tmp_path / "student", *build(family), {})
    (variant,) = export(tmp_path / "student", tmp_path / "out", max_difference=2e-5).variants
    assert variant.drift.num_pairs == len(PAIRS)
    assert variant.drift.score_std > 0.02
    graph = onnx.load(tmp_path / "out/onnx/model.onnx").graph
    # None of these has token types; an input that a graph does not name is one that a consumer must not send.
    assert [node.name for node in graph.input] == ["input_ids", "attention_mask"]


def test_a_bfloat16_bundle_is_exported_in_float32_and_every_way_in_agrees(tmp_path: Path) -> None:
    model, encoder = build("bert")
    save_bundle(tmp_path / "student", model.to(torch.bfloat16), encoder, {})
    (variant,) = export(tmp_path / "student", tmp_path / "out").variants
    assert variant.drift.max_difference <= 1e-5
    # Stock classes take the type that the config names; in bf16 they would score otherwise than the ONNX beside it.
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert {weight.dtype for weight in stock.parameters()} == {torch.float32}
    np.testing.assert_array_equal(
        Scorer.load(tmp_path / "out").score(PAIRS), Scorer.load(tmp_path / "student").score(PAIRS)
    )


def test_graph_keeps_its_word(exported: Path) -> None:
    model = onnx.load(exported / "onnx/model.onnx", load_external_data=False)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 17)]
    assert [node for node in model.graph.initializer if node.data_location == onnx.TensorProto.EXTERNAL] == []

    def signature(node: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
        kind = node.type.tensor_type
        return node.name, kind.elem_type, [size.dim_param or size.dim_value for size in kind.shape.dim]

    names = ["input_ids", "attention_mask", "token_type_ids"]
    int64, float32 = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    assert [signature(node) for node in model.graph.input] == [(n, int64, ["batch", "sequence"]) for n in names]
    assert [signature(node) for node in model.graph.output] == [("logits", float32, ["batch", 1])]


# --- the scorer ---


def test_scores_do_not_depend_on_order_company_or_threads(exported: Path) -> None:
    scorer = ExportScorer.load(exported)
    scores = scorer.score(PAIRS)
    assert scores.dtype == np.float32 and scores.shape == (len(PAIRS),)
    order = np.random.default_rng(0).permutation(len(PAIRS))
    np.testing.assert_allclose(scorer.score([PAIRS[index] for index in order]), scores[order], rtol=0, atol=1e-5)
    alone = [scorer.score([pair])[0] for pair in PAIRS]
    np.testing.assert_allclose(alone, scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ExportScorer.load(exported, threads=2).score(PAIRS), scores, rtol=0, atol=1e-5)
    # Plain tuples are pairs too.
    np.testing.assert_array_equal(scorer.score([tuple(pair) for pair in PAIRS]), scores)


def test_no_pairs_no_scores(exported: Path) -> None:
    assert ExportScorer.load(exported).score([]).shape == (0,)


def test_parameters_are_those_of_the_bundle(bundle: Path, exported: Path) -> None:
    assert ExportScorer.load(exported).num_parameters == Scorer.load(bundle).num_parameters > 0


def test_batches_hold_every_pair_once_and_little_padding() -> None:
    lengths = np.random.default_rng(1).integers(3, 129, size=500).tolist()
    batches = list(length_batches(lengths))
    assert sorted(index for batch in batches for index in batch) == list(range(500))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= 2048
        assert padded - sum(lengths[index] for index in batch) <= 256
    # Not one pair a batch either.
    assert len(batches) < 30
    assert list(length_batches([5, 5000, 7])) == [[1], [2, 0]]  # too long for any batch: alone
    assert list(length_batches([])) == []


def test_pad_writes_what_a_stock_tokenizer_writes() -> None:
    tokens = [Tokens(np.array([2, 8, 3, 9, 3], np.int32), 3, 0), Tokens(np.array([2, 3, 3], np.int32), 2, 0)]
    padded = pad(tokens, pad_token_id=6)
    assert padded["input_ids"].tolist() == [[2, 8, 3, 9, 3], [2, 3, 3, 6, 6]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert padded["token_type_ids"].tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 0, 0]]
    assert {array.dtype for array in padded.values()} == {np.dtype(np.int64)}
