"""The API clients of rerankers, for the shapes of Cohere, Jina and text-embeddings-inference."""

from client import by_index, main


def score(address: str, model: str, query: str, documents: list[str]) -> list[float]:
    from rerankers.models.api_rankers import APIRanker

    found = []
    for provider, path in (
        ("jina", "/v1/rerank"),
        ("cohere", "/v1/rerank"),
        ("text-embeddings-inference", "/rerank"),
    ):
        ranker = APIRanker(model, "none", provider, verbose=0, url=f"{address}{path}")
        ranked = ranker.rank(query, documents, doc_ids=list(range(len(documents))))
        found.append(by_index([(one.document.doc_id, one.score) for one in ranked.results]))
    if not found[0] == found[1] == found[2]:
        raise RuntimeError(f"three clients, other scores: {found}")
    return found[0]


main(score, "rerankers")
