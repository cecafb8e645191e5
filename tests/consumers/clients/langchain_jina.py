"""LangChain's compressor for Jina; its address is a constant of the module."""

from client import by_index, main


def score(address: str, model: str, query: str, documents: list[str]) -> list[float]:
    from langchain_community.document_compressors import jina_rerank
    from langchain_core.documents import Document

    jina_rerank.JINA_API_URL = f"{address}/v1/rerank"
    compressor = jina_rerank.JinaRerank(model=model, jina_api_key="none", top_n=len(documents))
    pages = [Document(page_content=text, metadata={"at": at}) for at, text in enumerate(documents)]
    found = compressor.compress_documents(pages, query)
    return by_index([(page.metadata["at"], page.metadata["relevance_score"]) for page in found])


main(score, "langchain-community")
