"""From the pairs of a request to an order: the ranker's batches, and the cascade where it is set.  No HTTP here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disranker.config.serve import ServedCascadeConfig
from disranker.schema import Pair
from disranker.serve.batching import Batcher, QueueFull, Scored, Stopped
from disranker.serve.cascade import UncertainFile, find_uncertain, merge
from disranker.serve.metrics import Metrics

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ranked:
    """The answer to a request."""

    order: list[int]
    """Documents by index, best first."""
    scores: NDArray[np.float32]
    """[documents] raw logits, which fall along the order."""
    num_tokens: int
    """Tokens that rankers read for it."""


class Reranker:
    """Ranks the documents of requests; the teacher looks again at what the student is not sure of."""

    def __init__(
        self,
        student: Batcher,
        metrics: Metrics,
        *,
        cascade: ServedCascadeConfig | None = None,
        teacher: Batcher | None = None,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.metrics = metrics
        self._cascade = cascade
        self._file: UncertainFile | None = None
        if cascade is not None and cascade.uncertain_file is not None:
            self._file = UncertainFile(cascade.uncertain_file, max_bytes=cascade.max_bytes)
        # A disk that is slow for a moment holds up no answer.
        self._writing = ThreadPoolExecutor(1, "write")
        metrics.queued_pairs.labels("student").set_function(lambda: student.num_queued_pairs)
        if teacher is not None:
            metrics.queued_pairs.labels("teacher").set_function(lambda: teacher.num_queued_pairs)

    def start(self) -> None:
        """Begin to take requests, in the running event loop."""
        for batcher in self._batchers():
            batcher.start()

    async def stop(self) -> None:
        """Finish what was taken, and end all threads."""
        for batcher in self._batchers():
            await batcher.stop()
        self._writing.shutdown()

    async def rank(self, pairs: Sequence[Pair]) -> Ranked:
        """The documents of one query in order.

        Raises:
            QueueFull, Stopped: as `Batcher.score` does, for the student.
        """
        scored = await self.student.score(pairs)
        order: list[int] = np.argsort(-scored.scores, kind="stable").tolist()
        scores, num_tokens = scored.scores, scored.num_tokens
        uncertain = self._find_uncertain(scored.scores)
        chosen = [pairs[index] for index in uncertain]
        if uncertain and self.teacher is not None:
            looked_at = await self._look_again(chosen)
            if looked_at is None:
                # The student's order is a good answer, and better than none.
                uncertain = []
            else:
                num_tokens += looked_at.num_tokens
                order, scores = merge(scored.scores, uncertain, looked_at.scores)
                self._write(chosen, scored.scores[uncertain], looked_at.scores)
        elif uncertain:
            self._write(chosen, scored.scores[uncertain], None)
        self.metrics.answer(len(pairs), len(uncertain))
        return Ranked(order, scores, num_tokens)

    async def _look_again(self, pairs: Sequence[Pair]) -> Scored | None:
        """What the teacher says of these pairs; None when it has no room or no time for them, or fails."""
        assert self.teacher is not None and self._cascade is not None
        try:
            async with asyncio.timeout(self._cascade.seconds):
                return await self.teacher.score(pairs)
        except (QueueFull, Stopped):
            self.metrics.left_to_the_student("full")
        except TimeoutError:
            self.metrics.left_to_the_student("late")
        except Exception as error:
            self.metrics.left_to_the_student("failed")
            _log.error("the teacher failed, and the student's order was the answer: %r", error)
        return None

    def _find_uncertain(self, scores: NDArray[np.float32]) -> list[int]:
        config = self._cascade
        if config is None:
            return []
        return find_uncertain(
            scores, rule=config.rule, threshold=config.threshold, cut=config.cut, max_documents=config.documents
        )

    def _write(
        self, pairs: Sequence[Pair], scores: NDArray[np.float32], teacher_scores: NDArray[np.float32] | None
    ) -> None:
        if self._file is None:
            return
        found = None if teacher_scores is None else teacher_scores.tolist()
        writing = asyncio.get_running_loop().run_in_executor(
            self._writing, self._file.append, list(pairs), scores.tolist(), found
        )
        writing.add_done_callback(self._written)

    def _written(self, writing: asyncio.Future[int]) -> None:
        if writing.cancelled():
            return
        error = writing.exception()
        if error is None:
            self.metrics.written(writing.result())
        else:
            # A full disk must not take the answers with it.
            _log.error("uncertain pairs were not written: %s", error)

    def _batchers(self) -> list[Batcher]:
        return [batcher for batcher in (self.student, self.teacher) if batcher is not None]
