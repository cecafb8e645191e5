"""Pairs to scores with onnxruntime: `Scorer`'s interface over an export folder, on the CPU.

Pairs are encoded by the same `PairEncoder`, sorted by length and padded only to the longest of a batch of nearly equal
lengths; what comes back is in the order of what went in.  No weight is read through torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from disranker.models.bundle import load_encoder, read_facts
from disranker.schema import Pair
from disranker.text.encode import PairEncoder, Tokens

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ONNX_MODEL = Path("onnx", "model.onnx")

_TOKENS_PER_BATCH = 2048
"""Padded tokens: enough to keep the matrix products busy, few enough for their results to stay in the cache."""
_MAX_PADDING = _TOKENS_PER_BATCH // 8
"""Padding tokens of a batch; a longer tail of shorter pairs begins a new one."""


class OnnxScorer:
    """Scores pairs with an exported ranker; `OnnxScorer.load(path).score(pairs)` is the whole interface."""

    def __init__(self, session: InferenceSession, encoder: PairEncoder, *, num_parameters: int) -> None:
        self.session = session
        self.encoder = encoder
        self.num_parameters = num_parameters
        self._input_names = tuple(node.name for node in session.get_inputs())

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> Self:
        """The scorer of an export folder; `threads` of one forward pass, by default as many as torch would use.

        Raises:
            ValueError: the folder is no export of disranker, or its template has changed.
            ImportError: onnxruntime is not installed.
        """
        facts = read_facts(path)
        file = Path(path, ONNX_MODEL)
        if not file.exists():
            raise ValueError(f"{path} is no export: it has no {ONNX_MODEL}; distill/export.py makes one from a bundle")
        session = open_session(file, threads)
        return cls(session, load_encoder(path, facts), num_parameters=facts["num_parameters"])

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """[len(pairs)] raw logits; a pair is (query, title, summary)."""
        return self.score_tokens(self.encoder.encode([Pair(*pair) for pair in pairs]))

    def score_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        """[len(tokens)] raw logits of pairs that are encoded already."""
        scores = np.empty(len(tokens), dtype=np.float32)
        for batch in length_batches([len(pair.ids) for pair in tokens]):
            inputs = pad([tokens[index] for index in batch], self.encoder.tokenizer.pad_token_id)
            (logits_B1,) = self.session.run(None, {name: inputs[name] for name in self._input_names})
            scores[batch] = np.asarray(logits_B1)[:, 0]
        return scores


def open_session(file: Path, threads: int | None = None) -> InferenceSession:
    """An onnxruntime session on the CPU that says nothing but errors.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("onnxruntime is not installed: pip install 'disranker[export]'") from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def length_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches, longest first: padded tokens and padding of a batch are bounded; each batch has a pair."""
    batch: list[int] = []
    longest = filled = 0
    for index in np.argsort([-length for length in lengths], kind="stable").tolist():
        padded = (len(batch) + 1) * longest
        padding = padded - filled - lengths[index]
        if batch and (padded > _TOKENS_PER_BATCH or padding > _MAX_PADDING):
            yield batch
            batch, filled = [], 0
        if not batch:
            longest = lengths[index]
        batch.append(index)
        filled += lengths[index]
    if batch:
        yield batch


def pad(tokens: Sequence[Tokens], pad_token_id: int) -> dict[str, NDArray[Any]]:
    """`input_ids`, `attention_mask` and `token_type_ids`, [batch, longest] int64, as stock tokenizers give them."""
    shape = (len(tokens), max(len(pair.ids) for pair in tokens))
    ids = np.full(shape, pad_token_id, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    types = np.zeros(shape, dtype=np.int64)
    for row, pair in enumerate(tokens):
        length = len(pair.ids)
        ids[row, :length] = pair.ids
        mask[row, :length] = 1
        types[row, pair.second : length] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
