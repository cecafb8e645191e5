"""Cut vocabularies: the texts that they were cut for keep their tokens, whatever else happens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertTokenizer
from transformers import PreTrainedTokenizerBase as AnyTokenizer

from disranker.text.wordpiece import cut_vocabulary, pieces_in_use
from tests.tiny import PAIRS, pair_tokenizer, prompt_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer_of(pieces: Sequence[str]) -> AnyTokenizer:
    """A BERT tokenizer with these pieces after the special tokens."""
    vocabulary = {piece: at for at, piece in enumerate([*SPECIAL, *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return BertTokenizer(tokenizer_object=tokenizer)


def cut(tokenizer: AnyTokenizer, texts: Sequence[str]) -> AnyTokenizer:
    return cut_vocabulary(tokenizer, pieces_in_use(tokenizer, texts))


def tokens(tokenizer: AnyTokenizer, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_what_stays_and_under_which_id() -> None:
    tokenizer = tokenizer_of(["shoes", "run", "##ning", "##s", "a", "##b", "boots"])
    kept = pieces_in_use(tokenizer, ["Running shoes"])
    names = tokenizer.convert_ids_to_tokens(kept)
    assert names == [*SPECIAL, "shoes", "run", "##ning", "##s", "a", "##b"]  # single characters stay; boots do not
    smaller = cut_vocabulary(tokenizer, kept)
    assert [smaller.convert_tokens_to_ids(name) for name in names] == list(range(len(names)))
    assert len(smaller) == 11
    assert tokens(smaller, "running boots") == ["[CLS]", "run", "##ning", "[UNK]", "[SEP]"]
    pair = smaller("shoes", "running a")
    assert smaller.convert_ids_to_tokens(pair["input_ids"]) == tokenizer.convert_ids_to_tokens(
        tokenizer("shoes", "running a")["input_ids"]
    )
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1, 1, 1]
    assert (smaller.pad_token_id, smaller.cls_token_id, smaller.mask_token_id) == (0, 2, 4)


def test_an_unused_word_is_spelt_by_what_remains() -> None:
    tokenizer = tokenizer_of(["shoes", "s", "##h", "##o", "##e", "##s", "##oes"])
    assert tokens(cut(tokenizer, [""]), "shoes")[1:-1] == ["s", "##h", "##o", "##e", "##s"]


def test_an_unknown_word_stays_unknown_where_a_shorter_piece_would_lead_through() -> None:
    """The longest piece, ab, leads nowhere; without it, a + ##bcd would."""
    tokenizer = tokenizer_of(["ab", "a", "##bcd"])
    assert tokens(tokenizer, "abcd") == ["[CLS]", "[UNK]", "[SEP]"]
    assert tokens(tokenizer_of(["a", "##bcd"]), "abcd")[1:-1] == ["a", "##bcd"]
    # ##bcd is in use by another word, ab by none
    tokenizer = tokenizer_of(["ab", "a", "x", "##bcd"])
    smaller = cut(tokenizer, ["abcd", "xbcd"])
    for text in ("abcd", "xbcd"):
        assert tokens(smaller, text) == tokens(tokenizer, text)


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.sets(st.text("abc", min_size=1, max_size=4), max_size=12),
    inner=st.sets(st.text("abc", min_size=1, max_size=4), max_size=12),
    texts=st.lists(st.text("abc ", max_size=14), max_size=5),
)
def test_texts_in_use_keep_their_tokens(pieces: set[str], inner: set[str], texts: list[str]) -> None:
    tokenizer = tokenizer_of([*sorted(pieces), *(f"##{piece}" for piece in sorted(inner))])
    smaller = cut(tokenizer, texts)
    assert [tokens(smaller, text) for text in texts] == [tokens(tokenizer, text) for text in texts]


def test_a_tokenizer_as_stages_make_it() -> None:
    tokenizer, texts = pair_tokenizer(), [text for pair in PAIRS[:3] for text in pair]
    smaller = cut(tokenizer, texts)
    assert len(smaller) < len(tokenizer)
    assert [tokens(smaller, text) for text in texts] == [tokens(tokenizer, text) for text in texts]
    assert "[UNK]" not in tokens(smaller, PAIRS[3].title)  # every character stays
    assert tokens(smaller, "跑步") == tokens(tokenizer, "跑步")


def test_other_vocabularies_are_refused() -> None:
    for work in (lambda: pieces_in_use(prompt_tokenizer(), ["a"]), lambda: cut_vocabulary(prompt_tokenizer(), [0])):
        with pytest.raises(ValueError, match="the vocabulary of a BPE tokenizer cannot be cut"):
            work()
