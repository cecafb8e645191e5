"""Cohere's own client, first version of the API, which gives the documents back."""

from client import by_index, main


def score(address: str, model: str, query: str, documents: list[str]) -> list[float]:
    import cohere

    client = cohere.Client(api_key="none", base_url=address)
    answer = client.rerank(model=model, query=query, documents=documents, return_documents=True)
    if [one.document.text for one in answer.results] != [documents[one.index] for one in answer.results]:
        raise RuntimeError(f"other documents came back: {answer.results}")
    return by_index([(one.index, one.relevance_score) for one in answer.results])


main(score, "cohere")
