"""Layouts for engines: their files parse, say what the model is, and hold a model that scores as the bundle does."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tokenizers import Tokenizer

from disranker.export.layouts import write_layouts
from disranker.export.manifest import Exported, read_manifest
from disranker.export.onnxruntime import onnx_forward
from disranker.export.padded import PaddedScorer
from disranker.export.scorer import ExportScorer
from disranker.export.torchscript import torchscript_forward
from disranker.models.bundle import save_bundle
from disranker.models.scorer import Scorer
from tests.export.students import MAX_TOKENS, PAIRS, build, export, files_of

_TYPES = {"TYPE_INVALID": 0, "TYPE_INT64": 9, "TYPE_FP32": 11}


def golden_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "golden.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    "file",
    ["vespa/models/model.onnx", "triton/disranker/1/model.onnx", "flashrank/disranker/model.onnx"],
)
def test_the_onnx_file_inside_is_the_one_that_was_measured(file: str, laid_out: Path) -> None:
    assert (laid_out / "layouts" / file).read_bytes() == (laid_out / "onnx/model.onnx").read_bytes()


def test_scores_of_a_layout_are_those_of_the_bundle(bundle: Path, laid_out: Path) -> None:
    encoder = ExportScorer.load(laid_out).encoder
    inside = PaddedScorer(onnx_forward(laid_out / "layouts/triton/disranker/1/model.onnx"), encoder)
    np.testing.assert_allclose(inside.score(PAIRS), Scorer.load(bundle).score(PAIRS), rtol=0, atol=1e-5)


def test_readmes_give_a_golden_score(laid_out: Path) -> None:
    scores = {f"{pair['score']:.6f}" for pair in golden_of(laid_out)}
    for readme in (laid_out / "layouts").glob("*/README.md"):
        assert any(score in readme.read_text("utf-8") for score in scores), readme


# --- TorchScript ---


def test_torchscript_scores_as_the_bundle_at_every_shape(bundle: Path, laid_out: Path) -> None:
    encoder = ExportScorer.load(laid_out).encoder
    file = laid_out / "layouts/torchscript/model.pt"
    scorer, expected = PaddedScorer(torchscript_forward(file), encoder), Scorer.load(bundle).score(PAIRS)
    np.testing.assert_allclose(scorer.score(PAIRS), expected, rtol=0, atol=1e-5)
    alone = [scorer.score([pair])[0] for pair in PAIRS[:8]]
    np.testing.assert_allclose(alone, expected[:8], rtol=0, atol=1e-5)
    drift = read_manifest(laid_out)["variants"]["torchscript"]["drift"]
    assert 0 < drift["max_difference"] <= 1e-5


def test_torchscript_of_a_model_without_token_types(tmp_path: Path) -> None:
    save_bundle(tmp_path / "student", *build("modernbert"), {})
    made = export(tmp_path / "student", tmp_path / "out", max_difference=2e-5, layouts=["torchscript"])
    assert [variant.name for variant in made.variants] == ["onnx", "torchscript"]
    assert "token_type_ids" not in (tmp_path / "out/layouts/torchscript/README.md").read_text("utf-8")


# --- OpenSearch ---


def test_opensearch_archive_is_what_the_registration_says(bundle: Path, laid_out: Path) -> None:
    folder = laid_out / "layouts/opensearch"
    body, archive = json.loads((folder / "register.json").read_text("utf-8")), folder / "disranker.zip"
    assert body["function_name"] == "TEXT_SIMILARITY" and body["model_format"] == "TORCH_SCRIPT"
    assert body["model_content_hash_value"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert body["model_content_size_in_bytes"] == archive.stat().st_size
    assert body["model_config"]["framework_type"] == "huggingface_transformers"
    assert json.loads(body["model_config"]["all_config"])["architectures"] == ["BertForSequenceClassification"]
    with zipfile.ZipFile(archive) as zipped:
        assert sorted(zipped.namelist()) == ["disranker.pt", "tokenizer.json"]
        tokenizer = Tokenizer.from_str(zipped.read("tokenizer.json").decode("utf-8"))
        model = torch.jit.load(io.BytesIO(zipped.read("disranker.pt")))
    for pair in golden_of(laid_out):
        encoded = tokenizer.encode(pair["query"], pair["document"])
        inputs = (encoded.ids, encoded.attention_mask, encoded.type_ids)
        with torch.inference_mode():
            score = model(*(torch.tensor([row]) for row in inputs))
        assert score.item() == pytest.approx(pair["score"], abs=1e-5)


def test_opensearch_refuses_a_model_without_token_types(tmp_path: Path) -> None:
    save_bundle(tmp_path / "student", *build("distilbert"), {})
    with pytest.raises(ValueError, match="layout opensearch: ML Commons sends input_ids, attention_mask, token_type"):
        export(tmp_path / "student", tmp_path / "out", layouts=["opensearch"])
    assert not (tmp_path / "out").exists()


# --- Vespa ---


def vespa_ids(schema: str, query: list[int], body: list[int]) -> dict[str, list[int]]:
    """What Vespa's functions build, by their documentation: texts as tensors, cut at their size and filled with 0."""
    cls, sep, length = map(int, re.findall(r"customTokenInputIds\((\d+), (\d+), (\d+),", schema)[0])
    (num_body,) = map(int, re.findall(r"field tokens type tensor<float>\(d0\[(\d+)\]\)", schema))
    (num_query,) = map(int, re.findall(r"query\(q_tokens\) tensor<float>\(d0\[(\d+)\]\)", schema))
    first, second = [cls, *query[:num_query], sep], [*body[:num_body], sep]
    ids = (first + second)[:length]
    types = ([0] * len(first) + [1] * len(second))[:length]
    return {"input_ids": ids, "token_type_ids": types}


def test_vespa_builds_the_golden_ids(laid_out: Path) -> None:
    folder = laid_out / "layouts/vespa"
    schema = (folder / "schemas/page.sd").read_text("utf-8")
    tokenizer = Tokenizer.from_file(str(folder / "models/tokenizer.json"))
    whole = 0
    for pair in golden_of(laid_out):
        query, body = (tokenizer.encode(pair[name], add_special_tokens=False).ids for name in ("query", "document"))
        found = vespa_ids(schema, query, body)
        if len(query) + len(body) + 3 > MAX_TOKENS:
            # As its README says: the last [SEP] is lost with the end of the document.
            assert found["input_ids"][:-1] == pair["input_ids"][:-1] or len(query) > (MAX_TOKENS - 3) // 2
            continue
        whole += 1
        assert found == {name: pair[name] for name in found}
    assert whole > 10


def test_vespa_files_name_one_another(laid_out: Path) -> None:
    folder = laid_out / "layouts/vespa"
    assert files_of(folder) == {
        "README.md",
        "models/model.onnx",
        "models/tokenizer.json",
        "schemas/page.sd",
        "services.xml",
    }
    services = ElementTree.parse(folder / "services.xml").getroot()
    component = services.find("container/component")
    assert component is not None and component.get("type") == "hugging-face-tokenizer"
    model, special = component.find("model"), component.find("special-tokens")
    assert model is not None and (folder / model.attrib["path"]).is_file()
    assert special is not None and special.text == "false"
    document = services.find("content/documents/document")
    assert document is not None and document.get("type") == "page"

    schema = (folder / "schemas/page.sd").read_text("utf-8")
    assert schema.count("{") == schema.count("}")
    assert schema.startswith("schema page {") and "| embed tokenizer |" in schema
    (file,) = re.findall(r"file: (\S+)", schema)
    assert (folder / file).is_file()
    functions = set(re.findall(r"function (\w+)\(\)", schema))
    inputs = dict(re.findall(r"input (\w+): (\w+)", schema))
    assert inputs == {name: name for name in ("input_ids", "attention_mask", "token_type_ids")}
    assert functions == set(inputs.values())


def test_vespa_refuses_pairs_that_its_functions_cannot_build(exported: Path, tmp_path: Path) -> None:
    model, encoder = build("bert")
    names = ("input_ids", "attention_mask")
    twice = Exported(tmp_path, encoder, names, {"input_ids": [2, 9, 3, 3, 9, 3]})  # as RoBERTa does
    with pytest.raises(ValueError, match="this tokenizer builds other pairs; take vespa out of layouts"):
        write_layouts(twice, model, ["vespa"])
    shutil.copytree(exported, tmp_path / "copied")
    encoder.tokenizer.unk_token = "[PAD]"  # token 0
    words = Exported(tmp_path / "copied", encoder, names, {"input_ids": [2, 9, 3, 9, 3]})
    with pytest.raises(ValueError, match="token 0 for the end of a text"):
        write_layouts(words, model, ["vespa"])


# --- Triton ---


def triton_config(text: str) -> Any:
    """The text read as a message with Triton's field names and types, of which it may have no other."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for name, number in _TYPES.items():
        kinds.value.add(name=name, number=number)
    tensor = file.message_type.add(name="Tensor")
    tensor.field.add(name="name", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    tensor.field.add(name="data_type", number=2, type=field.TYPE_ENUM, label=field.LABEL_OPTIONAL, type_name="DataType")
    tensor.field.add(name="dims", number=3, type=field.TYPE_INT64, label=field.LABEL_REPEATED)
    file.message_type.add(name="Batching")
    config = file.message_type.add(name="ModelConfig")
    config.field.add(name="name", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    config.field.add(name="platform", number=2, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    config.field.add(name="max_batch_size", number=4, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    for number, name in ((5, "input"), (6, "output")):
        config.field.add(
            name=name, number=number, type=field.TYPE_MESSAGE, label=field.LABEL_REPEATED, type_name="Tensor"
        )
    config.field.add(
        name="dynamic_batching", number=11, type=field.TYPE_MESSAGE, label=field.LABEL_OPTIONAL, type_name="Batching"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("ModelConfig"))()
    return text_format.Parse(text, message)


def test_triton_config_says_what_the_model_is(laid_out: Path) -> None:
    folder = laid_out / "layouts/triton"
    config = triton_config((folder / "disranker/config.pbtxt").read_text("utf-8"))
    assert (config.name, config.platform, config.max_batch_size) == ("disranker", "onnxruntime_onnx", 64)
    assert config.HasField("dynamic_batching")
    manifest = read_manifest(laid_out)
    # Triton adds the batch to the dimensions by itself.
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [
        (one["name"], _TYPES["TYPE_INT64"], [-1]) for one in manifest["inputs"]
    ]
    assert [(one.name, one.data_type, list(one.dims)) for one in config.output] == [
        ("logits", _TYPES["TYPE_FP32"], [1])
    ]
    request = re.findall(r"infer -d '(.*)'", (folder / "README.md").read_text("utf-8"))
    inputs = {one["name"]: one["data"] for one in json.loads(request[0])["inputs"]}
    assert inputs["input_ids"] in [pair["input_ids"] for pair in golden_of(laid_out)]


# --- FlashRank ---


def test_flashrank_folder_holds_what_it_reads(laid_out: Path) -> None:
    folder = laid_out / "layouts/flashrank"
    names = ("config.json", "model.onnx", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")
    assert files_of(folder) == {"README.md", *(f"disranker/{name}" for name in names)}
    settings = json.loads((folder / "disranker/tokenizer_config.json").read_text("utf-8"))
    assert settings["model_max_length"] == MAX_TOKENS and settings["pad_token"] == "[PAD]"
    assert json.loads((folder / "disranker/config.json").read_text("utf-8"))["pad_token_id"] == 0
