"""Token ids of pairs within a budget of tokens; the only module that turns text into ids.

Training, teacher scoring, evaluation, export and serving all call `PairEncoder.encode`.  The title is never cut before
the summary.  `FormatEncoder` and `PieceEncoder` make what a language model learns besides; no ranker reads that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from disranker.schema import Pair
from disranker.text.templates import DocumentPrompt, PairTemplate, PromptTemplate, Template, TextFormat, document_text

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Tokens:
    """One encoded pair."""

    ids: NDArray[np.int32]
    second: int
    """Index of the first token of the document: where token type 1 begins, and where a language model's loss begins."""
    num_cut: int
    """Tokens of the pair that did not fit the budget."""


class PairEncoder:
    """Encodes pairs for one tokenizer, one template and one budget of tokens."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: Template, *, max_tokens: int, max_query_tokens: int
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_tokens = max_tokens
        self.max_query_tokens = max_query_tokens

    def encode(self, pairs: Sequence[Pair]) -> list[Tokens]:
        """Token ids of each pair, special tokens included, at most `max_tokens` long.

        Raises:
            ValueError: the fixed text of the template fills the budget alone.
        """
        if not pairs:
            return []
        if isinstance(self.template, PairTemplate):
            return self._encode_pairs(pairs, self.template)
        if isinstance(self.template, DocumentPrompt):
            return self._encode_documents(pairs, self.template)
        return self._encode_prompts(pairs, self.template)

    def _encode_pairs(self, pairs: Sequence[Pair], template: PairTemplate) -> list[Tokens]:
        # [CLS] query [SEP] document [SEP], cut as longest_first: exactly what a CrossEncoder or a server sends.  The
        # cut is ours: the tokenizer's own makes windows of all that is cut off, which takes longer than tokenizing.
        backend = self.tokenizer.backend_tokenizer
        if backend.truncation is not None or backend.padding is not None:
            backend.no_truncation()
            backend.no_padding()
        return [self._cut(encoding) for encoding in backend.encode_batch_fast([template.texts(pair) for pair in pairs])]

    def _cut(self, encoding: Encoding) -> Tokens:
        ids, parts = encoding.ids, encoding.sequence_ids
        num_query, num_document = parts.count(0), parts.count(1)
        num_special = len(ids) - num_query - num_document
        kept_query, kept_document = _longest_first(num_query, num_document, self.max_tokens - num_special)
        # Of an empty document only the last [SEP] is there, which has token type 1 for the tokenizer.
        second = parts.index(1) if num_document else len(ids) - 1
        query_end = parts.index(0) + num_query if num_query else 0
        num_cut = num_query + num_document - kept_query - kept_document
        if num_cut:
            ids = [
                *ids[: query_end - num_query + kept_query],
                *ids[query_end : second + kept_document],
                *ids[second + num_document :],
            ]
        return Tokens(np.asarray(ids, dtype=np.int32), second - num_query + kept_query, num_cut)

    def _encode_prompts(self, pairs: Sequence[Pair], template: PromptTemplate) -> list[Tokens]:
        start = _begin_tokens(self.tokenizer) + self._plain([template.before_query])[0]
        before_title, before_summary = self._plain([template.before_title, template.before_summary])
        queries, titles, summaries = (self._plain(texts) for texts in zip(*pairs, strict=True))
        end = self._plain([template.suffix])[0] + ([self.tokenizer.eos_token_id] if template.end_token else [])
        fixed = len(start) + len(before_title) + len(before_summary) + len(end)
        self._check_room(fixed)
        tokens = []
        for query, title, summary in zip(queries, titles, summaries, strict=True):
            kept_query, kept_title, kept_summary = _fit(
                query, title, summary, self.max_tokens - fixed, self.max_query_tokens
            )
            context = start + kept_query + before_title
            ids = context + kept_title + before_summary + kept_summary + end
            num_cut = len(query) + len(title) + len(summary) + fixed - len(ids)
            tokens.append(Tokens(np.asarray(ids, dtype=np.int32), len(context), num_cut))
        return tokens

    def _encode_documents(self, pairs: Sequence[Pair], template: DocumentPrompt) -> list[Tokens]:
        begin = _begin_tokens(self.tokenizer)
        end, before_query, before_document = self._plain(
            [template.suffix, template.before_query, template.before_document]
        )
        fixed = len(begin) + len(before_query) + len(before_document) + len(end)
        self._check_room(fixed)
        num_query = min(self.max_query_tokens, self.max_tokens - fixed)
        queries, query_ends = self._with_ends([pair.query for pair in pairs])
        # A token of the query ends at a character; what is kept up to there is text again, and is read as such.
        kept = [
            pair.query if len(ids) <= num_query else pair.query[: ends[num_query - 1]]
            for pair, ids, ends in zip(pairs, queries, query_ends, strict=True)
        ]
        contexts = [template.context(query) for query in kept]
        documents = [document_text(pair.title, pair.summary) for pair in pairs]
        bodies, body_ends = self._with_ends([c + d for c, d in zip(contexts, documents, strict=True)])
        tokens = []
        for row, (body, ends) in enumerate(zip(bodies, body_ends, strict=True)):
            kept_body = body[: self.max_tokens - len(begin) - len(end)]
            # The blank before a document is a part of its first token.
            second = len(begin) + sum(end_char <= len(contexts[row]) for end_char in ends[: len(kept_body)])
            num_cut = max(0, len(queries[row]) - num_query) + len(body) - len(kept_body)
            tokens.append(Tokens(np.asarray(begin + kept_body + end, dtype=np.int32), second, num_cut))
        return tokens

    def _check_room(self, fixed: int) -> None:
        _check_room(self.template.name, fixed, self.max_tokens)

    def _with_ends(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of each text, and the character at which each token ends."""
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        ends = [[end for _, end in offsets] for offsets in encoded["offset_mapping"]]
        return encoded["input_ids"], ends

    def _plain(self, texts: Sequence[str]) -> list[list[int]]:
        return _plain_ids(self.tokenizer, texts)


class FormatEncoder:
    """Encodes clicked pairs as texts for a language model: a document and its query, or the document alone."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: TextFormat, *, max_tokens: int, max_query_tokens: int
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_tokens = max_tokens
        self.max_query_tokens = max_query_tokens

    def encode(self, pairs: Sequence[Pair]) -> list[Tokens]:
        """Token ids of each example, end token included, at most `max_tokens` long; the summary is cut first.

        `second` is where the query begins, or where there is none the title.  The first token of all is never
        predicted, for nothing stands before it.

        Raises:
            ValueError: the fixed text of the format fills the budget alone.
        """
        if not pairs:
            return []
        template = self.template
        with_query = template.before_query is not None
        before_title, before_summary, before_query = _plain_ids(
            self.tokenizer, [template.before_title, template.before_summary, template.before_query or ""]
        )
        start, end = _begin_tokens(self.tokenizer) + before_title, [self.tokenizer.eos_token_id]
        fixed = len(start) + len(before_summary) + len(before_query) + len(end)
        _check_room(template.name, fixed, self.max_tokens)
        queries, titles, summaries = (_plain_ids(self.tokenizer, texts) for texts in zip(*pairs, strict=True))
        tokens = []
        for query, title, summary in zip(queries, titles, summaries, strict=True):
            whole_query = query if with_query else []
            kept_query, kept_title, kept_summary = _fit(
                whole_query, title, summary, self.max_tokens - fixed, self.max_query_tokens
            )
            document = start + kept_title + before_summary + kept_summary
            ids = document + before_query + kept_query + end
            second = len(document) + len(before_query) if with_query else max(1, len(start))
            num_cut = len(whole_query) + len(title) + len(summary) + fixed - len(ids)
            tokens.append(Tokens(np.asarray(ids, dtype=np.int32), second, num_cut))
        return tokens


class PieceEncoder:
    """Encodes running text in pieces that fill the budget, so that nothing of a long text is left out."""

    template = TextFormat("pieces", 1, before_title="", before_summary="", before_query=None)
    """Stands for this way of encoding where a file is named by it; its texts are not used."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.max_query_tokens = 0

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of all pieces, text after text; the last piece of a text has the end token.

        Every token is predicted but the first of a piece, before which nothing stands.
        """
        if not texts:
            return []
        begin = _begin_tokens(self.tokenizer)
        room, second = self.max_tokens - len(begin), max(1, len(begin))
        pieces = []
        for ids in _plain_ids(self.tokenizer, texts):
            whole = [*ids, self.tokenizer.eos_token_id]
            for at in range(0, len(whole), room):
                piece = begin + whole[at : at + room]
                if len(piece) > second:  # an end token alone, without anything before it, predicts nothing
                    pieces.append(Tokens(np.asarray(piece, dtype=np.int32), second, 0))
        return pieces


def _fit(
    query: list[int], title: list[int], summary: list[int], room: int, max_query_tokens: int
) -> tuple[list[int], list[int], list[int]]:
    """What of the three fits `room` tokens: the query up to its budget, then the title, then the summary."""
    query = query[: min(max_query_tokens, room)]
    title = title[: room - len(query)]
    return query, title, summary[: room - len(query) - len(title)]


def _longest_first(num_query: int, num_document: int, room: int) -> tuple[int, int]:
    """Tokens of a pair that stay: the longer text is cut until it is as short as the other, then both are."""
    shorter, longer = sorted((num_query, num_document))
    if shorter + longer > room:
        shorter, longer = (shorter, room - shorter) if 2 * shorter <= room else (room // 2, room - room // 2)
    return (shorter, longer) if num_query <= num_document else (longer, shorter)


def _check_room(name: str, fixed: int, max_tokens: int) -> None:
    if fixed >= max_tokens:
        raise ValueError(f"max_tokens = {max_tokens} leaves no room for text: {name!r} alone takes {fixed}")


def _plain_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)[
        "input_ids"
    ]
    return ids


def _begin_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The begin-of-sequence token if this tokenizer puts one by itself, as Llama's does."""
    with_special = tokenizer("a")["input_ids"]
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and with_special[0] == bos else []
