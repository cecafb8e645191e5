"""What clients do to a connection: hang up, send slowly or nothing, stay while the server stops."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import httpx2
import pytest

from disranker.config.serve import LimitsConfig
from tests.serve.serving import Listening, WordScorer, listening

BODY = {"query": "q", "texts": ["good", "bad"]}


def request_of(body: Any) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"\r\n" + content


def read_all(server: Listening, sent: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    with server.connect() as connection:
        connection.sendall(sent)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


def test_a_client_that_hangs_up_harms_nobody() -> None:
    with listening(WordScorer({"good": 1.0})) as server:
        whole = request_of({"query": "q", "texts": ["good"] * 50})
        for sent in (whole, whole[:-20], b"no http at all\r\n\r\n", b""):
            with server.connect() as connection:
                connection.sendall(sent)
        assert httpx2.post(f"{server.url}/rerank", json=BODY, timeout=10).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"POST /rerank HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_connection_without_a_request_is_closed(sent: bytes) -> None:
    with listening(WordScorer(), limits=LimitsConfig(seconds=0.3)) as server:
        began = time.monotonic()
        assert read_all(server, sent) == b""
        assert 0.2 < time.monotonic() - began < 5
        with httpx2.Client(base_url=server.url) as client:  # whoever has asked before may be silent
            assert client.post("/rerank", json=BODY).status_code == 200
            time.sleep(0.5)
            assert client.post("/rerank", json=BODY).status_code == 200


def test_a_slow_body_is_refused_and_its_connection_closed() -> None:
    with listening(WordScorer(), limits=LimitsConfig(seconds=0.3)) as server:
        received = read_all(server, request_of(BODY)[:-5])
        assert received.startswith(b"HTTP/1.1 408 ")
        assert b"the body did not come within 0.3 s" in received


def test_a_stop_lets_running_requests_finish() -> None:
    scorer = WordScorer({"good": 1.0})
    scorer.gate.clear()
    answers: list[int] = []
    with listening(scorer) as server:
        asking = threading.Thread(
            target=lambda: answers.append(httpx2.post(f"{server.url}/rerank", json=BODY, timeout=20).status_code)
        )
        asking.start()
        while not scorer.batches:
            time.sleep(0.005)
        server.stop()
        time.sleep(0.3)
        with pytest.raises(OSError):  # by now nobody else is let in
            server.connect()
        scorer.gate.set()
        asking.join(20)
    assert answers == [200]


def test_a_stop_does_not_wait_for_ever() -> None:
    # 500 batches of 20 ms for one client; another one that never sends the rest of its body.
    scorer = WordScorer({"good": 1.0}, seconds=0.02)
    with listening(scorer, stop_seconds=1) as server, server.connect() as slow, server.connect() as long:
        slow.sendall(request_of(BODY)[:-5])
        long.sendall(request_of({"query": "q", "texts": ["good " * 62] * 500}))
        while not scorer.batches:
            time.sleep(0.005)
        server.stop()
        began = time.monotonic()
        server.join()
        assert time.monotonic() - began < 6
    assert len(scorer.batches) < 300
