"""WordPiece vocabularies cut to the pieces in use: texts in use keep their tokens, every other word can still be spelt.

WordPiece takes the longest piece of the vocabulary at every place of a word (Wu et al. 2016, arXiv 1609.08144), so a
vocabulary that keeps all pieces which were ever taken cuts the same words the same way.  BPE and Unigram vocabularies
hang together by merges and probabilities; they are refused here.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXTS_AT_ONCE = 1024


def pieces_in_use(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[int]:
    """Ids, in their order, of the pieces that the texts are cut into, of all single characters and of added tokens.

    The texts are streamed.  A word of them that becomes the unknown token stays one: the pieces that are taken before
    no piece fits are kept, too, for without them another way through the word might be found.

    Raises:
        ValueError: the tokenizer is no WordPiece.
    """
    model = _word_piece(tokenizer)
    vocabulary: dict[str, int] = model["vocab"]
    prefix: str = model["continuing_subword_prefix"]
    kept = {piece_id for piece, piece_id in vocabulary.items() if len(piece.removeprefix(prefix)) == 1}
    kept |= set(tokenizer.added_tokens_decoder)
    unknown = vocabulary[model["unk_token"]]
    for block in _blocks(texts):
        for text, ids in zip(block, tokenizer(block, add_special_tokens=False)["input_ids"], strict=True):
            kept.update(ids)
            if unknown in ids:
                words = chain.from_iterable(_pieces_before_unknown(word, model) for word in _words(tokenizer, text))
                kept.update(words)
    return sorted({*kept, unknown})


def cut_vocabulary(tokenizer: PreTrainedTokenizerBase, kept: Sequence[int]) -> PreTrainedTokenizerBase:
    """The same tokenizer with these pieces alone; piece `kept[i]` has the id i.

    Raises:
        ValueError: the tokenizer is no WordPiece.
    """
    from transformers import AutoTokenizer

    _word_piece(tokenizer)
    new_id = {old: new for new, old in enumerate(kept)}
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"] = {piece: new_id[old] for piece, old in state["model"]["vocab"].items() if old in new_id}
    for token in state["added_tokens"]:
        token["id"] = new_id[token["id"]]
    state["post_processor"] = _renumbered(state["post_processor"], new_id)
    # By way of its files, so that what is in use from here on is what whoever opens them will have.
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        Path(folder, "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")
        cut: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return cut


def _word_piece(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] != "WordPiece":
        raise ValueError(
            f"the vocabulary of a {model['type']} tokenizer cannot be cut, that of a WordPiece one (BERT, DistilBERT, "
            "ELECTRA) can: leave vocabulary out"
        )
    return model


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(texts)
    while block := list(islice(remaining, _TEXTS_AT_ONCE)):
        yield block


def _words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The words that the pieces are taken from."""
    backend = tokenizer.backend_tokenizer
    normal = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]


def _pieces_before_unknown(word: str, model: dict[str, Any]) -> Iterator[int]:
    """The ids that are taken from a word up to where no piece fits."""
    vocabulary: dict[str, int] = model["vocab"]
    begin = 0
    while begin < len(word) <= model["max_input_chars_per_word"]:
        prefix = model["continuing_subword_prefix"] if begin else ""
        ends = range(len(word), begin, -1)
        end = next((end for end in ends if prefix + word[begin:end] in vocabulary), None)
        if end is None:
            return
        yield vocabulary[prefix + word[begin:end]]
        begin = end


def _renumbered(processor: Any, new_id: dict[int, int]) -> Any:
    """The part of a tokenizer that puts [CLS] and [SEP] in place, with their new ids."""
    if processor is None:
        return None
    if processor["type"] == "TemplateProcessing":
        tokens = {
            name: {**token, "ids": [new_id[old] for old in token["ids"]]}
            for name, token in processor["special_tokens"].items()
        }
        return {**processor, "special_tokens": tokens}
    if processor["type"] == "BertProcessing":
        ends = {name: [processor[name][0], new_id[processor[name][1]]] for name in ("sep", "cls")}
        return {**processor, **ends}
    raise ValueError(f"a tokenizer that ends with {processor['type']} cannot be cut: leave vocabulary out")
