"""The server over real rankers: its scores beside those of the offline evaluation, and the command itself."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from disranker.cli import main
from disranker.export.scorer import ExportScorer
from disranker.models.bundle import save_bundle
from disranker.models.scorer import Scorer
from disranker.schema import Pair
from disranker.serve.load import Load, percentile, summarize
from disranker.serve.load import main as load_main
from tests.export.students import build, export
from tests.serve.serving import client

TOLERANCE = 1e-5
"""Of a float32 score, beside the same back end offline, when requests share batches."""
WORDS = ["zor", "bax", "melu", "tiv", "gon", "词典", "中文"]


def requests(seed: int, count: int) -> list[tuple[str, list[dict[str, str]]]]:
    """Queries with documents of all lengths, some longer than the ranker reads, some empty."""
    random = np.random.default_rng(seed)

    def text(most: int) -> str:
        return " ".join(random.choice(WORDS, random.integers(0, most)))

    return [
        (f"zor {text(4)}", [{"title": text(5), "summary": text(60)} for _ in range(random.integers(1, 12))])
        for _ in range(count)
    ]


def pairs_of(query: str, documents: list[dict[str, str]]) -> list[Pair]:
    return [Pair(query, document["title"], document["summary"]) for document in documents]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "student"
    save_bundle(folder, *build("bert"), {"training": {"steps": 3}})
    return folder


@pytest.fixture(scope="module")
def exported(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "student-onnx"
    # What a tiny student loses by rounding is no matter here.
    export(bundle, out, variants=["onnx-int8-dynamic", "openvino"], accept_drift=True)
    return out


async def ask(one: httpx2.AsyncClient, query: str, documents: list[dict[str, str]]) -> list[float]:
    """The raw scores of the documents as they were sent."""
    answer = await one.post("/rerank", json={"query": query, "texts": documents, "raw_scores": True})
    assert answer.status_code == 200, answer.text
    scores = {one["index"]: one["score"] for one in answer.json()}
    return [scores[index] for index in range(len(documents))]


@pytest.mark.parametrize("kind", ["torch", "onnx", "onnx-int8-dynamic", "openvino"])
def test_served_scores_are_those_of_the_scorer(kind: str, bundle: Path, exported: Path) -> None:
    def load() -> Any:
        if kind == "torch":
            return Scorer.load(bundle, tokens_per_batch=256)
        return ExportScorer.load(exported, kind)

    sent = requests(0, 24)
    scorer = load()
    batches = {"tokens_per_batch": 256} if kind == "torch" else {"fits": scorer.fits}

    async def run() -> tuple[list[list[float]], list[list[float]]]:
        async with client(scorer, **batches, wait_seconds=0.01, max_queued_pairs=1000) as one:
            together = await asyncio.gather(*(ask(one, *request) for request in sent))
            return together, [await ask(one, *request) for request in sent]

    together, alone = asyncio.run(run())
    offline = load()
    whole = offline.score([pair for request in sent for pair in pairs_of(*request)])
    assert float(whole.std()) > 0.1
    if kind != "onnx-int8-dynamic":  # which scales activations batch by batch
        np.testing.assert_allclose(np.concatenate(together), whole, rtol=0, atol=TOLERANCE)
    # A request that has its batches to itself has those that the scorer makes: its numbers are added up in one order.
    for scores, request in zip(alone, sent, strict=True):
        assert np.array_equal(np.array(scores, dtype=np.float32), offline.score(pairs_of(*request)))


def test_a_document_as_string_scores_as_its_title_and_summary(bundle: Path) -> None:
    async def run() -> list[dict[str, Any]]:
        async with client(Scorer.load(bundle), tokens_per_batch=256) as one:
            documents = [{"title": "melu tiv", "summary": "gon zor"}, "melu tiv gon zor", {"text": "melu tiv gon zor"}]
            return (await one.post("/rerank", json={"query": "zor bax", "texts": documents})).json()

    first, *others = asyncio.run(run())
    assert [other["score"] for other in others] == [pytest.approx(first["score"], abs=1e-7)] * 2


# --- the command ---


def run_command(arguments: list[str], work: Callable[[str, int], None]) -> int:
    """The exit code of `disranker serve …`, which is sent SIGTERM when `work` on its address is done."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    failures: list[BaseException] = []

    def use() -> None:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    if get("127.0.0.1", port, "/ready")[0] == 200:
                        break
                except OSError:
                    time.sleep(0.05)
            work("127.0.0.1", port)
        except BaseException as error:
            failures.append(error)
        finally:
            # By now the server has its handler; if it never came up, `main` has returned by itself.
            if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
                os.kill(os.getpid(), signal.SIGTERM)

    user = threading.Thread(target=use)
    user.start()
    code = main(["serve", *arguments, "--port", str(port)])
    user.join()
    assert failures == []
    return code


def get(host: str, port: int, path: str, body: Any = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("GET" if body is None else "POST", path, body and json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_the_command_serves_until_sigterm(
    bundle: Path, exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "uncertain.jsonl"
    cascade = ["--cascade.teacher", str(bundle), "--cascade.threshold", "100", "--cascade.uncertain_file", str(file)]
    candidates = tmp_path / "candidates.csv"
    candidates.write_text("query_id,doc_id,query,title,summary\nq,1,zor,melu,tiv\nq,2,zor,,gon bax\n", encoding="utf-8")
    found: dict[str, Any] = {}

    def work(host: str, port: int) -> None:
        body = {"model": "mine", "query": "zor", "documents": ["melu tiv", "gon", "bax bax"], "raw_scores": True}
        found["answer"] = get(host, port, "/v1/rerank", body)
        found["metrics"] = get(host, port, "/metrics")[1].decode()
        small = ["--clients", "2", "--seconds", "0.2", "--documents", "3", "--words", "4", "--rounds", "2"]
        url = f"http://{host}:{port}"
        found["load"] = load_main([f"a={url}", f"b={url}", *small, "--out", str(tmp_path / "load.json")])
        sent = ["--candidates", str(candidates), "--out", str(tmp_path / "texts.json")]
        found["texts"] = load_main([url, *small, "--field", "texts", *sent])

    assert run_command([str(exported), "--name", "mine", "--threads", "1", *cascade], work) == 0
    status, answer = found["answer"]
    scorer = ExportScorer.load(exported, threads=1)
    scores = scorer.score([Pair("zor", "", text) for text in ("melu tiv", "gon", "bax bax")])
    assert status == 200
    assert [one["index"] for one in json.loads(answer)["results"]] == np.argsort(-scores).tolist()
    served = [one["relevance_score"] for one in json.loads(answer)["results"]]
    assert served == pytest.approx(sorted(scores, reverse=True), abs=TOLERANCE)
    assert 'disranker_scored_pairs_total{ranker="teacher"} 3.0' in found["metrics"]
    backend = f"{scorer.runtime}, variant {scorer.variant}, cpu, 0.0 M parameters"
    assert f'disranker_ranker_info{{backend="{backend}",ranker="student"}} 1.0' in found["metrics"]
    assert found["load"] == found["texts"] == 0
    written = json.loads((tmp_path / "load.json").read_text("utf-8"))
    assert [(row["server"], row["clients"], row["failures"]) for row in written["rows"]] == [("a", 2, {}), ("b", 2, {})]
    assert all(row["requests"] > 0 and row["least"] <= row["most"] for row in written["rows"])
    of_file = json.loads((tmp_path / "texts.json").read_text("utf-8"))["requests"]
    assert (of_file["candidates"], of_file["words"]) == (str(candidates), 2.0)
    assert len(file.read_text("utf-8").splitlines()) >= 3
    out = capfd.readouterr().out
    assert re.search(rf"^serving .* as 'mine':\n  ranker   {re.escape(backend)}; full batches at ", out)
    assert re.search(r"^  teacher  torch, cpu, float32, ", out, re.MULTILINE)
    assert re.search(r"^listening on http://127\.0\.0\.1:\d+ ", out, re.MULTILINE)
    assert "largest difference of a raw score, b beside a: 0.0e+00\n" in out
    for name in ("a", "b", "server"):
        assert re.search(rf"^{name} +2 +\d+\.\d( +\d+){{3}}( +\d+\.\d){{3}}$", out, re.MULTILINE)
    assert re.search(r"^stopped after ranking [\d,]+ documents$", out, re.MULTILINE)


def test_faults_of_the_call_and_of_the_folder(
    bundle: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path), "--port", "0"]) == 1
    assert "is no bundle: it has no disranker.json" in capsys.readouterr().err
    for name, value in (("dtype", "bfloat16"), ("tokens_per_batch", "64")):
        assert main(["serve", str(exported), "--port", "0", f"--{name}", value]) == 1
        message = f"{name} = {value}: {exported} is an export, whose types and batches were settled when it was made"
        assert message in capsys.readouterr().err
    assert main(["serve", str(exported), "--port", "0", "--variant", "onnx-int8-static"]) == 1
    assert "has onnx, onnx-int8-dynamic, openvino; choose one of them" in capsys.readouterr().err
    assert main(["serve", str(bundle), "--port", "0", "--variant", "onnx"]) == 1
    assert f"variant = onnx: {bundle} is a bundle" in capsys.readouterr().err
    teacher = ["--cascade.teacher", str(tmp_path), "--cascade.threshold", "1"]
    assert main(["serve", str(exported), "--port", "0", *teacher]) == 1
    assert "is no bundle: it has no disranker.json" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", str(exported), "--port", str(taken.getsockname()[1])]) == 1
    assert "give another host or port" in capsys.readouterr().err
    for words, code in ([["--help"], 0], [["/nowhere"], 2]):
        with pytest.raises(SystemExit) as caught:
            main(["serve", *words])
        assert caught.value.code == code


def test_percentiles_are_values_that_were_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, share) for share in (0.5, 0.6, 0.61, 0.99)] == [3.0, 3.0, 4.0, 5.0]
    assert percentile([7.0], 0.5) == 7.0


def test_a_row_takes_the_runs_of_a_server_together() -> None:
    runs = [
        Load(4, seconds=2.0, latencies=[0.1, 0.3], num_documents=20, failures=Counter({"429": 1})),
        Load(4, seconds=2.0, latencies=[0.2, 0.2, 0.4], num_documents=30),
        Load(4, seconds=2.0, latencies=[0.1], num_documents=10, failures=Counter({"429": 2})),
    ]
    row = summarize("ours", runs)
    assert (row.clients, row.requests, row.requests_per_second, row.documents_per_second) == (4, 6, 1.0, 10.0)
    assert (row.least, row.most, row.p50_ms, row.p95_ms, row.failures) == (5.0, 15.0, 200.0, 400.0, {"429": 3})


def test_load_test_of_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    short = ["--clients", "1", "--seconds", "0.1"]
    assert load_main([url, *short]) == 1
    assert "Connection refused" in capsys.readouterr().err
    assert load_main(["127.0.0.1:1", *short]) == 1
    assert "is no address like http://127.0.0.1:8000" in capsys.readouterr().err
    for words in (["a=1", "a=2"], ["a=1", "--clients", "300"]):
        with pytest.raises(SystemExit):
            load_main(words)
