"""Named, versioned formats of (query, title, summary): a prompt for decoders, a pair for encoders.

A bundle remembers the name and version of its template; whoever scores with the bundle formats with the same one.
Changing the text of a template means a new version, never an edit.
"""

from __future__ import annotations

from dataclasses import dataclass

from disranker.schema import Pair


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The running text that a decoder reads: three fields, fixed text before each, then the end-of-sequence token."""

    name: str
    version: int
    before_query: str
    before_title: str
    before_summary: str

    def text(self, pair: Pair) -> str:
        """The prompt as one string, without special tokens."""
        fields = (self.before_query, pair.query, self.before_title, pair.title, self.before_summary, pair.summary)
        return "".join(fields)


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


Template = PromptTemplate | PairTemplate

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        PromptTemplate("plain", 1, before_query="", before_title="\n", before_summary="\n"),
        PromptTemplate("prompt-en", 1, before_query="Query: ", before_title="\nTitle: ", before_summary="\nSummary: "),
        PromptTemplate("prompt-zh", 1, before_query="查询:", before_title="\n标题:", before_summary="\n摘要:"),
        PairTemplate("pair", 1),
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
