from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from disranker.data.readers import write_records
from disranker.export.onnx import export_student
from disranker.export.parity import ParityError, check_parity
from disranker.export.scorer import OnnxScorer, length_batches, pad
from disranker.launch import run_stage
from disranker.models.bundle import read_facts, save_bundle
from disranker.models.packed import pack
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.schema import Judgment, Pair
from disranker.text.encode import PairEncoder, Tokens
from disranker.text.templates import get_template
from disranker.text.vocabulary import train_pair_tokenizer, train_prompt_tokenizer

MAX_TOKENS = 40
PAIRS = [
    Pair("zor bax", "melu tiv", "zor gon " * 60),  # longer than the budget
    Pair("zor " * 60, "melu", "tiv"),  # the query alone is
    Pair("melu", "", "gon tiv zor"),  # no title
    Pair("gon", "zor tiv", ""),  # no summary
    Pair("bax", "", ""),  # no document
    Pair("", "melu", "bax"),  # no query
    Pair("词典", "中文标题", "这是一个摘要"),
    Pair("tiv", "x", ""),  # one character, and not in the vocabulary
    *[Pair("zor bax", "melu " * (1 + index % 3), "gon tiv " * index) for index in range(16)],
]
# Files may hold neither empty queries nor empty documents.
READABLE = [pair for pair in PAIRS if pair.query and (pair.title or pair.summary)]
_WIDTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_SPECIAL = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {**_WIDTH, **_NO_DROPOUT},
    "roberta": {**_WIDTH, **_NO_DROPOUT, "type_vocab_size": 1},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    # A window of 8 tokens: a mask that the tracer froze at the length of its example would show.
    "modernbert": {**_WIDTH, **_SPECIAL, "local_attention": 8, "global_attn_every_n_layers": 2},
}
FOLDER = {
    "config.json",
    "disranker.json",
    "model.safetensors",
    "onnx/model.onnx",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
}


def build(family: str) -> tuple[PreTrainedModel, PairEncoder]:
    """A tiny student with scores that lie well apart."""
    texts = ["zor bax melu tiv gon", "这是中文词典标题摘要"]
    tokenizer = train_pair_tokenizer(texts * 3, vocab_size=120)
    shape = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 48}
    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **shape, **FAMILIES[family], num_labels=1, initializer_range=0.3)
    encoder = PairEncoder(tokenizer, get_template("pair"), max_tokens=MAX_TOKENS, max_query_tokens=8)
    return AutoModelForSequenceClassification.from_config(config), encoder


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def export(bundle: Path, out: Path, **changed: Any) -> Any:
    settings: dict[str, Any] = {"pairs": PAIRS, "opset": 17, "max_difference": 1e-5, "facts": {}, **changed}
    return export_student(bundle, out, settings.pop("pairs"), **settings)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    save_bundle(folder, *build("bert"), {"training": {"steps": 3}})
    return folder


@pytest.fixture(scope="module")
def exported(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "student-onnx"
    export(bundle, out)
    return out


class Fixed:
    """A scorer that gives these scores whatever the pairs."""

    def __init__(self, *scores: float) -> None:
        self.scores = np.array(scores, dtype=np.float32)

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        return np.resize(self.scores, len(pairs))


# --- one pair, one number ---


def test_one_pair_scored_five_ways_is_one_number(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    model, encoder = build("bert")
    ranker = Ranker(model).train()  # no dropout in this model: the forward pass of training is the one of scoring
    trained = ranker(pack(encoder.encode(PAIRS))).detach().numpy()
    folder, out = tmp_path / "student", tmp_path / "student-onnx"
    save_bundle(folder, ranker.model, encoder, {})
    export(folder, out)
    texts = [(pair.query, f"{pair.title} {pair.summary}".strip()) for pair in PAIRS]

    scored = {"scorer": Scorer.load(folder).score(PAIRS), "onnx": OnnxScorer.load(out).score(PAIRS)}
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
    parity = export(tmp_path / "student", tmp_path / "out", max_difference=2e-5)
    assert parity.num_pairs == len(PAIRS)
    assert parity.score_std > 0.02
    graph = onnx.load(tmp_path / "out/onnx/model.onnx").graph
    # None of these has token types; an input that a graph does not name is one that a consumer must not send.
    assert [node.name for node in graph.input] == ["input_ids", "attention_mask"]


def test_a_bfloat16_bundle_is_exported_in_float32_and_every_way_in_agrees(tmp_path: Path) -> None:
    model, encoder = build("bert")
    save_bundle(tmp_path / "student", model.to(torch.bfloat16), encoder, {})
    parity = export(tmp_path / "student", tmp_path / "out")
    assert parity.max_difference <= 1e-5
    # Stock classes take the type that the config names; in bf16 they would score otherwise than the ONNX beside it.
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert {weight.dtype for weight in stock.parameters()} == {torch.float32}
    np.testing.assert_array_equal(
        Scorer.load(tmp_path / "out").score(PAIRS), Scorer.load(tmp_path / "student").score(PAIRS)
    )


# --- the folder ---


def test_folder_holds_the_layout_that_consumers_agree_on(exported: Path) -> None:
    assert files_of(exported) == FOLDER
    assert [name for name in FOLDER if (exported / name).stat().st_mode & 0o777 != 0o644] == []
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "LABEL_0"}
    assert config["dtype"] == "float32"
    assert config["sentence_transformers"]["activation_fn"] == "torch.nn.modules.linear.Identity"
    settings = json.loads((exported / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == MAX_TOKENS
    assert {"max_length", "stride", "truncation_strategy", "is_local"} & set(settings) == set()


def test_tokenizer_file_alone_cuts_as_the_encoder_does(exported: Path) -> None:
    content = json.loads((exported / "tokenizer.json").read_text("utf-8"))
    truncation = {"direction": "Right", "max_length": MAX_TOKENS, "strategy": "LongestFirst", "stride": 0}
    assert content["truncation"] == truncation
    assert content["padding"] is None

    tokenizer = Tokenizer.from_file(str(exported / "tokenizer.json"))
    encoder = OnnxScorer.load(exported).encoder
    for pair, tokens in zip(PAIRS, encoder.encode(PAIRS), strict=True):
        raw = tokenizer.encode(pair.query, f"{pair.title} {pair.summary}".strip())
        assert raw.ids == tokens.ids.tolist()
        assert raw.type_ids == [int(at >= tokens.second) for at in range(len(tokens.ids))]


def test_manifest_says_what_a_consumer_must_know(bundle: Path, exported: Path) -> None:
    facts = read_facts(exported)
    manifest = facts.pop("export")
    assert facts == read_facts(bundle)  # fingerprint, template, training: all as in the bundle
    parity, versions = manifest.pop("parity"), manifest.pop("versions")
    assert manifest == {
        "file": "onnx/model.onnx",
        "bytes": (exported / "onnx/model.onnx").stat().st_size,
        "precision": "float32",
        "opset": 17,
        "inputs": [
            {"name": name, "shape": ["batch", "sequence"], "type": "int64"}
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ],
        "output": {"name": "logits", "shape": ["batch", 1], "type": "float32", "meaning": "raw score, no activation"},
        "pair_format": "text pair (query, document); document = title + ' ' + summary, stripped",
        "max_tokens": MAX_TOKENS,
        "truncation": "longest_first",
    }
    assert parity["num_pairs"] == len(PAIRS)
    assert 0 < parity["max_difference"] <= parity["max_difference_accepted"] == 1e-5
    assert versions["onnx"] == onnx.__version__


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


def test_a_new_export_replaces_an_old_one_and_what_was_derived_from_it(bundle: Path, tmp_path: Path) -> None:
    export(bundle, tmp_path / "out")
    (tmp_path / "out/onnx/model_quantized.onnx").write_bytes(b"of the earlier student")
    (tmp_path / "out/notes.txt").write_text("the user's own")
    export(bundle, tmp_path / "out", opset=14)
    assert files_of(tmp_path / "out") == FOLDER | {"notes.txt"}
    assert read_facts(tmp_path / "out")["export"]["opset"] == 14


# --- what is refused ---


def test_a_decoder_is_refused(tmp_path: Path) -> None:
    tokenizer = train_prompt_tokenizer(["zor bax melu"] * 3, vocab_size=300)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, **_WIDTH
    )
    encoder = PairEncoder(tokenizer, get_template("plain"), max_tokens=MAX_TOKENS, max_query_tokens=8)
    save_bundle(tmp_path / "teacher", AutoModelForSequenceClassification.from_config(config), encoder, {})
    with pytest.raises(ValueError, match=r"teacher is a decoder's bundle, and only encoders are exported to ONNX"):
        export(tmp_path / "teacher", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bundle_is_not_overwritten(bundle: Path) -> None:
    before = files_of(bundle)
    with pytest.raises(ValueError, match="holds a bundle, which an export would overwrite"):
        export(bundle, bundle)
    assert files_of(bundle) == before


@pytest.mark.parametrize("opset", [13, 21])
def test_an_operator_set_out_of_range_is_refused(opset: int, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"opset = {opset}: the exporter writes operator sets 14 to 20"):
        export(bundle, tmp_path / "out", opset=opset)


def test_no_pairs_prove_nothing(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        export(bundle, tmp_path / "out", pairs=[])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    package: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"^{package} is not installed: pip install 'disranker\[export\]'$"):
        export(bundle, tmp_path / "out")


def test_a_bundle_is_no_export(bundle: Path) -> None:
    with pytest.raises(ValueError, match=r"is no export: it has no onnx/model.onnx"):
        OnnxScorer.load(bundle)


# --- the scorer ---


def test_scores_do_not_depend_on_order_company_or_threads(exported: Path) -> None:
    scorer = OnnxScorer.load(exported)
    scores = scorer.score(PAIRS)
    assert scores.dtype == np.float32 and scores.shape == (len(PAIRS),)
    order = np.random.default_rng(0).permutation(len(PAIRS))
    np.testing.assert_allclose(scorer.score([PAIRS[index] for index in order]), scores[order], rtol=0, atol=1e-5)
    alone = [scorer.score([pair])[0] for pair in PAIRS]
    np.testing.assert_allclose(alone, scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(OnnxScorer.load(exported, threads=2).score(PAIRS), scores, rtol=0, atol=1e-5)
    # Plain tuples are pairs too.
    np.testing.assert_array_equal(scorer.score([tuple(pair) for pair in PAIRS]), scores)


def test_no_pairs_no_scores(exported: Path) -> None:
    assert OnnxScorer.load(exported).score([]).shape == (0,)


def test_parameters_are_those_of_the_bundle(bundle: Path, exported: Path) -> None:
    assert OnnxScorer.load(exported).num_parameters == Scorer.load(bundle).num_parameters > 0


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


# --- parity ---


def test_parity_of_known_scores() -> None:
    parity = check_parity(Fixed(1.0, 2.0, 3.0, 4.0), Fixed(1.0, 2.5, 4.0, 3.5), PAIRS[:4])
    assert (parity.num_pairs, parity.max_difference, parity.worst_pair) == (4, 1.0, 2)
    assert parity.mean_difference == 0.5
    assert parity.spearman == pytest.approx(0.8)  # 1 - 6 * (0 + 0 + 1 + 1) / (4 * 15)
    assert parity.score_std == pytest.approx(np.sqrt(1.25))
    assert str(parity) == (
        "4 pairs, largest difference 1.00e+00 (pair 2), mean 5.00e-01, Spearman 0.800000, std of the scores 1.12"
    )


def test_parity_of_equal_scores_has_no_correlation() -> None:
    parity = check_parity(Fixed(1.0), Fixed(1.0, 2.0), PAIRS[:2])
    assert parity.spearman is None
    assert "Spearman none (all scores equal)" in str(parity)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_no_parity(value: float) -> None:
    with pytest.raises(ValueError, match="the second scorer gives pair 1 the score"):
        check_parity(Fixed(1.0, 2.0), Fixed(1.0, value), PAIRS[:2])


# --- the stage ---


@pytest.fixture
def arguments(bundle: Path, tmp_path: Path) -> list[str]:
    judgments = [Judgment(f"q{index}", "d", *pair, label=index % 3) for index, pair in enumerate(READABLE)]
    write_records(tmp_path / "judged.parquet", Judgment, iter(judgments))
    return ["--bundle", str(bundle), "--out", str(tmp_path / "out"), "--judged", f"[{tmp_path / 'judged.parquet'}]"]


def test_stage_writes_the_folder_and_says_so_quietly(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    assert run_stage("export", [*arguments, "--parity_pairs", "9"]) == 0
    printed, errors = capfd.readouterr()
    assert files_of(tmp_path / "out") == FOLDER
    manifest = read_facts(tmp_path / "out")["export"]
    assert manifest["parity"]["num_pairs"] == 9
    assert manifest["config"]["parity_pairs"] == 9
    assert "9 pairs, largest difference" in printed
    assert printed.splitlines()[-1].startswith(f"wrote {tmp_path / 'out'}: onnx/model.onnx of 0.")
    assert "arning" not in printed + errors
    assert [str(warning.message) for warning in recwarn if "trac" in str(warning.category).lower()] == []


def test_stage_fails_with_the_figures_and_leaves_the_earlier_export(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_stage("export", arguments) == 0
    before = {name: (tmp_path / "out" / name).read_bytes() for name in FOLDER}
    monkeypatch.setattr("disranker.export.onnx.OnnxScorer.load", lambda path: Fixed(1.0, 2.0))
    assert run_stage("export", arguments) == 1
    errors = capfd.readouterr().err
    assert (
        f"the export does not score as the bundle, within 0.0001: {len(READABLE)} pairs, largest difference" in errors
    )
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FOLDER} == before
    assert files_of(tmp_path / "out") == FOLDER

    shutil.rmtree(tmp_path / "out")
    assert run_stage("export", arguments) == 1
    assert not (tmp_path / "out").exists()


def test_parity_error_holds_the_figures(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disranker.export.onnx.OnnxScorer.load", lambda path: Fixed(100.0))
    with pytest.raises(ParityError) as caught:
        export(bundle, tmp_path / "out")
    assert caught.value.parity.max_difference > 50
