"""How many bytes of text each token of a vocabulary stands for, so that a likelihood can be told in bits per byte.

Bits per byte compare models with different tokenizers, where perplexity per token cannot.  Nothing is encoded here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ONE_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """[V] bytes of UTF-8 that each token adds to a text; special tokens add none.

    Exact for byte-level vocabularies (GPT-2, Llama 3, Qwen), where a token may be a part of a character, and for
    SentencePiece's with single bytes (Llama 2, Gemma); of WordPiece, which keeps no blanks, the letters are counted.
    """
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    added = tokenizer.added_tokens_decoder
    is_byte_level = "ByteLevel" in set(_decoder_types(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]))
    special = set(tokenizer.all_special_ids)
    counts = np.zeros(len(pieces), dtype=np.int64)
    for index, piece in enumerate(pieces):
        if index in special or piece is None:
            continue
        if index in added:
            counts[index] = 0 if added[index].special else len(added[index].content.encode())
        elif is_byte_level:
            counts[index] = len(piece)  # a letter of its alphabet for every byte
        elif _ONE_BYTE.fullmatch(piece):
            counts[index] = 1
        else:
            counts[index] = len(piece.removeprefix("##").replace("▁", " ").encode())
    return counts


def _decoder_types(decoder: Any) -> Iterator[str]:
    """The kinds of decoder that a tokenizer's decoder is made of."""
    if decoder is not None:
        yield decoder["type"]
        for inner in decoder.get("decoders", ()):
            yield from _decoder_types(inner)
