"""What the server counts, as Prometheus text; a registry of its own, so that two servers in a process do not mix."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)
_REQUESTS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server; `text` is what `/metrics` answers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests by path and HTTP status", ["path", "status"])
        self._seconds = self._histogram("request_seconds", "Seconds until the answer", ["path"], _SECONDS)
        self._documents = self._counter("documents", "Documents of answered requests", [])
        self._uncertain = self._counter("uncertain_documents", "Of these, documents that the cascade took up", [])
        self._left = self._counter("teacher_skipped", "Requests that the teacher was to look at and did not", ["why"])
        self._kept = self._counter("uncertain_pairs_written", "Pairs appended to the file of uncertain pairs", [])
        self._pairs = self._counter("scored_pairs", "Pairs scored, by ranker (student, teacher)", ["ranker"])
        self._tokens = self._counter("scored_tokens", "Tokens of these pairs", ["ranker"])
        self._busy = self._counter("scoring_seconds", "Seconds spent scoring", ["ranker"])
        self._batch_tokens = self._histogram("batch_tokens", "Tokens of a batch", ["ranker"], _TOKENS)
        self._batch_requests = self._histogram("batch_requests", "Requests of a batch", ["ranker"], _REQUESTS)
        self.queued_pairs = Gauge(
            "disranker_queued_pairs", "Pairs without an answer yet", ["ranker"], registry=self.registry
        )
        self._info = Gauge(
            "disranker_ranker_info", "1, with what computes the scores", ["ranker", "backend"], registry=self.registry
        )
        self._share = Gauge(
            "disranker_uncertain_share", "Share of all documents that the cascade took up", registry=self.registry
        )
        self.num_documents = 0
        self.num_uncertain = 0

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def answer(self, num_documents: int, num_uncertain: int) -> None:
        """So many documents were ranked, and so many of them by the cascade."""
        self.num_documents += num_documents
        self.num_uncertain += num_uncertain
        self._documents.inc(num_documents)
        self._uncertain.inc(num_uncertain)
        self._share.set(self.num_uncertain / self.num_documents)

    def left_to_the_student(self, why: str) -> None:
        """The teacher did not look at a request: its queue was "full", it was "late", or it "failed"."""
        self._left.labels(why).inc()

    def backend(self, ranker: str, backend: str) -> None:
        """What computes the scores of a ranker."""
        self._info.labels(ranker, backend).set(1)

    def written(self, num_pairs: int) -> None:
        """So many pairs went into the file of uncertain pairs."""
        self._kept.inc(num_pairs)

    def of_ranker(self, ranker: str) -> RankerMetrics:
        """What the batches of one ranker are told to."""
        return RankerMetrics(self, ranker)

    def batch(self, ranker: str, num_pairs: int, num_tokens: int, num_requests: int, seconds: float) -> None:
        """A batch was scored."""
        self._pairs.labels(ranker).inc(num_pairs)
        self._tokens.labels(ranker).inc(num_tokens)
        self._busy.labels(ranker).inc(seconds)
        self._batch_tokens.labels(ranker).observe(num_tokens)
        self._batch_requests.labels(ranker).observe(num_requests)

    def text(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"disranker_{name}", f"{text}.", labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: list[str], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"disranker_{name}", f"{text}.", labels, buckets=buckets, registry=self.registry)


class RankerMetrics:
    """The metrics of one ranker's batches."""

    def __init__(self, metrics: Metrics, ranker: str) -> None:
        self.metrics = metrics
        self.ranker = ranker

    def batch(self, num_pairs: int, num_tokens: int, num_requests: int, seconds: float) -> None:
        """A batch was scored."""
        self.metrics.batch(self.ranker, num_pairs, num_tokens, num_requests, seconds)
