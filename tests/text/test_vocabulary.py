"""Tokenizers that are learnt from texts."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from disranker.text.vocabulary import train_pair_tokenizer, train_prompt_tokenizer
from tests.tiny import PAIRS, pair_tokenizer, prompt_tokenizer

TEXTS = [text for pair in PAIRS for text in pair]


def test_a_pair_tokenizer_speaks_berts_format() -> None:
    tokenizer = pair_tokenizer()
    encoded = tokenizer("RED Shoes", "Böots")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == ["[CLS]", "red", "shoes", "[SEP]", "boots", "[SEP]"]
    assert encoded["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.convert_tokens_to_ids(special) == [0, 1, 2, 3, 4]
    assert tokenizer.tokenize("跑步 鞋") == ["跑", "步", "鞋"]
    assert tokenizer.tokenize("☃") == ["[UNK]"]


def test_pieces_within_words_are_ordinary_tokens() -> None:
    tokenizer = train_pair_tokenizer(["shoe shoes tyre tyres boots"] * 3, 24)
    pieces = [token for token in tokenizer.get_vocab() if token.startswith("##")]
    assert pieces
    assert not set(pieces) & set(tokenizer.all_special_tokens)
    # "##s" as text is two signs and a letter, not the piece.
    assert "##s" not in tokenizer.tokenize("##s")
    assert tokenizer.decode(tokenizer("tyres shoes")["input_ids"], skip_special_tokens=True) == "tyres shoes"


def test_a_prompt_tokenizer_knows_every_byte_and_comes_back() -> None:
    tokenizer = prompt_tokenizer()
    text = " snowman ☃ 雪人 é\n\tend"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(tokenizer("RED")["input_ids"]).strip() == "red"
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == ("<pad>", "</s>", None)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize("tokenizer", [pair_tokenizer(), prompt_tokenizer()], ids=["pair", "prompt"])
def test_saved_and_loaded_it_gives_the_same_ids(tokenizer: object, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert [again(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert again("red", "shoes")["input_ids"] == tokenizer("red", "shoes")["input_ids"]
    assert again.special_tokens_map == tokenizer.special_tokens_map


@pytest.mark.parametrize("train", [train_pair_tokenizer, train_prompt_tokenizer])
def test_the_vocabulary_has_the_size_that_was_asked_for(train: object) -> None:
    assert len(train(iter(made_up_texts()), 400)) == 400


def made_up_texts() -> list[str]:
    """Texts of made-up words, in which many pairs of letters are equally frequent."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(200)]
    return [" ".join(draw.choices(words, k=8)) for _ in range(200)]


def test_every_process_learns_the_same_vocabulary() -> None:
    program = (
        "import json, sys\n"
        "from disranker.text.vocabulary import train_pair_tokenizer, train_prompt_tokenizer\n"
        "texts = json.load(sys.stdin)\n"
        "print(json.dumps([train(texts, 400).get_vocab() for train in (train_pair_tokenizer, train_prompt_tokenizer)]))"
    )
    texts = made_up_texts()
    output = subprocess.check_output([sys.executable, "-c", program], input=json.dumps(texts), text=True)
    here = [train(texts, 400).get_vocab() for train in (train_pair_tokenizer, train_prompt_tokenizer)]
    assert json.loads(output) == here
