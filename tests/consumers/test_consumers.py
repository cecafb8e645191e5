"""What other software makes of an export: each consumer, with pinned versions, gives the scores of torch.

A pair that is longer than the ranker reads (the first golden pair) is cut right by all but those that `OVERLONG` names.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from disranker.export.scorer import ExportScorer
from disranker.schema import Pair
from tests.consumers.environments import node_modules, python_of
from tests.consumers.scores import Golden, Result, read_golden, sigmoid, start_worker


class Consumer(NamedTuple):
    """How one consumer is asked, and what it gives."""

    worker: str
    environment: str
    options: tuple[str, ...] = ()
    kind: str = "logit"
    """What its scores are by default: the raw logit, or the sigmoid of it."""
    tolerance: float = 1e-4
    """Largest difference of a score from torch's."""


CONSUMERS = {
    "sentence-transformers 6, torch": Consumer("cross_encoder.py", "current", ("--backend", "torch")),
    "sentence-transformers 6, OpenVINO": Consumer("cross_encoder.py", "intel", ("--backend", "openvino-float32")),
    "sentence-transformers 5, torch": Consumer("cross_encoder.py", "optimum", ("--backend", "torch")),
    "sentence-transformers 5, ONNX": Consumer("cross_encoder.py", "optimum", ("--backend", "onnx")),
    "rerankers": Consumer("rerankers_.py", "current"),
    "FlashRank": Consumer("flashrank_.py", "current", kind="sigmoid"),
    "FastEmbed": Consumer("fastembed_.py", "current"),
    "infinity, torch": Consumer("infinity.py", "infinity"),
    "LanceDB": Consumer("lancedb_.py", "current"),
    "LlamaIndex": Consumer("llama_index_.py", "current"),
    "LangChain": Consumer("langchain_.py", "current"),
    "Haystack": Consumer("haystack_.py", "current"),
    "txtai": Consumer("txtai_.py", "current"),
    "transformers.js": Consumer("transformers_js.mjs", "node"),
    "onnxruntime": Consumer("onnxruntime_.py", "current"),
    "OpenVINO": Consumer("openvino_.py", "current"),
}
INT8 = {
    "sentence-transformers 5, ONNX": ("--backend", "onnx", "--file", "onnx/model_quantized.onnx"),
    "FastEmbed": ("--file", "onnx/model_quantized.onnx"),
    "transformers.js": ("--backend", "q8"),
}
"""How those that open the static int8 file are told to."""
OVERLONG = {"txtai": "cuts nothing", "transformers.js": "cuts off the last [SEP]"}


@pytest.mark.parametrize("name", CONSUMERS)
def test_consumer_gives_the_scores_of_torch(name: str, export: Path, results: list[Result]) -> None:
    consumer, golden = CONSUMERS[name], read_golden(export)
    assert len(golden) == 20
    fitting = golden[1:] if name in OVERLONG else golden
    with start_worker(consumer.worker, consumer.environment, export, *consumer.options) as worker:
        found = [worker.score(pair.query, [pair.document]).scores[0] for pair in fitting]
        # One request of documents of all lengths: the padding of one must not show in the others.
        query = golden[1].query
        documents = [pair.document for pair in fitting]
        together = worker.score(query, documents).scores
        singly = [worker.score(query, [document]).scores[0] for document in documents]
    expected = [expected_score(pair, consumer.kind) for pair in fitting]
    assert max(expected) - min(expected) > 0.1, "scores this close would hide faults"
    difference = max(abs(one - other) for one, other in zip(found, expected, strict=True))
    results.append(Result(name, worker.versions, consumer.kind, len(fitting), difference))
    assert difference <= consumer.tolerance
    assert max(abs(one - other) for one, other in zip(together, singly, strict=True)) <= consumer.tolerance


@pytest.mark.parametrize("name", INT8)
def test_consumer_gives_our_scores_with_the_int8_file(name: str, export: Path, results: list[Result]) -> None:
    consumer, golden = CONSUMERS[name], read_golden(export)[1:]
    ours = ExportScorer.load(export, "onnx-int8-static", threads=1)
    expected = [float(ours.score([Pair(pair.query, "", pair.document)])[0]) for pair in golden]
    with start_worker(consumer.worker, consumer.environment, export, *INT8[name]) as worker:
        found = [worker.score(pair.query, [pair.document]).scores[0] for pair in golden]
    difference = max(abs(one - other) for one, other in zip(found, expected, strict=True))
    results.append(Result(f"{name}, int8", worker.versions, "logit, beside ours in int8", len(golden), difference))
    assert difference <= consumer.tolerance
    # They did not open the file in float32.
    assert max(abs(one - pair.score) for one, pair in zip(found, golden, strict=True)) > 1e-2


def expected_score(pair: Golden, kind: str) -> float:
    return sigmoid(pair.score) if kind == "sigmoid" else pair.score


def test_transformers_js_scores_an_overlong_pair_otherwise(export: Path) -> None:
    # When this fails, the library cuts as training does: take it out of OVERLONG and out of docs/consumers.md.
    overlong = read_golden(export)[0]
    with start_worker("transformers_js.mjs", "node", export) as worker:
        (score,) = worker.score(overlong.query, [overlong.document]).scores
    assert abs(score - overlong.score) > 1e-3


def test_check_mjs_cuts_as_training_does(export: Path, tmp_path: Path) -> None:
    # Node looks for packages above the folder of a script.
    (tmp_path / "node_modules").symlink_to(node_modules())
    shutil.copytree(export, tmp_path / "ranker")
    done = subprocess.run(["node", tmp_path / "ranker" / "check.mjs"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_check_py_needs_onnxruntime_and_tokenizers_alone(export: Path) -> None:
    command = [str(python_of("current")), str(export / "check.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_eland_makes_the_model_that_elasticsearch_runs(export: Path, results: list[Result], tmp_path: Path) -> None:
    script = Path(__file__).with_name("workers") / "eland_.py"
    command = [str(python_of("optimum")), str(script), str(export), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    tokenization = found["config"]["inference_config"]["text_similarity"]["tokenization"]["bert"]
    # "second": Elasticsearch cuts the document alone; so does training, unless the query is the longer text.
    assert tokenization["max_sequence_length"] == 256 and tokenization["truncate"] == "second"
    assert tokenization["do_lower_case"] is True
    golden = read_golden(export)
    difference = max(abs(one - pair.score) for one, pair in zip(found["scores"], golden, strict=True))
    results.append(Result("eland (Elasticsearch)", found["versions"], "logit", len(golden), difference))
    assert difference <= 1e-4


def test_config_of_triton_has_the_schema_of_its_client(export: Path) -> None:
    file = export / "layouts" / "triton" / "disranker" / "config.pbtxt"
    script = Path(__file__).with_name("workers") / "triton_config.py"
    command = [str(python_of("engines")), str(script), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    assert (config["name"], config["platform"]) == ("disranker", "onnxruntime_onnx")
    inputs = {one["name"]: (one["data_type"], one["dims"]) for one in config["input"]}
    assert inputs == dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ("TYPE_INT64", ["-1"]))
    assert [(one["name"], one["data_type"], one["dims"]) for one in config["output"]] == [
        ("logits", "TYPE_FP32", ["1"])
    ]
