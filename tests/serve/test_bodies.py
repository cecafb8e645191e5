"""Bodies that nobody thought of: whatever is sent, the answer is one of the documented ones, and comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from disranker.config.serve import LimitsConfig
from disranker.models.bundle import save_bundle
from disranker.models.scorer import Scorer
from tests.export.students import build
from tests.serve.serving import client, listening

# Any code point, halves of surrogate pairs too: JSON can spell them all.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=30), st.sampled_from(["", " ", "zor bax", "\0"])
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(["text", "title", "summary", "id"]), st.one_of(TEXTS, ANYTHING), max_size=3)
DOCUMENTS = st.one_of(
    st.lists(st.one_of(TEXTS, OBJECTS), max_size=5), st.lists(TEXTS, min_size=1, max_size=5), ANYTHING
)
NEARLY_RIGHT = st.fixed_dictionaries(
    {"query": st.one_of(st.just("zor"), TEXTS, ANYTHING)},
    optional={
        "texts": DOCUMENTS,
        "documents": DOCUMENTS,
        "model": st.one_of(st.sampled_from(["ours", "", None]), ANYTHING),
        "top_n": st.one_of(st.integers(-2, 5), ANYTHING),
        "raw_scores": st.one_of(st.booleans(), ANYTHING),
        "return_documents": st.one_of(st.booleans(), ANYTHING),
        "return_text": st.one_of(st.booleans(), ANYTHING),
        "unheard_of": ANYTHING,
    },
)
WHOLE_TEXTS = st.text(max_size=30)
FIELDS = st.fixed_dictionaries({"title": WHOLE_TEXTS}, optional={"summary": WHOLE_TEXTS, "id": ANYTHING})
RIGHT = st.fixed_dictionaries(
    {"query": st.sampled_from(["zor", "bax melu", "查询"])},
    optional={"top_n": st.integers(0, 5), "raw_scores": st.booleans(), "return_documents": st.booleans()},
).flatmap(
    lambda body: st.lists(st.one_of(WHOLE_TEXTS, FIELDS), min_size=1, max_size=5).flatmap(
        lambda items: st.sampled_from([{**body, "texts": items, "return_text": True}, {**body, "documents": items}])
    )
)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    folder = tmp_path_factory.mktemp("ranker")
    save_bundle(folder, *build("bert"), {})
    return Scorer.load(folder)


def test_any_body_has_a_documented_answer(scorer: Scorer) -> None:
    limits = LimitsConfig(documents=4, query_chars=20, document_chars=25, queued_pairs=4)
    statuses = set()
    with asyncio.Runner() as runner:
        context = client(scorer, limits=limits)
        one = runner.run(context.__aenter__())

        @given(st.one_of(RIGHT, NEARLY_RIGHT, ANYTHING), st.sampled_from(["/rerank", "/v1/rerank", "/v2/rerank"]))
        @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def send(body: Any, path: str) -> None:
            headers = {"content-type": "application/json"}
            answer = runner.run(one.post(path, content=json.dumps(body).encode(), headers=headers))
            statuses.add(answer.status_code)
            found = answer.json()
            if answer.status_code != 200:
                assert answer.status_code in (404, 413, 422)
                assert found["message"]
                return
            results = found if isinstance(found, list) else found["results"]
            scores = [result["score" if isinstance(found, list) else "relevance_score"] for result in results]
            assert scores == sorted(scores, reverse=True)
            sent = body["texts"] if isinstance(found, list) else body["documents"]
            assert len({result["index"] for result in results}) == len(results) <= len(sent)

        try:
            send()
        finally:
            runner.run(context.__aexit__(None, None, None))
    assert {200, 413, 422} <= statuses, "the bodies do not reach everything that they are to reach"


@pytest.fixture(scope="module")
def address(scorer: Scorer) -> Iterator[str]:
    with listening(scorer) as server:
        yield server.url


@pytest.mark.slow
def test_the_openapi_page_is_kept(address: str) -> None:
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 6
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    for operation in operations:

        @given(operation.as_strategy())
        @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def hold(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=checks, timeout=10)

        hold()
