"""LangChain's package for Cohere, as the compressor of a retriever."""

from client import by_index, main


def score(address: str, model: str, query: str, documents: list[str]) -> list[float]:
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    compressor = CohereRerank(model=model, base_url=address, cohere_api_key="none", top_n=len(documents))
    pages = [Document(page_content=text, metadata={"at": at}) for at, text in enumerate(documents)]
    found = compressor.compress_documents(pages, query)
    return by_index([(page.metadata["at"], page.metadata["relevance_score"]) for page in found])


main(score, "langchain-cohere", "cohere")
