"""Named, versioned formats of (query, title, summary): a prompt for decoders, a pair for encoders.

A bundle remembers the name and version of its template; whoever scores with the bundle formats with the same one.
Changing the text of a template means a new version, never an edit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from disranker.schema import Pair


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The running text that a decoder reads: three fields, fixed text before each and after the last, an end token.

    Each field is tokenized for itself.  A prompt whose last token is where an answer is predicted has no end token.
    """

    name: str
    version: int
    before_query: str
    before_title: str
    before_summary: str
    suffix: str = ""
    """Fixed text after the summary, which is never cut."""
    end_token: bool = True
    """Whether the end-of-sequence token comes last."""

    def text(self, pair: Pair) -> str:
        """The prompt as one string, without special tokens."""
        fields = (self.before_query, pair.query, self.before_title, pair.title, self.before_summary, pair.summary)
        return "".join(fields) + self.suffix


@dataclass(frozen=True, slots=True)
class DocumentPrompt:
    """The prompt of a published reranker: query and one document in running text, which ends where the answer begins.

    All but the suffix is tokenized as one text, as publishers do it, so the ids are theirs.
    """

    name: str
    version: int
    before_query: str
    before_document: str
    suffix: str
    """Fixed text after the document, which is never cut."""

    def context(self, query: str) -> str:
        """The prompt up to the document."""
        return f"{self.before_query}{query}{self.before_document}"

    def text(self, pair: Pair) -> str:
        """The prompt as one string, without special tokens of the tokenizer's own."""
        return f"{self.context(pair.query)}{document_text(pair.title, pair.summary)}{self.suffix}"


@dataclass(frozen=True, slots=True)
class TextFormat:
    """What a language model learns from a click besides its prompt: the document and then the query, or the document.

    For continued pretraining alone: no ranker reads it.
    """

    name: str
    version: int
    before_title: str
    before_summary: str
    before_query: str | None
    """None: there is no query."""

    def text(self, pair: Pair) -> str:
        """The example as one string, without special tokens."""
        document = f"{self.before_title}{pair.title}{self.before_summary}{pair.summary}"
        return document if self.before_query is None else f"{document}{self.before_query}{pair.query}"


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """The two texts that an encoder reads: the query, and title and summary joined by one space and stripped.

    Any consumer that sends plain (query, document) strings therefore sends the trained input.
    """

    name: str
    version: int

    def texts(self, pair: Pair) -> tuple[str, str]:
        """(query, document) as strings."""
        return pair.query, document_text(pair.title, pair.summary)


def document_text(title: str, summary: str) -> str:
    """Title and summary as the one document string of a pair ranker."""
    return f"{title} {summary}".strip()


def ends_where_the_answer_begins(template: Template) -> bool:
    """Whether the token after the prompt is the answer, which a head that reads a language model's logits needs."""
    return isinstance(template, DocumentPrompt) or (isinstance(template, PromptTemplate) and not template.end_token)


Template = PromptTemplate | DocumentPrompt | PairTemplate

QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""The instruction with which Qwen3-Reranker was published; another one is another template."""

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        PromptTemplate("plain", 1, before_query="", before_title="\n", before_summary="\n"),
        PromptTemplate("prompt-en", 1, before_query="Query: ", before_title="\nTitle: ", before_summary="\nSummary: "),
        PromptTemplate("prompt-zh", 1, before_query="查询:", before_title="\n标题:", before_summary="\n摘要:"),
        PairTemplate("pair", 1),
        # A label is predicted after a line break: every tokenizer has a bare digit there, and no blank before it.
        PromptTemplate(
            "label-en",
            1,
            before_query="Rate how well the page answers the query, from 0 (not at all) to 4 (perfectly).\n\nQuery:\n",
            before_title="\n\nTitle:\n",
            before_summary="\n\nSummary:\n",
            suffix="\n\nRelevance:\n",
            end_token=False,
        ),
        PromptTemplate(
            "label-zh",
            1,
            before_query="请判断网页与查询的相关程度，从0（毫不相关）到4（完全相关）。\n\n查询：\n",
            before_title="\n\n标题：\n",
            before_summary="\n\n摘要：\n",
            suffix="\n\n相关程度：\n",
            end_token=False,
        ),
        # https://huggingface.co/Qwen/Qwen3-Reranker-0.6B, to the letter.
        DocumentPrompt(
            "qwen3-reranker",
            1,
            before_query=(
                "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
                'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
                f"<Instruct>: {QWEN3_INSTRUCTION}\n<Query>: "
            ),
            before_document="\n<Document>: ",
            suffix="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
    )
}


def get_template(name: str, version: int | None = None) -> Template:
    """The template of that name; `version` guards a bundle against a package that formats differently.

    Raises:
        ValueError: no template has this name, or its version differs from the one asked for.
    """
    if name not in TEMPLATES:
        raise ValueError(f"unknown template {name!r}; choose one of {', '.join(TEMPLATES)}")
    template = TEMPLATES[name]
    if version is not None and template.version != version:
        raise ValueError(
            f"template {name!r} is version {template.version} here, but version {version} was asked for; "
            "use the disranker release that wrote the bundle"
        )
    return template


FORMATS: dict[str, TextFormat] = {
    template.name: template
    for template in (
        # An empty line before the query: in the prompt `plain` the query is the first line, and one follows the other.
        TextFormat("query-plain", 1, before_title="", before_summary="\n", before_query="\n\n"),
        TextFormat("query-en", 1, before_title="Title: ", before_summary="\nSummary: ", before_query="\nQuery: "),
        TextFormat("query-zh", 1, before_title="标题:", before_summary="\n摘要:", before_query="\n查询:"),
        TextFormat("document-plain", 1, before_title="", before_summary="\n", before_query=None),
        TextFormat("document-en", 1, before_title="Title: ", before_summary="\nSummary: ", before_query=None),
        TextFormat("document-zh", 1, before_title="标题:", before_summary="\n摘要:", before_query=None),
    )
}
_WORDS_OF = {"plain": "plain", "prompt-en": "en", "prompt-zh": "zh", "label-en": "en", "label-zh": "zh"}


def get_format(kind: Literal["query", "document"], template: Template) -> TextFormat:
    """The format that says `query` or `document` in the words of a prompt template.

    Raises:
        ValueError: there is none for this template.
    """
    if template.name not in _WORDS_OF:
        raise ValueError(
            f"text.template {template.name} has no format of its kind for a {kind} as text; "
            f"choose one of {', '.join(_WORDS_OF)}"
        )
    return FORMATS[f"{kind}-{_WORDS_OF[template.name]}"]
