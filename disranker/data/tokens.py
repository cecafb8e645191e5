"""Encoded pairs on disk: texts are tokenized once, into an Arrow file that all ranks map into memory.

A table's name carries the hash of everything it depends on, so that a changed text, tokenizer, template or budget
makes a new file and never a stale hit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from disranker.schema import stable_seed
from disranker.shards import write_atomic
from disranker.text.encode import Tokens
from disranker.text.templates import Template, TextFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SCHEMA = pa.schema([("ids", pa.list_(pa.int32())), ("second", pa.int32()), ("num_cut", pa.int32())])
_ROWS_PER_BATCH = 8192

T = TypeVar("T")
Text = TypeVar("Text", contravariant=True)


class Encodes(Protocol[Text]):
    """An encoder of pairs or of texts; some make several rows of one text."""

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    max_query_tokens: int

    @property
    def template(self) -> Template | TextFormat:
        """The format, whose name and version stand for how it is encoded."""

    def encode(self, texts: Sequence[Text], /) -> list[Tokens]:
        """The rows of these texts, in their order."""


class TokenTable:
    """Random access to encoded pairs in an Arrow file; rows are in the order in which they were written."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        self._ids = [chunk.values.to_numpy() for chunk in table["ids"].chunks]
        self._offsets = [chunk.offsets.to_numpy() for chunk in table["ids"].chunks]
        self._second = table["second"].to_numpy()
        self.lengths: NDArray[np.int64] = np.concatenate(
            [np.zeros(0, dtype=np.int64), *(np.diff(offsets).astype(np.int64) for offsets in self._offsets)]
        )
        """Tokens of each row."""
        self.num_second = int(self.lengths.sum() - self._second.sum(dtype=np.int64))
        """Tokens from `second` on, of all rows together: those that a language model learns."""
        num_cut = table["num_cut"].to_numpy()
        self.num_truncated = int((num_cut > 0).sum())
        """Rows that did not fit the budget of tokens."""

    def __len__(self) -> int:
        return len(self._second)

    def __getitem__(self, row: int) -> Tokens:
        chunk, at = divmod(row, _ROWS_PER_BATCH)
        begin, end = self._offsets[chunk][at : at + 2]
        return Tokens(self._ids[chunk][begin:end], int(self._second[row]), 0)


def token_table(
    cache_dir: Path, encoder: Encodes[T], pairs: Callable[[], Iterable[T]], *, content: str, is_main: bool
) -> Callable[[], TokenTable]:
    """Write the table of `pairs` unless it is there already; the result opens it, once the main process has written.

    `content` names the texts (a hash of the input files); tokenizer, template and budget are added here.  `pairs` is
    called by the main process alone, and only when there is something to write.
    """
    path = cache_dir / f"tokens-{_fingerprint(encoder, content)}.arrow"
    if is_main and not path.exists():
        write_tokens(path, encoder, pairs())
    return lambda: TokenTable(path)


def write_tokens(path: Path, encoder: Encodes[T], pairs: Iterable[T]) -> int:
    """Encode a stream of pairs (or texts) into an Arrow file at constant memory; the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    num_rows = 0
    with (
        write_atomic(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, _SCHEMA) as out,
    ):
        rows = (row for block in _blocks(iter(pairs)) for row in encoder.encode(block))
        for tokens in _blocks(rows):
            columns = [[t.ids for t in tokens], [t.second for t in tokens], [t.num_cut for t in tokens]]
            out.write_batch(pa.record_batch(columns, schema=_SCHEMA))
            num_rows += len(tokens)
    return num_rows


def _blocks(items: Iterator[T]) -> Iterator[list[T]]:
    while block := list(islice(items, _ROWS_PER_BATCH)):
        yield block


def _fingerprint(encoder: Encodes[Any], content: str) -> str:
    template, tokenizer = encoder.template, encoder.tokenizer
    # All of it, for two tokenizers of one vocabulary may differ in lower-casing or merges.
    behaviour = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # left over from the last call
        del behaviour[state]
    behaviour["special"] = tokenizer.special_tokens_map
    budget = (encoder.max_tokens, encoder.max_query_tokens)
    parts = (template.name, template.version, *budget, json.dumps(behaviour, sort_keys=True, default=str))
    return f"{stable_seed(content, *parts):016x}"
