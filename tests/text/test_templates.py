"""The formats, letter by letter: whoever changes one must give it a new version."""

from __future__ import annotations

import pytest

from disranker.schema import Pair
from disranker.text.templates import (
    TEMPLATES,
    DocumentPrompt,
    PairTemplate,
    PromptTemplate,
    document_text,
    ends_where_the_answer_begins,
    get_template,
)

PAIR = Pair("red shoes", "Shoes", "light and red")


@pytest.mark.parametrize(
    ("name", "version", "text"),
    [
        ("plain", 1, "red shoes\nShoes\nlight and red"),
        ("prompt-en", 1, "Query: red shoes\nTitle: Shoes\nSummary: light and red"),
        ("prompt-zh", 1, "查询:red shoes\n标题:Shoes\n摘要:light and red"),
        (
            "label-en",
            1,
            "Rate how well the page answers the query, from 0 (not at all) to 4 (perfectly).\n\n"
            "Query:\nred shoes\n\nTitle:\nShoes\n\nSummary:\nlight and red\n\nRelevance:\n",
        ),
        (
            "label-zh",
            1,
            "请判断网页与查询的相关程度，从0（毫不相关）到4（完全相关）。\n\n"
            "查询：\nred shoes\n\n标题：\nShoes\n\n摘要：\nlight and red\n\n相关程度：\n",
        ),
        (
            "qwen3-reranker",
            1,
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
            'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
            "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
            "<Query>: red shoes\n<Document>: Shoes light and red"
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
    ],
)
def test_prompts(name: str, version: int, text: str) -> None:
    template = get_template(name, version)
    assert isinstance(template, PromptTemplate | DocumentPrompt)
    assert template.text(PAIR) == text


def test_which_prompts_end_where_an_answer_begins() -> None:
    found = {name for name, template in TEMPLATES.items() if ends_where_the_answer_begins(template)}
    assert found == {"label-en", "label-zh", "qwen3-reranker"}


def test_the_pair_joins_title_and_summary_by_one_space() -> None:
    template = get_template("pair", 1)
    assert isinstance(template, PairTemplate)
    assert template.texts(PAIR) == ("red shoes", "Shoes light and red")


@pytest.mark.parametrize(
    ("title", "summary", "document"), [("", "b", "b"), ("a", "", "a"), ("", "", ""), (" a", "b ", "a b")]
)
def test_the_document_is_stripped(title: str, summary: str, document: str) -> None:
    assert document_text(title, summary) == document


def test_every_template_is_found_by_its_own_name_and_is_tested_here() -> None:
    assert {name: template.name for name, template in TEMPLATES.items()} == {name: name for name in TEMPLATES}
    assert set(TEMPLATES) == {"plain", "prompt-en", "prompt-zh", "pair", "label-en", "label-zh", "qwen3-reranker"}


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown template 'promt-en'; choose one of plain, prompt-en, "):
        get_template("promt-en")


def test_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match=r"template 'pair' is version 1 here, but version 2 was asked for"):
        get_template("pair", 2)
