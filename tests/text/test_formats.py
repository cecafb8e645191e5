"""What a language model learns besides prompts: queries of documents, documents, pieces of running text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disranker.schema import Pair
from disranker.text.encode import FormatEncoder, PieceEncoder, Tokens
from disranker.text.templates import FORMATS, TEMPLATES, get_format, get_template
from disranker.text.token_bytes import token_bytes
from disranker.text.vocabulary import train_pair_tokenizer
from tests.tiny import PAIRS, prompt_tokenizer

PAIR = Pair("red shoes", "Shoes", "light and red")
TEXTS = st.text(st.sampled_from("ab é跑🙂 \n"), max_size=30)


def format_encoder(name: str, *, max_tokens: int = 64, max_query_tokens: int = 16) -> FormatEncoder:
    return FormatEncoder(prompt_tokenizer(), FORMATS[name], max_tokens=max_tokens, max_query_tokens=max_query_tokens)


def plain(text: str) -> list[int]:
    ids: list[int] = prompt_tokenizer()(text, add_special_tokens=False)["input_ids"]
    return ids


# --- letter by letter: whoever changes one must give it a new version ---


@pytest.mark.parametrize(
    ("name", "version", "text"),
    [
        ("query-plain", 1, "Shoes\nlight and red\n\nred shoes"),
        ("query-en", 1, "Title: Shoes\nSummary: light and red\nQuery: red shoes"),
        ("query-zh", 1, "标题:Shoes\n摘要:light and red\n查询:red shoes"),
        ("document-plain", 1, "Shoes\nlight and red"),
        ("document-en", 1, "Title: Shoes\nSummary: light and red"),
        ("document-zh", 1, "标题:Shoes\n摘要:light and red"),
    ],
)
def test_formats(name: str, version: int, text: str) -> None:
    template = FORMATS[name]
    assert (template.name, template.version, template.text(PAIR)) == (name, version, text)


def test_formats_speak_as_their_prompt_does() -> None:
    assert len(FORMATS) == 6 and not FORMATS.keys() & TEMPLATES.keys()
    for prompt, words in (("plain", "plain"), ("prompt-en", "en"), ("label-en", "en"), ("prompt-zh", "zh")):
        template = get_template(prompt)
        assert get_format("query", template).name == f"query-{words}"
        assert get_format("document", template).name == f"document-{words}"
    with pytest.raises(ValueError, match=r"text\.template pair has no format of its kind for a query as text; choose"):
        get_format("query", get_template("pair"))


# --- ids ---


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_ids_are_those_of_the_parts(name: str) -> None:
    template, end = FORMATS[name], [prompt_tokenizer().eos_token_id]
    (tokens,) = format_encoder(name).encode([PAIR])
    title, summary = plain(template.before_title), plain(template.before_summary)
    document = title + plain(PAIR.title) + summary + plain(PAIR.summary)
    if template.before_query is None:
        assert (tokens.ids.tolist(), tokens.second) == (document + end, max(1, len(title)))
    else:
        before = document + plain(template.before_query)
        assert (tokens.ids.tolist(), tokens.second) == (before + plain(PAIR.query) + end, len(before))
    assert tokens.num_cut == 0


def test_nothing_gives_nothing() -> None:
    assert format_encoder("query-en").encode([]) == PieceEncoder(prompt_tokenizer(), max_tokens=8).encode([]) == []


@settings(max_examples=40, deadline=None)
@given(query=TEXTS, title=TEXTS, summary=TEXTS, max_tokens=st.integers(8, 30), name=st.sampled_from(sorted(FORMATS)))
def test_the_budget_is_kept_and_the_summary_is_cut_first(
    query: str, title: str, summary: str, max_tokens: int, name: str
) -> None:
    template = FORMATS[name]
    pair = Pair(query, title, summary)
    whole = format_encoder(name, max_tokens=10_000, max_query_tokens=10_000).encode([pair])[0]
    fixed = len(format_encoder(name, max_tokens=10_000).encode([Pair("", "", "")])[0].ids)
    encoder = format_encoder(name, max_tokens=max_tokens, max_query_tokens=4)
    if fixed >= max_tokens:
        with pytest.raises(
            ValueError, match=f"max_tokens = {max_tokens} leaves no room for text: '{name}' alone takes"
        ):
            encoder.encode([pair])
        return
    (tokens,) = encoder.encode([pair])
    assert len(tokens.ids) <= max_tokens
    assert tokens.num_cut == len(whole.ids) - len(tokens.ids)
    assert 1 <= tokens.second < len(tokens.ids)
    room = max_tokens - fixed
    kept_query = min(len(plain(query)), 4, room) if template.before_query is not None else 0
    kept_title = min(len(plain(title)), room - kept_query)
    kept_summary = min(len(plain(summary)), room - kept_query - kept_title)
    assert len(tokens.ids) == fixed + kept_query + kept_title + kept_summary
    begin = plain(template.before_title) + plain(title)[:kept_title]
    assert tokens.ids[: len(begin)].tolist() == begin


def test_a_query_longer_than_its_budget_is_cut_and_counted() -> None:
    long = Pair("red shoes " * 20, "Shoes", "")
    (tokens,) = format_encoder("query-en", max_query_tokens=5).encode([long])
    assert tokens.ids[tokens.second : -1].tolist() == plain(long.query)[:5]
    assert tokens.num_cut == len(plain(long.query)) - 5 > 20


# --- pieces ---


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS.filter(str.strip), min_size=1, max_size=4), max_tokens=st.integers(8, 20))
def test_pieces_hold_every_token_once(texts: list[str], max_tokens: int) -> None:
    pieces = PieceEncoder(prompt_tokenizer(), max_tokens=max_tokens).encode(texts)
    end = prompt_tokenizer().eos_token_id
    whole = [token for text in texts for token in [*plain(text), end]]
    joined = [int(token) for piece in pieces for token in piece.ids]
    lonely = sum(len(plain(text)) % max_tokens == 0 for text in texts)  # ends that would stand alone
    assert len(joined) == len(whole) - lonely
    assert [token for token in joined if token != end] == [token for token in whole if token != end]
    assert all(2 <= len(piece.ids) <= max_tokens and piece.second == 1 and piece.num_cut == 0 for piece in pieces)


def test_pieces_by_hand() -> None:
    ids = plain("light red shoes for running on the road")
    end = prompt_tokenizer().eos_token_id
    pieces = PieceEncoder(prompt_tokenizer(), max_tokens=8).encode(["light red shoes for running on the road"])
    assert len(ids) > 8
    assert [piece.ids.tolist() for piece in pieces] == [[*ids, end][at : at + 8] for at in range(0, len(ids) + 1, 8)]


def test_with_a_begin_token_every_piece_has_one_and_all_else_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disranker.text.encode._begin_tokens", lambda tokenizer: [7])
    end = prompt_tokenizer().eos_token_id
    ids = plain("red shoes for running on the road")
    pieces = PieceEncoder(prompt_tokenizer(), max_tokens=4).encode(["red shoes for running on the road"])
    whole = [*ids, end]
    assert [piece.ids.tolist() for piece in pieces] == [[7, *whole[at : at + 3]] for at in range(0, len(whole), 3)]
    assert {piece.second for piece in pieces} == {1}
    (document,) = format_encoder("document-plain").encode([PAIR])
    assert (document.ids[0], document.second) == (7, 1)


# --- bytes ---


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_the_bytes_of_the_tokens_are_those_of_the_text(text: str) -> None:
    tokenizer = prompt_tokenizer()
    counts = token_bytes(tokenizer)
    ids = plain(text)
    # What the tokenizer puts before a first word is text as well.
    normal, *_ = (
        [text] if not ids else [tokenizer.backend_tokenizer.decoder.decode(tokenizer.convert_ids_to_tokens(ids))]
    )
    assert int(counts[ids].sum()) == len(normal.encode())


def test_special_tokens_stand_for_no_text() -> None:
    tokenizer = prompt_tokenizer()
    counts = token_bytes(tokenizer)
    assert len(counts) == len(tokenizer) and counts.dtype == "int64"
    assert counts[tokenizer.all_special_ids].tolist() == [0] * len(tokenizer.all_special_ids)
    assert (counts > 0).sum() == len(tokenizer) - len(set(tokenizer.all_special_ids))


def test_word_pieces_count_their_letters() -> None:
    tokenizer = train_pair_tokenizer([text for pair in PAIRS for text in pair], 120)
    counts = token_bytes(tokenizer)
    ids = tokenizer("red shoes", add_special_tokens=False)["input_ids"]
    assert int(counts[ids].sum()) == len("redshoes")
    assert counts[tokenizer.cls_token_id] == 0


def test_pieces_of_sentencepiece_are_blanks_and_single_bytes() -> None:
    class Backend:
        def to_str(self) -> str:
            return '{"decoder": {"type": "Sequence", "decoders": [{"type": "Replace"}, {"type": "ByteFallback"}]}}'

    class Stock:
        backend_tokenizer = Backend()
        all_special_ids = (0,)
        added_tokens_decoder: dict[int, object] = {}

        def __len__(self) -> int:
            return 5

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return ["<s>", "▁the", "<0xE4>", "跑", "a"]

    tokenizer: Any = Stock()
    assert token_bytes(tokenizer).tolist() == [0, 4, 1, 3, 1]


def test_tokens_are_a_record() -> None:
    (tokens,) = format_encoder("query-zh").encode([PAIRS[3]])
    assert isinstance(tokens, Tokens) and tokens.ids.dtype == "int32"
