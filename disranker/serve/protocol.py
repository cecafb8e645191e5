"""What clients send and get: the request and answer shapes of the rerank APIs in use, as pydantic models.

Two families.  `texts`: text-embeddings-inference (TEI), a bare list of all documents.  `documents`: Cohere (v1, v2),
Jina, vLLM, Infinity, an object with `results`.  Keys that a model does not name are ignored, because every client sends
some; documents are cut as in training whatever a client says of truncation.  No HTTP and no scoring here.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    model_validator,
)

from disranker.config.serve import MAX_DOCUMENTS
from disranker.schema import Pair

_DOCUMENT_KEYS = ("text", "title", "summary")


def _encodable(text: str) -> str:
    # JSON can spell half a character ("\\ud800"), which neither tokenizers nor answers can carry.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("has half of a surrogate pair, which is no text") from None
    return text


Text = Annotated[StrictStr, AfterValidator(_encodable)]


class Document(BaseModel):
    """A document in fields: `title` and `summary`, or `text` in place of the summary."""

    text: Text | None = None
    title: Text | None = None
    summary: Text | None = None

    @model_validator(mode="after")
    def _some_text(self) -> Self:
        if self.text is None and self.title is None and self.summary is None:
            raise ValueError(f"a document that is an object needs {', '.join(_DOCUMENT_KEYS[:-1])} or summary")
        if self.text is not None and self.summary is not None:
            raise ValueError("a document has either text or summary: both are its body")
        return self


def _kind_of_document(value: Any) -> str:
    return "object" if isinstance(value, dict | Document) else "string"


AnyDocument = Annotated[
    Annotated[Text, Tag("string")] | Annotated[Document, Tag("object")], Discriminator(_kind_of_document)
]
"""A document as a string, or in fields."""
# Fails at the first fault: a body of 8 MB can hold four million, and to list them took 80 seconds and 6 GB.
Documents = Annotated[list[AnyDocument], Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)]


class TextsRequest(BaseModel):
    """A request in TEI's shape."""

    query: Text
    texts: Documents
    raw_scores: StrictBool | None = None
    """Raw logits instead of probabilities."""
    return_text: StrictBool | None = None

    @property
    def items(self) -> list[str | Document]:
        return self.texts


class DocumentsRequest(BaseModel):
    """A request in the shape that Cohere, Jina, vLLM and Infinity share."""

    model: Text | None = None
    query: Text
    documents: Documents
    top_n: Annotated[StrictInt, Field(ge=0)] | None = None
    """Documents in the answer; 0 and null: all."""
    return_documents: StrictBool | None = None
    raw_scores: StrictBool | None = None
    """Raw logits instead of probabilities."""

    @property
    def items(self) -> list[str | Document]:
        return self.documents


def _family(value: Any) -> str:
    has_texts = "texts" in value if isinstance(value, dict) else isinstance(value, TextsRequest)
    return "texts" if has_texts else "documents"


AnyRequest = Annotated[
    Annotated[TextsRequest, Tag("texts")] | Annotated[DocumentsRequest, Tag("documents")], Discriminator(_family)
]
"""What `/rerank` takes: TEI's shape if there are `texts`, else the other."""


class TextResult(BaseModel):
    """One document of an answer in TEI's shape."""

    index: int
    score: float
    text: str | None = None


class DocumentText(BaseModel):
    """A document in an answer."""

    text: str
    title: str | None = None


class DocumentResult(BaseModel):
    """One document of an answer in the shape of Cohere, Jina and vLLM."""

    index: int
    relevance_score: float
    document: DocumentText | None = None


class Version(BaseModel):
    """The version of the API, as Cohere's clients read it."""

    version: Literal["1", "2"]


class BilledUnits(BaseModel):
    """A constant that Cohere's clients expect."""

    search_units: int = 1


class Meta(BaseModel):
    """What Cohere's clients expect beside the results."""

    api_version: Version
    billed_units: BilledUnits = BilledUnits()


class Usage(BaseModel):
    """Tokens that the ranker read, after cutting."""

    total_tokens: int


class DocumentsAnswer(BaseModel):
    """An answer in the shape of Cohere, Jina and vLLM; each client reads its part of it."""

    id: str
    model: str
    results: list[DocumentResult]
    usage: Usage
    meta: Meta


class ErrorAnswer(BaseModel):
    """A refusal; the message stands under each of the names that clients look for."""

    error: str
    error_type: str
    message: str
    detail: str


class Ready(BaseModel):
    """Whether requests are taken, and for which model."""

    status: Literal["ready", "stopping"]
    model: str
    backend: str


def error_answer(kind: str, message: str) -> ErrorAnswer:
    """A refusal of some kind (`validation`, `too_large`, `not_found`, `overloaded`, …)."""
    return ErrorAnswer(error=message, error_type=kind, message=message, detail=message)


def to_pair(query: str, item: str | Document) -> Pair:
    """The pair that the ranker scores; a document without fields is a summary."""
    if isinstance(item, str):
        return Pair(query, "", item)
    body = item.summary if item.text is None else item.text
    return Pair(query, item.title or "", body or "")


def texts_answer(request: TextsRequest, order: Sequence[int], scores: NDArray[np.float32]) -> list[TextResult]:
    """All documents, best first; `scores` are raw and belong to the documents as they were sent."""
    shown = scores if request.raw_scores else sigmoid(scores)
    return [
        TextResult(
            index=index,
            score=float(shown[index]),
            text=_text(request.texts[index]).text if request.return_text else None,
        )
        for index in order
    ]


def documents_answer(
    request: DocumentsRequest,
    order: Sequence[int],
    scores: NDArray[np.float32],
    *,
    model: str,
    num_tokens: int,
    version: Literal["1", "2"],
) -> DocumentsAnswer:
    """The first `top_n` documents, best first; `scores` are raw and belong to the documents as they were sent."""
    shown = scores if request.raw_scores else sigmoid(scores)
    results = [
        DocumentResult(
            index=index,
            relevance_score=float(shown[index]),
            document=_text(request.documents[index]) if request.return_documents else None,
        )
        for index in order[: request.top_n or len(order)]
    ]
    return DocumentsAnswer(
        id=uuid.uuid4().hex,
        model=model,
        results=results,
        usage=Usage(total_tokens=num_tokens),
        meta=Meta(api_version=Version(version=version)),
    )


def sigmoid(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 / (1 + exp(-score)) in float64, for scores of any size."""
    return np.exp(-np.logaddexp(0.0, -scores.astype(np.float64)))


def _text(item: str | Document) -> DocumentText:
    if isinstance(item, str):
        return DocumentText(text=item)
    return DocumentText(text=(item.summary if item.text is None else item.text) or "", title=item.title)
