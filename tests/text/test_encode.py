"""Token ids within a budget, for pairs and for prompts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from disranker.schema import Pair
from disranker.text.encode import PairEncoder, Tokens
from disranker.text.templates import PromptTemplate, document_text, get_template
from disranker.text.vocabulary import train_prompt_tokenizer
from tests.tiny import PAIRS, encoder, pair_tokenizer, prompt_tokenizer

LONG = Pair("red road shoes", "running shoes for winter", "light and warm shoes " * 8)
TEXTS = st.lists(st.sampled_from(["red", "shoes", "runningly", "跑步", "ünïcode", "a-b", "\n"]), max_size=12).map(
    " ".join
)


def words(ids: np.ndarray, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids.tolist())


def test_nothing_gives_nothing() -> None:
    assert encoder("pair").encode([]) == encoder("plain").encode([]) == []


# ---------------------------------------------------------------------------------------------------------- pairs


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.builds(Pair, TEXTS, TEXTS, TEXTS), min_size=1, max_size=3), max_tokens=st.integers(8, 24))
def test_a_pair_is_cut_as_the_tokenizer_itself_cuts_longest_first(pairs: list[Pair], max_tokens: int) -> None:
    queries = [pair.query for pair in pairs]
    documents = [document_text(pair.title, pair.summary) for pair in pairs]
    stock = pair_tokenizer()(queries, documents, truncation="longest_first", max_length=max_tokens)
    whole = pair_tokenizer()(queries, documents)["input_ids"]
    encoded = encoder("pair", max_tokens=max_tokens).encode(pairs)
    for row, tokens in enumerate(encoded):
        assert tokens.ids.dtype == np.int32
        assert tokens.ids.tolist() == stock["input_ids"][row]
        assert len(tokens.ids) <= max_tokens
        # The types that our models read are those that a server sends.
        assert (np.arange(len(tokens.ids)) >= tokens.second).astype(int).tolist() == stock["token_type_ids"][row]
        assert tokens.num_cut == len(whole[row]) - len(tokens.ids)


def test_a_pair_in_full() -> None:
    (tokens,) = encoder("pair").encode([Pair("Red shoes", "Boots", "snow")])
    assert words(tokens.ids, pair_tokenizer()) == ["[CLS]", "red", "shoes", "[SEP]", "boots", "snow", "[SEP]"]
    assert (tokens.second, tokens.num_cut) == (4, 0)


def test_the_summary_is_cut_before_the_title_and_the_count_of_cut_tokens_is_exact() -> None:
    (whole,) = encoder("pair", max_tokens=512).encode([LONG])
    (cut,) = encoder("pair", max_tokens=20).encode([LONG])
    assert whole.num_cut == 0
    assert len(cut.ids) == 20
    assert cut.num_cut == len(whole.ids) - 20
    assert cut.ids[:-1].tolist() == whole.ids[:19].tolist()  # query and title stand, only the end is gone


def test_an_empty_document_is_the_last_separator_alone() -> None:
    (tokens,) = encoder("pair").encode([Pair("red", "", "")])
    assert words(tokens.ids, pair_tokenizer()) == ["[CLS]", "red", "[SEP]", "[SEP]"]
    assert tokens.second == 3


def test_chinese_is_split_into_characters() -> None:
    (tokens,) = encoder("pair").encode([Pair("跑步鞋", "红色跑步鞋", "轻便透气")])
    assert words(tokens.ids, pair_tokenizer()) == ["[CLS]", *"跑步鞋", "[SEP]", *"红色跑步鞋轻便透气", "[SEP]"]
    assert tokens.second == 5


def test_a_pair_is_encoded_alike_alone_and_in_company() -> None:
    together = encoder("pair", max_tokens=10).encode([*PAIRS, LONG])
    alone = [encoder("pair", max_tokens=10).encode([pair])[0] for pair in [*PAIRS, LONG]]
    for left, right in zip(together, alone, strict=True):
        assert_same(left, right)


def assert_same(left: Tokens, right: Tokens) -> None:
    assert (left.ids.tolist(), left.second, left.num_cut) == (right.ids.tolist(), right.second, right.num_cut)


# -------------------------------------------------------------------------------------------------------- prompts


def plain_ids(text: str) -> list[int]:
    return prompt_tokenizer()(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=40, deadline=None)
@given(pair=st.builds(Pair, TEXTS, TEXTS, TEXTS), max_tokens=st.integers(60, 120), max_query=st.integers(1, 20))
def test_a_prompt_keeps_its_frame_and_cuts_query_summary_title_to_their_budgets(
    pair: Pair, max_tokens: int, max_query: int
) -> None:
    template = get_template("prompt-en")
    assert isinstance(template, PromptTemplate)
    frame = [plain_ids(text) for text in (template.before_query, template.before_title, template.before_summary)]
    query, title, summary = (plain_ids(text) for text in pair)
    room = max_tokens - sum(map(len, frame)) - 1
    query_kept = query[:max_query]
    title_kept = title[: room - len(query_kept)]
    summary_kept = summary[: room - len(query_kept) - len(title_kept)]
    (tokens,) = encoder("prompt-en", max_tokens=max_tokens, max_query_tokens=max_query).encode([pair])
    context = frame[0] + query_kept + frame[1]
    expected = context + title_kept + frame[2] + summary_kept + [prompt_tokenizer().eos_token_id]
    assert tokens.ids.tolist() == expected
    assert len(tokens.ids) <= max_tokens
    assert tokens.second == len(context)
    cut = len(query) + len(title) + len(summary) - len(query_kept) - len(title_kept) - len(summary_kept)
    assert tokens.num_cut == cut


def test_the_title_is_never_cut_before_the_summary() -> None:
    title = plain_ids(LONG.title)
    whole_length = len(encoder("plain", max_tokens=512).encode([LONG])[0].ids)
    fixed = len(plain_ids("\n")) * 2 + 1 + len(plain_ids(LONG.query))
    for max_tokens in range(fixed + 1, whole_length):
        (tokens,) = encoder("plain", max_tokens=max_tokens).encode([LONG])
        kept = tokens.ids[tokens.second :].tolist()
        kept_title = min(len(title), max_tokens - fixed)
        assert len(tokens.ids) == max_tokens
        assert kept[:kept_title] == title[:kept_title]
        assert tokens.num_cut == whole_length - max_tokens


def test_a_query_longer_than_the_whole_budget_leaves_the_frame_whole() -> None:
    long_query = Pair("shoes " * 50, "boots", "snow")
    (tokens,) = encoder("plain", max_tokens=12, max_query_tokens=1000).encode([long_query])
    assert len(tokens.ids) == 12
    newline = plain_ids("\n")
    assert tokens.ids[-1] == prompt_tokenizer().eos_token_id
    assert tokens.ids[-1 - 2 * len(newline) : -1].tolist() == newline * 2
    assert tokens.second == 12 - 1 - len(newline)


def test_empty_texts_leave_the_frame() -> None:
    (tokens,) = encoder("plain").encode([Pair("", "", "")])
    assert tokens.ids.tolist() == [*plain_ids("\n"), *plain_ids("\n"), prompt_tokenizer().eos_token_id]
    assert tokens.second == len(plain_ids("\n"))  # a loss on the document never falls on the first token


def test_a_budget_that_the_template_fills_alone_is_refused() -> None:
    fixed = len(encoder("prompt-en", max_tokens=512).encode([Pair("", "", "")])[0].ids)
    assert len(encoder("prompt-en", max_tokens=fixed + 1).encode([LONG])[0].ids) == fixed + 1
    message = rf"max_tokens = {fixed} leaves no room for text: 'prompt-en' alone takes {fixed}"
    with pytest.raises(ValueError, match=message):
        encoder("prompt-en", max_tokens=fixed).encode([LONG])


def with_begin_token(*, also_end: bool) -> PreTrainedTokenizerFast:
    """A tokenizer that puts a begin token by itself, as Llama's does, and an end token too if asked."""
    backend = train_prompt_tokenizer([text for pair in PAIRS for text in pair], 300).backend_tokenizer
    backend.add_special_tokens(["<s>"])
    frame = "<s> $A </s>" if also_end else "<s> $A"
    marks = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = TemplateProcessing(single=frame, special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=5
    )


@pytest.mark.parametrize("also_end", [False, True])
def test_a_tokenizer_with_a_begin_token_gets_it_once_and_the_end_token_once(also_end: bool) -> None:
    tokenizer = with_begin_token(also_end=also_end)
    template = get_template("plain")
    (tokens,) = PairEncoder(tokenizer, template, max_tokens=32, max_query_tokens=16).encode([LONG])
    ids = tokens.ids.tolist()
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1
    assert len(ids) == 32  # not the 5 of model_max_length


def test_a_begin_token_that_the_tokenizer_does_not_put_is_not_put_by_us() -> None:
    tokenizer = train_prompt_tokenizer(["red shoes"], 280)
    tokenizer.bos_token = "</s>"
    (tokens,) = PairEncoder(tokenizer, get_template("plain"), max_tokens=32, max_query_tokens=16).encode([PAIRS[0]])
    assert tokens.ids.tolist().count(tokenizer.bos_token_id) == 1  # the end token, which it is too
    assert tokens.ids[-1] == tokenizer.bos_token_id


# ------------------------------------------------------------------------------ prompts that end where an answer begins


def test_a_prompt_for_a_label_ends_in_its_suffix_and_never_cuts_it() -> None:
    template = get_template("label-en")
    suffix = plain_ids(template.suffix)
    assert len(suffix) > 3
    for max_tokens in (150, 180, 600):
        (tokens,) = encoder("label-en", max_tokens=max_tokens).encode([LONG])
        assert tokens.ids[-len(suffix) :].tolist() == suffix
        assert prompt_tokenizer().eos_token_id not in tokens.ids
        assert len(tokens.ids) <= max_tokens
        assert (tokens.num_cut > 0) is (max_tokens < 600)


def with_chat_tokens() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that splits as Qwen's does, with its chat tokens."""
    tokenizer = Tokenizer(BPE())
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(words), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    texts = [
        PUBLISHED_PREFIX,
        PUBLISHED_SUFFIX,
        *("?\n? .\n. red shoes running boots\n<Document>: 跑步" for _ in range(9)),
    ]
    tokenizer.decoder = ByteLevelDecoder()
    special = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    tokenizer.train_from_iterator(
        texts, BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=ByteLevel.alphabet())
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_start|>")


PUBLISHED_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
PUBLISHED_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
CHAT = with_chat_tokens()
BODIES = st.lists(
    st.sampled_from(["red", "shoes?", "boots.", "\n", " ", "7", "跑步", "ünïcode", "a-b", "(", "1.5"]), max_size=10
).map(" ".join)


def published(pair: Pair, max_tokens: int) -> list[int]:
    """The ids as the publishers of Qwen3-Reranker make them: three parts, of which the middle one is cut."""
    prefix, suffix = (
        CHAT(text, add_special_tokens=False)["input_ids"] for text in (PUBLISHED_PREFIX, PUBLISHED_SUFFIX)
    )
    body = (
        "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
        f"<Query>: {pair.query}\n<Document>: {document_text(pair.title, pair.summary)}"
    )
    room = max_tokens - len(prefix) - len(suffix)
    middle = CHAT(body, add_special_tokens=False, truncation=True, max_length=room)["input_ids"]
    return [*prefix, *middle, *suffix]


@settings(max_examples=30, deadline=None)
@given(pair=st.builds(Pair, BODIES, BODIES, BODIES), max_tokens=st.integers(330, 420))
def test_a_published_prompt_has_the_publishers_ids(pair: Pair, max_tokens: int) -> None:
    template = get_template("qwen3-reranker")
    (tokens,) = PairEncoder(CHAT, template, max_tokens=max_tokens, max_query_tokens=300).encode([pair])
    assert tokens.ids.tolist() == published(pair, max_tokens)
    assert tokens.num_cut == len(published(pair, 10_000)) - len(tokens.ids)
    assert CHAT.decode(tokens.ids[: tokens.second]) in f"{template.context(pair.query)} "


def test_the_query_of_a_published_prompt_is_cut_to_its_budget() -> None:
    pair = Pair("red shoes? " * 30, "boots", "跑步")
    template = get_template("qwen3-reranker")
    (tokens,) = PairEncoder(CHAT, template, max_tokens=600, max_query_tokens=4).encode([pair])
    query = CHAT(pair.query, add_special_tokens=False)["input_ids"]
    assert tokens.ids.tolist() == published(pair._replace(query=CHAT.decode(query[:4])), 600)
    assert tokens.num_cut == len(query) - 4
    with pytest.raises(ValueError, match="max_tokens = 60 leaves no room for text: 'qwen3-reranker' alone takes"):
        PairEncoder(CHAT, template, max_tokens=60, max_query_tokens=4).encode([pair])
