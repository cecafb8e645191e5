"""What other software gets from our server: each client reads the scores of torch, and the message of a refusal."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from disranker.models.scorer import Scorer
from disranker.schema import Pair
from tests.consumers.environments import SILENT, python_of
from tests.consumers.scores import Result, read_golden, sigmoid
from tests.consumers.serving import MODEL, start_server

CLIENTS = {
    "cohere 5, v2": ("cohere_v2.py", "clients"),
    "cohere 5, v1": ("cohere_v1.py", "clients"),
    "cohere 7, v2": ("cohere_v2.py", "haystack_clients"),
    "cohere 7, v1": ("cohere_v1.py", "haystack_clients"),
    "LangChain's client of Cohere": ("langchain_cohere_.py", "clients"),
    "LangChain's client of Jina": ("langchain_jina.py", "clients"),
    "LlamaIndex's clients of Cohere, Jina and TEI": ("llama_index_.py", "clients"),
    "rerankers' clients of Cohere, Jina and TEI": ("rerankers_.py", "clients"),
    "Haystack's clients of Cohere, Jina and TEI": ("haystack_.py", "haystack_clients"),
}
SPEECHLESS = {"rerankers' clients of Cohere, Jina and TEI": "KeyError"}
"""Clients that look at no refusal, and what they raise when there is one."""
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def address(export: Path) -> Iterator[str]:
    # The fastest variant may be one that rounds.
    with start_server(export, "--variant", "onnx") as found:
        yield found


def ask(client: str, address: str, model: str, query: str, documents: Sequence[str]) -> dict[str, Any]:
    script, environment = CLIENTS[client]
    command = [python_of(environment), Path(__file__).with_name("clients") / script, address, model]
    request = json.dumps({"query": query, "documents": list(documents)})
    variables = {**os.environ, **SILENT}
    done = subprocess.run(
        command, input=request, stdout=subprocess.PIPE, text=True, check=True, timeout=120, env=variables
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("client", CLIENTS)
def test_client_reads_the_scores_of_torch(client: str, address: str, export: Path, results: list[Result]) -> None:
    golden = read_golden(export)
    query, documents = golden[1].query, [pair.document for pair in golden]
    found = ask(client, address, MODEL, query, documents)
    assert found["error"] is None
    scores = Scorer.load(export).score([Pair(query, "", document) for document in documents]).tolist()
    difference = max(abs(one - sigmoid(score)) for one, score in zip(found["scores"], scores, strict=True))
    results.append(Result(client, found["versions"], "sigmoid", len(documents), difference))
    assert difference <= TOLERANCE


@pytest.mark.parametrize("client", CLIENTS)
def test_client_says_why_it_was_refused(client: str, address: str) -> None:
    found = ask(client, address, "another", "a query", ["a document", "another document"])
    assert found["scores"] is None
    assert SPEECHLESS.get(client, "model 'another' is not served here; 'ours' is") in found["error"]
