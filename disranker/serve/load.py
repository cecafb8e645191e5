"""Load test of servers: requests a second and latencies by number of clients, for a bounded time.

    python -m disranker.serve.load http://127.0.0.1:8000 --clients 1 4 16 --seconds 5
    python -m disranker.serve.load ours=http://127.0.0.1:8000 other=http://127.0.0.1:9000 --rounds 3 --out load.json

Each client sends its next request when the last one is answered, over one connection.  Several servers take turns, so
that what else the machine does meets all of them; their scores are compared first.  Requests are made of words, so that
every server gets the same; real ones are read from a file of candidates.  It says nothing of quality.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from disranker.shards import write_json

_WORDS = ("red", "blue", "light", "road", "winter", "shoes", "boots", "running", "waterproof", "price", "size", "snow")
_MAX_PAIRS = 20_000
_HEADERS = {"Content-Type": "application/json"}

Requests = Sequence[tuple[str, Sequence[str]]]
"""Queries, each with its documents."""


@dataclass(slots=True)
class Load:
    """What came of one number of clients in one run."""

    num_clients: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """seconds of each request that was answered with 200"""
    num_documents: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """other status codes and broken connections, by how often"""


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one number of clients of one server in all its runs."""

    server: str
    clients: int
    requests: int
    requests_per_second: float
    documents_per_second: float
    """median of the runs; `least` and `most` are the slowest and the fastest of them"""
    least: float
    most: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failures: dict[str, int]

    def __str__(self) -> str:
        if not self.requests:
            return f"{self.server:<12} {self.clients:>7}  no answers: {self.failures}"
        other = f"  other: {self.failures}" if self.failures else ""
        speeds = (
            f"{self.requests_per_second:>10.1f} {self.documents_per_second:>11.0f} {self.least:>8.0f} {self.most:>8.0f}"
        )
        latencies = f"{self.p50_ms:>9.1f} {self.p95_ms:>9.1f} {self.p99_ms:>9.1f}"
        return f"{self.server:<12} {self.clients:>7} {speeds} {latencies}{other}"


HEADER = f"{'server':<12} clients requests/s documents/s    least     most    p50 ms    p95 ms    p99 ms"


def summarize(server: str, loads: Sequence[Load]) -> Row:
    """One row of the runs of a server with the same number of clients; latencies of all runs are taken together."""
    latencies = [seconds * 1000 for load in loads for seconds in load.latencies]
    speeds = [load.num_documents / load.seconds for load in loads]
    p50, p95, p99 = (percentile(latencies, share) if latencies else 0.0 for share in (0.5, 0.95, 0.99))
    return Row(
        server=server,
        clients=loads[0].num_clients,
        requests=len(latencies),
        requests_per_second=statistics.median(len(load.latencies) / load.seconds for load in loads),
        documents_per_second=statistics.median(speeds),
        least=min(speeds),
        most=max(speeds),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        failures=dict(sum((load.failures for load in loads), Counter())),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, int(np.ceil(share * len(ordered))) - 1)]


def run_load(url: str, bodies: Sequence[bytes], num_documents: Sequence[int], num_clients: int, seconds: float) -> Load:
    """Send bodies in turn from so many clients for so long; requests under way at the end are waited for and counted.

    Raises:
        ValueError: the address is no http address with a host.
    """
    host, port, path = _address(url)
    load, lock = Load(num_clients), threading.Lock()
    began = time.perf_counter()

    def work(client: int) -> None:
        connection = http.client.HTTPConnection(host, port, timeout=60)
        # Clients start at different bodies, so that what is sent at once is mixed.
        at = client * len(bodies) // num_clients
        while time.perf_counter() - began < seconds:
            body = bodies[at % len(bodies)]
            sent, pause = time.perf_counter(), 0.05
            try:
                connection.request("POST", path, body, _HEADERS)
                answer = connection.getresponse()
                answer.read()
                outcome = str(answer.status)
                asked = answer.getheader("Retry-After", "")
                pause = float(asked) if asked.isdigit() else pause  # it may be a date, too
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                outcome = type(error).__name__
            took = time.perf_counter() - sent
            with lock:
                if outcome == "200":
                    load.latencies.append(took)
                    load.num_documents += num_documents[at % len(bodies)]
                else:
                    load.failures[outcome] += 1
            if outcome != "200":  # a client that is turned away comes back when it was asked to, if that is in time
                time.sleep(max(0.0, min(pause, began + seconds - time.perf_counter())))
            at += 1
        connection.close()

    threads = [threading.Thread(target=work, args=(client,)) for client in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - began
    return load


def ask_scores(url: str, body: Mapping[str, Any]) -> list[float]:
    """The raw scores of a request's documents, as they were sent; it warms a server up, too.

    Raises:
        ValueError: the server refused, or the address is none.
        OSError: there is no server.
    """
    host, port, path = _address(url)
    connection = http.client.HTTPConnection(host, port, timeout=120)
    try:
        connection.request("POST", path, json.dumps({**body, "raw_scores": True}), _HEADERS)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise ValueError(f"{url} answered {answer.status}: {content[:200]!r}")
        found = json.loads(content)
    finally:
        connection.close()
    results = found if isinstance(found, list) else found["results"]
    name = "score" if isinstance(found, list) else "relevance_score"
    return [one[name] for one in sorted(results, key=lambda one: one["index"])]


def run_servers(
    servers: Mapping[str, str],
    requests: Requests,
    *,
    clients: Sequence[int],
    seconds: float,
    rounds: int = 1,
    field_name: str = "documents",
) -> list[Row]:
    """Rows for each number of clients and each server (name -> address); servers take turns, `rounds` times each.

    Prints what it finds as it goes.

    Raises:
        ValueError: a server refuses the first request, or scores other documents than the first server.
        OSError: there is no server at an address.
    """
    bodies = [{"query": query, field_name: list(texts)} for query, texts in requests]
    expected: list[float] | None = None
    for name, url in servers.items():
        scores = ask_scores(url, bodies[0])
        if expected is None:
            expected = scores
            continue
        difference = max(abs(one - other) for one, other in zip(scores, expected, strict=True))
        print(f"largest difference of a raw score, {name} beside {next(iter(servers))}: {difference:.1e}")
    print(HEADER)
    encoded = [json.dumps(body).encode() for body in bodies]
    counts = [len(texts) for _, texts in requests]
    rows = []
    for num_clients in clients:
        loads = defaultdict(list)
        for _ in range(rounds):
            for name, url in servers.items():
                loads[name].append(run_load(url, encoded, counts, num_clients, seconds))
        for name in servers:
            rows.append(summarize(name, loads[name]))
            print(rows[-1], flush=True)
    return rows


def made_requests(num_documents: int, num_words: int, seed: int = 0) -> list[tuple[str, list[str]]]:
    """Sixteen queries with so many documents of about so many words each, the same for the same seed."""
    random = np.random.default_rng(seed)

    def text(count: int) -> str:
        return " ".join(random.choice(_WORDS, count))

    lengths = random.integers(max(1, num_words // 2), num_words * 3 // 2 + 1, (16, num_documents))
    return [(text(3), [text(int(length)) for length in row]) for row in lengths]


def read_requests(file: Path, num_documents: int) -> list[tuple[str, list[str]]]:
    """Queries with their first documents from a file of candidates.

    Raises:
        ValueError: the file has a fault, or no rows.
    """
    from disranker.data.readers import read_candidates
    from disranker.text.templates import document_text

    documents: dict[str, list[str]] = defaultdict(list)
    for row in islice(read_candidates(file), _MAX_PAIRS):
        if len(documents[row.query]) < num_documents:
            documents[row.query].append(document_text(row.title, row.summary))
    if not documents:
        raise ValueError(f"{file} has no rows: give a file of candidates")
    return list(documents.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say how much is sent."""
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16], help="clients at once, one run each")
    parser.add_argument("--seconds", type=float, default=5.0, help="time of each run")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each server with each number of clients")
    parser.add_argument("--documents", type=int, default=20, help="documents of a request")
    parser.add_argument("--words", type=int, default=60, help="words of a document on average")
    parser.add_argument("--candidates", type=Path, help="take queries and documents from this file instead")
    parser.add_argument("--out", type=Path, help="write what was found to this file, as JSON")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, all of them within bounds."""
    args = parser.parse_args(argv)
    if min(*args.clients, args.seconds, args.rounds, args.documents, args.words) <= 0 or max(args.clients) > 256:
        parser.error("clients are 1 to 256; seconds, rounds, documents and words are above 0")
    return args


def run(args: argparse.Namespace, servers: Mapping[str, str], *, field_name: str = "documents") -> int:
    """Run the load test of parsed arguments; 1 when a server gave no answers, or others than 200 and 429."""
    requests = (
        made_requests(args.documents, args.words)
        if args.candidates is None
        else read_requests(args.candidates, args.documents)
    )
    sent = {"clients": args.clients, "seconds": args.seconds, "rounds": args.rounds}
    rows = run_servers(servers, requests, field_name=field_name, **sent)
    if args.out is not None:
        lengths = [len(text.split()) for _, texts in requests for text in texts]
        source = args.candidates and str(args.candidates)
        told = {**sent, "documents": args.documents, "words": statistics.mean(lengths), "candidates": source}
        write_json(args.out, {"requests": told, "rows": [asdict(row) for row in rows]})
    return int(any(not row.requests or set(row.failures) - {"429"} for row in rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the load test of the command line; 1 when a request had no answer."""
    parser = argparse.ArgumentParser(
        prog="python -m disranker.serve.load",
        description="Requests a second and latencies of servers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("servers", nargs="+", metavar="[NAME=]URL", help="such as http://127.0.0.1:8000")
    parser.add_argument(
        "--field", choices=("documents", "texts"), default="documents", help="where documents are: TEI takes texts"
    )
    add_arguments(parser)
    args = parse(parser, argv)
    named = [server.partition("=") if "=" in server else ("server", "=", server) for server in args.servers]
    servers = {name: url for name, _, url in named}
    if len(servers) < len(args.servers):
        parser.error("give each server a name of its own: NAME=URL")
    try:
        return run(args, servers, field_name=args.field)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _address(url: str) -> tuple[str, int, str]:
    """Host, port and path of a server's rerank requests."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url} is no address like http://127.0.0.1:8000")
    return parts.hostname, parts.port or 80, f"{parts.path.rstrip('/')}/rerank"


if __name__ == "__main__":
    sys.exit(main())
