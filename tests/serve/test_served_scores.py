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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from disranker.cli import main
from disranker.export.scorer import OnnxScorer
from disranker.models.bundle import save_bundle
from disranker.models.scorer import Scorer
from disranker.schema import Pair
from disranker.serve.load import main as load_main
from disranker.serve.load import percentile
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
    export(bundle, out)
    return out


async def ask(one: httpx2.AsyncClient, query: str, documents: list[dict[str, str]]) -> list[float]:
    """The raw scores of the documents as they were sent."""
    answer = await one.post("/rerank", json={"query": query, "texts": documents, "raw_scores": True})
    assert answer.status_code == 200, answer.text
    scores = {one["index"]: one["score"] for one in answer.json()}
    return [scores[index] for index in range(len(documents))]


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_served_scores_are_those_of_the_scorer(kind: str, bundle: Path, exported: Path) -> None:
    def load(**budget: int) -> Any:
        return Scorer.load(bundle, **budget) if kind == "torch" else OnnxScorer.load(exported)

    sent = requests(0, 24)

    async def run() -> tuple[list[list[float]], list[list[float]]]:
        async with client(load(), tokens_per_batch=256, wait_seconds=0.01, max_queued_pairs=1000) as one:
            together = await asyncio.gather(*(ask(one, *request) for request in sent))
            return together, [await ask(one, *request) for request in sent[:6]]

    together, alone = asyncio.run(run())
    offline = load()
    whole = offline.score([pair for request in sent for pair in pairs_of(*request)])
    assert float(whole.std()) > 0.1
    np.testing.assert_allclose(np.concatenate(together), whole, rtol=0, atol=TOLERANCE)
    # Alone in its batches, which are those of the scorer itself, a request's numbers are added up in the same order.
    offline = load(tokens_per_batch=256)
    for scores, request in zip(alone, sent, strict=False):
        expected = offline.score(pairs_of(*request))
        assert np.array_equal(np.array(scores, dtype=np.float32), expected)


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
    found: dict[str, Any] = {}

    def work(host: str, port: int) -> None:
        body = {"model": "mine", "query": "zor", "documents": ["melu tiv", "gon", "bax bax"], "raw_scores": True}
        found["answer"] = get(host, port, "/v1/rerank", body)
        found["metrics"] = get(host, port, "/metrics")[1].decode()
        small = ["--clients", "2", "--seconds", "0.2", "--documents", "3", "--words", "4"]
        found["load"] = load_main([f"http://{host}:{port}", *small])

    assert run_command([str(exported), "--name", "mine", "--threads", "1", *cascade], work) == 0
    status, answer = found["answer"]
    scores = OnnxScorer.load(exported).score([Pair("zor", "", text) for text in ("melu tiv", "gon", "bax bax")])
    assert status == 200
    assert [one["index"] for one in json.loads(answer)["results"]] == np.argsort(-scores).tolist()
    served = [one["relevance_score"] for one in json.loads(answer)["results"]]
    assert served == pytest.approx(sorted(scores, reverse=True), abs=TOLERANCE)
    assert 'disranker_scored_pairs_total{ranker="teacher"} 3.0' in found["metrics"]
    assert found["load"] == 0
    assert len(file.read_text("utf-8").splitlines()) >= 3
    out = capfd.readouterr().out
    assert re.search(r"^serving .* as 'mine':\n  ranker   onnxruntime, cpu, 0\.0 M parameters; full batches at ", out)
    assert re.search(r"^  teacher  torch, cpu, float32, ", out, re.MULTILINE)
    assert re.search(r"^listening on http://127\.0\.0\.1:\d+ ", out, re.MULTILINE)
    assert re.search(r"^clients +requests/s .*\n +2 +\d+\.\d +\d+ +\d+\.\d +\d+\.\d +\d+\.\d$", out, re.MULTILINE)
    assert re.search(r"^stopped after ranking [\d,]+ documents$", out, re.MULTILINE)


def test_faults_of_the_call_and_of_the_folder(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path), "--port", "0"]) == 1
    assert "is no bundle: it has no disranker.json" in capsys.readouterr().err
    assert main(["serve", str(exported), "--port", "0", "--dtype", "bfloat16"]) == 1
    assert "is an export, whose type was settled when it was made" in capsys.readouterr().err
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


def test_load_test_of_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert load_main([url, "--clients", "1", "--seconds", "0.1"]) == 1
    assert "no answers: {'ConnectionRefusedError': " in capsys.readouterr().out
    assert load_main(["127.0.0.1:1", "--clients", "1", "--seconds", "0.1"]) == 1
    assert "is no address like http://127.0.0.1:8000" in capsys.readouterr().err
