"""Load test of a server: requests a second and latencies by number of clients, for a bounded time.

    python -m disranker.serve.load http://127.0.0.1:8000 --clients 1 4 16 --seconds 5

Each client sends its next request when the last one is answered, over one connection.  Requests are made of words, so
that every server gets the same; real ones are read from a file of candidates.  It says nothing of quality.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

_WORDS = ("red", "blue", "light", "road", "winter", "shoes", "boots", "running", "waterproof", "price", "size", "snow")
_MAX_PAIRS = 20_000


@dataclass(slots=True)
class Load:
    """What came of one number of clients."""

    num_clients: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """seconds of each request that was answered with 200"""
    num_documents: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """other status codes and broken connections, by how often"""

    def __str__(self) -> str:
        if not self.latencies:
            return f"{self.num_clients:>7}  no answers: {dict(self.failures)}"
        p50, p95, p99 = (percentile(self.latencies, share) * 1000 for share in (0.5, 0.95, 0.99))
        other = f"  other: {dict(self.failures)}" if self.failures else ""
        speeds = f"{len(self.latencies) / self.seconds:>10.1f} {self.num_documents / self.seconds:>11.0f}"
        return f"{self.num_clients:>7} {speeds} {p50:>9.1f} {p95:>9.1f} {p99:>9.1f}{other}"


HEADER = "clients requests/s documents/s    p50 ms    p95 ms    p99 ms"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, int(np.ceil(share * len(ordered))) - 1)]


def run_load(url: str, bodies: Sequence[bytes], num_documents: Sequence[int], num_clients: int, seconds: float) -> Load:
    """Send bodies in turn from so many clients for so long; requests under way at the end are waited for and counted.

    Raises:
        ValueError: the address is no http address with a host.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url} is no address like http://127.0.0.1:8000")
    host, port = parts.hostname, parts.port or 80
    load, lock = Load(num_clients), threading.Lock()
    began = time.perf_counter()

    def work(client: int) -> None:
        connection = http.client.HTTPConnection(host, port, timeout=60)
        # Clients start at different bodies, so that what is sent at once is mixed.
        at = client * len(bodies) // num_clients
        while time.perf_counter() - began < seconds:
            body = bodies[at % len(bodies)]
            sent = time.perf_counter()
            try:
                connection.request(
                    "POST", f"{parts.path.rstrip('/')}/rerank", body, {"Content-Type": "application/json"}
                )
                answer = connection.getresponse()
                answer.read()
                outcome = str(answer.status)
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
            if outcome != "200":
                time.sleep(0.05)  # a client that is turned away comes back in a moment, as it was asked to
            at += 1
        connection.close()

    threads = [threading.Thread(target=work, args=(client,)) for client in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - began
    return load


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the load test of the command line; 1 when a request had no answer."""
    parser = argparse.ArgumentParser(
        prog="python -m disranker.serve.load",
        description="Requests a second and latencies of a server.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("url", help="such as http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16], help="clients at once, one run each")
    parser.add_argument("--seconds", type=float, default=5.0, help="time of each run")
    parser.add_argument("--documents", type=int, default=20, help="documents of a request")
    parser.add_argument("--words", type=int, default=60, help="words of a document on average")
    parser.add_argument("--candidates", type=Path, help="take queries and documents from this file instead")
    args = parser.parse_args(argv)
    if min(*args.clients, args.seconds, args.documents, args.words, 1) <= 0 or max(args.clients) > 256:
        parser.error("clients are 1 to 256; seconds, documents and words are above 0")
    try:
        requests = (
            made_requests(args.documents, args.words)
            if args.candidates is None
            else read_requests(args.candidates, args.documents)
        )
        bodies = [json.dumps({"query": query, "texts": texts}).encode() for query, texts in requests]
        print(HEADER)
        failed = False
        for num_clients in args.clients:
            load = run_load(args.url, bodies, [len(texts) for _, texts in requests], num_clients, args.seconds)
            print(load, flush=True)
            failed |= not load.latencies or bool(set(load.failures) - {"429"})
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
