"""Cohere's own client, second version of the API."""

from client import by_index, main


def score(address: str, model: str, query: str, documents: list[str]) -> list[float]:
    import cohere

    client = cohere.ClientV2(api_key="none", base_url=address)
    answer = client.rerank(model=model, query=query, documents=documents, top_n=len(documents))
    return by_index([(one.index, one.relevance_score) for one in answer.results])


main(score, "cohere")
