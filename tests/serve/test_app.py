from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest

from disranker.config.serve import LimitsConfig
from tests.serve.serving import WordScorer, client, until_scoring

VALUES = {"good": 2.0, "bad": -1.0}
GOOD, BAD = 1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(1.0))


def ask(work: Callable[[httpx2.AsyncClient], Awaitable[Any]], scorer: WordScorer | None = None, **changed: Any) -> Any:
    """What `work` returns when it is given a client of a running server."""

    async def run() -> Any:
        async with client(scorer or WordScorer(VALUES), **changed) as one:
            return await work(one)

    return asyncio.run(run())


def post(path: str, body: Any, **changed: Any) -> httpx2.Response:
    return ask(lambda one: one.post(path, json=body), **changed)


# --- shapes ---


def test_texts_are_answered_with_a_bare_list_of_all_best_first() -> None:
    answer = post("/rerank", {"query": "q", "texts": ["bad", "good", ""], "top_n": 1, "truncate": None, "model": "x"})
    assert answer.status_code == 200
    assert answer.json() == [
        {"index": 1, "score": pytest.approx(GOOD)},
        {"index": 2, "score": 0.5},
        {"index": 0, "score": pytest.approx(BAD)},
    ]


def test_texts_raw_and_with_their_text() -> None:
    body = {"query": "q", "texts": ["bad", {"title": "good", "summary": "x"}], "raw_scores": True, "return_text": True}
    assert post("/rerank", body).json() == [
        {"index": 1, "score": 2.0, "text": "x"},
        {"index": 0, "score": -1.0, "text": "bad"},
    ]


@pytest.mark.parametrize(("path", "version"), [("/rerank", "1"), ("/v1/rerank", "1"), ("/v2/rerank", "2")])
def test_documents_are_answered_with_results(path: str, version: str) -> None:
    body = {"model": "ours", "query": "q", "documents": ["bad", "good", "x"], "top_n": 2, "max_tokens_per_doc": None}
    answer = post(path, body).json()
    assert len(answer.pop("id")) == 32
    assert answer == {
        "model": "ours",
        "results": [
            {"index": 1, "relevance_score": pytest.approx(GOOD)},
            {"index": 2, "relevance_score": 0.5},
        ],
        "usage": {"total_tokens": 9},
        "meta": {"api_version": {"version": version}, "billed_units": {"search_units": 1}},
    }


def test_documents_in_fields_come_back_when_asked_for() -> None:
    documents = ["bad", {"text": "good"}, {"title": "good", "summary": "good"}, {"title": "t", "other": 1}]
    body = {"query": "q", "documents": documents, "return_documents": True, "raw_scores": True, "top_n": 0}
    assert [(r["index"], r["relevance_score"], r["document"]) for r in post("/v1/rerank", body).json()["results"]] == [
        (2, 4.0, {"text": "good", "title": "good"}),
        (1, 2.0, {"text": "good"}),
        (3, 0.0, {"text": "", "title": "t"}),
        (0, -1.0, {"text": "bad"}),
    ]


def test_equal_scores_stay_in_the_order_sent_and_extreme_ones_are_probabilities() -> None:
    scorer = WordScorer({"up": 1e6, "down": -1e6})
    found = post("/rerank", {"query": "q", "texts": ["x", "down", "up", "y", "up"]}, scorer=scorer).json()
    assert [(one["index"], one["score"]) for one in found] == [(2, 1.0), (4, 1.0), (0, 0.5), (3, 0.5), (1, 0.0)]


# --- refusals ---

LIMITS = LimitsConfig(documents=3, query_chars=10, document_chars=12, body_bytes=500, queued_pairs=4)
BAD_BODIES: list[tuple[str, Any, int, str]] = [
    ("/rerank", {}, 422, "query: Field required; documents: Field required"),
    ("/rerank", [], 422, "body: must be a JSON object, sent as application/json"),
    ("/v1/rerank", "text", 422, "body: must be a JSON object, sent as application/json"),
    ("/rerank", {"query": "", "texts": ["a"]}, 422, "query is empty: there is nothing to rank by"),
    ("/v2/rerank", {"query": " \n", "documents": ["a"]}, 422, "query is empty: there is nothing to rank by"),
    ("/rerank", {"query": 3, "texts": ["a"]}, 422, "query: must be a valid string"),
    ("/rerank", {"query": "a", "texts": []}, 422, "texts: List should have at least 1 item after validation, not 0"),
    ("/v1/rerank", {"query": "a", "documents": "b"}, 422, "documents: must be a valid list"),
    (
        "/rerank",
        {"query": 1, "texts": ["a", 1, None]},
        422,
        "query: must be a valid string; texts.1: must be a valid string",
    ),
    ("/rerank", {"query": "a", "texts": [{}]}, 422, "texts.0: a document that is an object needs text, title or summ"),
    ("/v1/rerank", {"query": "a", "documents": [{"text": 1}]}, 422, "documents.0.text: must be a valid string"),
    (
        "/v1/rerank",
        {"query": "a", "documents": [{"text": "", "summary": ""}]},
        422,
        "documents.0: a document has either",
    ),
    ("/v1/rerank", {"query": "a", "documents": ["a"], "top_n": -1}, 422, "top_n: must be greater than or equal to 0"),
    ("/v1/rerank", {"query": "a", "documents": ["a"], "top_n": "2"}, 422, "top_n: must be a valid integer"),
    ("/v1/rerank", {"query": "a", "documents": ["a"], "raw_scores": 1}, 422, "raw_scores: must be a valid boolean"),
    ("/v1/rerank", {"query": "a", "documents": ["a"], "model": "b"}, 404, "model 'b' is not served here; 'ours' is"),
    (
        "/v1/rerank",
        {**dict.fromkeys(["query", "model", "documents"], 1), **dict.fromkeys(["raw_scores", "return_documents"], 1)}
        | {"top_n": -1},
        422,
        "; and 1 more",
    ),
    ("/rerank", {"query": "a" * 11, "texts": ["a"]}, 413, "query has 11 characters, and 10 are allowed"),
    ("/rerank", {"query": "a", "texts": ["a"] * 4}, 413, "4 documents, and 3 are allowed: send fewer at once"),
    (
        "/rerank",
        {"query": "a", "texts": ["a", {"title": "b" * 6, "text": "c" * 7}]},
        413,
        "document 1 has 13 characters",
    ),
    ("/rerank", {"query": "a", "texts": ["a" * 600]}, 413, "the body has more than the 500 bytes that are allowed"),
    ("/rerank/", {"query": "a", "texts": ["a"]}, 404, "there is no '/rerank/' here"),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), BAD_BODIES)
def test_bad_bodies(path: str, body: Any, status: int, message: str) -> None:
    scorer = WordScorer(VALUES)
    answer = post(path, body, scorer=scorer, limits=LIMITS)
    assert (answer.status_code, message in answer.json()["message"]) == (status, True), answer.text
    # Every family's client finds the message under the name that it knows.
    assert set(answer.json()) == {"error", "error_type", "message", "detail"}
    assert answer.json()["error"] == answer.json()["detail"] == answer.json()["message"]
    assert scorer.batches == []


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"query": "\xff", "texts": ["a"]}', 400),
        (b'{"query": "a", "texts": [' + b"9" * 5000 + b"]}", 400),
        (b'{"query": "a", "texts": [1e999, NaN, -Infinity]}', 422),
        (b'{"query": "a", "texts": ["\\udfff"]}', 422),
    ],
)
def test_what_is_no_json(content: bytes, status: int) -> None:
    sent = {"content": content, "headers": {"content-type": "application/json"}}
    answer = ask(lambda one: one.post("/rerank", **sent))
    assert answer.status_code == status
    assert answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"query": "q", "texts": ["a"] * 10_000}, 413, "10,000 documents, and 1,000 are allowed: send fewer at once"),
        ({"query": "q", "documents": ["a"] * 300_000}, 413, "300,000 documents, and 1,000 are allowed"),
        ({"query": "q", "texts": ["a", "b" * 1_000_000]}, 413, "document 1 has 1,000,000 characters, and 100,000 are"),
        ({"query": "q" * 1_000_000, "texts": ["a"]}, 413, "query has 1,000,000 characters, and 4,000 are allowed"),
        # Every one of these is a fault; a list of them all would take half a minute.
        ({"query": "q", "documents": [1] * 500_000}, 422, "documents.0: must be a valid string"),
        ({"query": "q", "texts": [{}] * 300_000}, 422, "texts.0: a document that is an object needs text"),
    ],
)
def test_too_much_of_everything_is_refused_at_once(body: Any, status: int, message: str) -> None:
    scorer = WordScorer(VALUES)
    began = time.process_time()
    answer = post("/rerank", body, scorer=scorer)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["message"]
    assert time.process_time() - began < 5
    assert scorer.batches == []


def test_a_body_that_does_not_say_its_length_is_cut_short() -> None:
    sent = 0

    async def chunks() -> Any:
        nonlocal sent
        for _ in range(1000):
            sent += 100
            yield b" " * 100

    headers = {"content-type": "application/json"}
    answer = ask(lambda one: one.post("/rerank", content=chunks(), headers=headers), limits=LIMITS)
    assert answer.status_code == 413
    assert "500 bytes" in answer.json()["message"]


def test_other_methods_are_refused() -> None:
    answer = ask(lambda one: one.get("/rerank"))
    assert (answer.status_code, answer.json()["error_type"]) == (405, "method_not_allowed")


# --- load ---


def test_a_full_queue_is_answered_with_429_and_others_are_served() -> None:
    body = {"query": "q", "texts": ["good", "bad", "x"]}

    scorer = WordScorer(VALUES)
    scorer.gate.clear()

    async def work(one: httpx2.AsyncClient) -> list[httpx2.Response]:
        sent = [asyncio.create_task(one.post("/rerank", json=body)) for _ in range(4)]
        while sum(task.done() for task in sent) < 2:
            await asyncio.sleep(0.002)
        scorer.gate.set()
        return await asyncio.gather(*sent)

    answers = ask(work, scorer=scorer, max_queued_pairs=6)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error_type"] == "overloaded"


def test_more_requests_than_there_may_be_are_turned_away_but_not_who_asks_how_things_are() -> None:
    scorer = WordScorer(VALUES)
    scorer.gate.clear()
    body = {"query": "q", "texts": ["good"]}

    async def work(one: httpx2.AsyncClient) -> list[httpx2.Response]:
        first = asyncio.create_task(one.post("/rerank", json=body))
        await until_scoring(scorer)
        others = [await one.post("/rerank", json=body), await one.get("/health"), await one.get("/metrics")]
        scorer.gate.set()
        return [await first, *others, await one.post("/rerank", json=body)]

    answers = ask(work, scorer=scorer, limits=LimitsConfig(requests=1))
    assert [answer.status_code for answer in answers] == [200, 429, 200, 200, 200]
    assert "1 requests are here" in answers[1].json()["message"]
    assert answers[1].headers["retry-after"] == "1"


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def chunks() -> Any:
        yield b'{"query": '
        await asyncio.sleep(60)

    headers = {"content-type": "application/json"}
    limits = LimitsConfig(seconds=0.05)
    answer = ask(lambda one: one.post("/rerank", content=chunks(), headers=headers), limits=limits)
    assert (answer.status_code, answer.json()["error_type"]) == (408, "timeout")
    assert "the body did not come within 0.05 s" in answer.json()["message"]
    assert answer.headers["connection"] == "close"


def test_what_takes_too_long_is_answered_with_503() -> None:
    limits = LimitsConfig(documents=10, queued_pairs=10, seconds=0.05)
    answer = post("/rerank", {"query": "q", "texts": ["good"]}, scorer=WordScorer(VALUES, seconds=0.2), limits=limits)
    assert answer.status_code == 503
    assert "no scores in time" in answer.json()["message"]


def test_a_client_that_hangs_up_gives_its_turn_to_others() -> None:
    scorer = WordScorer(VALUES)
    scorer.gate.clear()
    body = json.dumps({"query": "q", "texts": ["good"] * 40}).encode()

    async def work(one: httpx2.AsyncClient) -> str:
        messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            if len(messages) == 1:
                await until_scoring(scorer)
            return messages.pop(0)

        async def send(message: Any) -> None:
            pass

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/rerank", "headers": headers, "query_string": b""}
        await one._transport.app(scope, receive, send)
        scorer.gate.set()
        answer = await one.post("/rerank", json={"query": "q", "texts": ["good"]})
        assert answer.status_code == 200
        return (await one.get("/metrics")).text

    counted = ask(work, scorer=scorer, tokens_per_batch=3)
    assert 'disranker_requests_total{path="/rerank",status="499"} 1.0' in counted
    assert scorer.batches == [[3], [3]]


def test_a_ranker_that_breaks_is_a_500_with_a_message_and_the_next_request_is_served() -> None:
    scorer = WordScorer({**VALUES, "broken": 0.0})

    async def work(one: httpx2.AsyncClient) -> tuple[str, int]:
        with pytest.raises(RuntimeError, match="the model broke"):  # what uvicorn writes to its log
            await one.post("/rerank", json={"query": "q", "texts": ["broken"]})
        counted = (await one.get("/metrics")).text
        return counted, (await one.post("/rerank", json={"query": "q", "texts": ["good"]})).status_code

    counted, next_status = ask(work, scorer=scorer)
    assert 'disranker_requests_total{path="/rerank",status="500"} 1.0' in counted
    assert next_status == 200


# --- what operators ask for ---


def test_health_readiness_and_metrics() -> None:
    async def work(one: httpx2.AsyncClient) -> tuple[Any, Any, list[str]]:
        await one.post("/rerank", json={"query": "q", "texts": ["good good", "bad"]})
        await one.post("/v1/rerank", json={"query": "q", "documents": ["good"]})
        await one.post("/rerank", json={"query": "q"})
        await one.get("/never/heard/of")
        health, ready = await one.get("/health"), await one.get("/ready")
        return health.json(), ready.json(), (await one.get("/metrics")).text.splitlines()

    health, ready, lines = ask(work)
    assert health == {"status": "ok"}
    assert ready == {"status": "ready", "model": "ours", "backend": "words"}
    for line in [
        'disranker_requests_total{path="/rerank",status="200"} 1.0',
        'disranker_requests_total{path="/rerank",status="422"} 1.0',
        'disranker_requests_total{path="other",status="404"} 1.0',
        'disranker_request_seconds_count{path="/v1/rerank"} 1.0',
        "disranker_documents_total 3.0",
        'disranker_scored_pairs_total{ranker="student"} 3.0',
        'disranker_scored_tokens_total{ranker="student"} 10.0',
        'disranker_batch_requests_sum{ranker="student"} 2.0',
        'disranker_queued_pairs{ranker="student"} 0.0',
        "disranker_uncertain_share 0.0",
    ]:
        assert line in lines


def test_openapi_page_names_every_path_and_both_shapes() -> None:
    page = ask(lambda one: one.get("/openapi.json")).json()
    assert {"/rerank", "/v1/rerank", "/v2/rerank", "/health", "/ready", "/metrics"} == set(page["paths"])
    assert {"TextsRequest", "DocumentsRequest", "TextResult", "DocumentsAnswer", "ErrorAnswer"} <= set(
        page["components"]["schemas"]
    )
    assert ask(lambda one: one.get("/docs")).status_code == 200
