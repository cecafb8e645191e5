"""Haystack's rankers for Cohere, Jina and text-embeddings-inference; all three give the same scores."""

from client import by_index, main


def score(address: str, model: str, query: str, documents: list[str]) -> list[float]:
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.cohere import CohereRanker
    from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
    from haystack_integrations.components.rankers.jina import JinaRanker

    key = Secret.from_token("none")
    top_k = len(documents)
    found = []
    for ranker in (
        JinaRanker(model=model, api_key=key, base_url=f"{address}/v1/rerank", top_k=top_k),
        CohereRanker(model=model, api_key=key, api_base_url=address, top_k=top_k),
        HuggingFaceTEIRanker(url=address, token=None, top_k=top_k),
    ):
        pages = [Document(content=text, meta={"at": at}) for at, text in enumerate(documents)]
        ranked = ranker.run(query=query, documents=pages)["documents"]
        found.append(by_index([(page.meta["at"], page.score) for page in ranked]))
    if not found[0] == found[1] == found[2]:
        raise RuntimeError(f"three clients, other scores: {found}")
    return found[0]


main(score, "haystack-ai", "cohere-haystack", "jina-haystack", "huggingface-api-haystack")
