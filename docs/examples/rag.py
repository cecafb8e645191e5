"""A RAG chain with LangChain: tantivy retrieves, a running server reranks, a language model answers from the best.

    pip install langchain-cohere langchain-classic tantivy onnxruntime tokenizers pyarrow
    disranker serve demo/student-onnx &
    python docs/examples/rag.py --server http://127.0.0.1:8000 --model student-onnx \
        --judged demo/world/judged.test.parquet

The reranker is LangChain's own for Cohere, told to ask our server.  The language model here repeats the first passage
of its prompt, so that the chain runs without a network and shows what it was given; put your chat model in its place.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_cohere import CohereRerank
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models.llms import LLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnablePassthrough
from retrieve_and_rerank import RETRIEVED, Engine, read_judged

KEPT = 3
"""Documents that the language model reads."""
PROMPT = PromptTemplate.from_template(
    "Answer the question from these passages, and name the one that you used.\n\n{passages}\n\n"
    "Question: {question}\nAnswer:"
)


class EngineRetriever(BaseRetriever):
    """The embedded engine, as LangChain sees it."""

    engine: Any

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        found = self.engine.retrieve(query, RETRIEVED)
        return [Document(page_content=text, metadata={"doc_id": doc_id}) for doc_id, text in found]


class FirstPassage(LLM):
    """Stands for a language model: it answers with the first passage of its prompt."""

    @property
    def _llm_type(self) -> str:
        return "first-passage"

    def _call(self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any) -> str:
        found = re.search(r"^\[1\] (.*)$", prompt, re.MULTILINE)
        return f"{found.group(1)} [1]" if found else "There are no passages."


def join(documents: list[Document]) -> str:
    """The passages of a prompt, each with its number, on one line each."""
    return "\n".join(f"[{number}] {' '.join(one.page_content.split())}" for number, one in enumerate(documents, 1))


def main() -> None:
    """Ask one question, and show what its answer was made of."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--server", default="http://127.0.0.1:8000", help="address of `disranker serve`")
    parser.add_argument("--model", default="student-onnx", help="name of the model that it serves")
    parser.add_argument("--judged", type=Path, default=Path("demo/world/judged.test.parquet"), help="its documents")
    parser.add_argument("--question", help="what to ask; by default the first judged query that finds enough")
    args = parser.parse_args()
    documents, queries, _ = read_judged(args.judged)
    engine = Engine(documents)
    question = args.question or next(query for query in queries.values() if len(engine.retrieve(query, KEPT)) == KEPT)
    retriever = ContextualCompressionRetriever(
        base_retriever=EngineRetriever(engine=engine),
        # The server has no keys; the client wants one.
        base_compressor=CohereRerank(base_url=args.server, cohere_api_key="none", model=args.model, top_n=KEPT),
    )
    chain = (
        {"passages": retriever | join, "question": RunnablePassthrough()} | PROMPT | FirstPassage() | StrOutputParser()
    )
    print(f"question: {question}")
    print(f"answer: {chain.invoke(question)}")
    for number, one in enumerate(retriever.invoke(question), 1):
        print(f"  [{number}] {one.metadata['doc_id']} {one.metadata['relevance_score']:.3f} {one.page_content[:80]}")


if __name__ == "__main__":
    main()
