"""Haystack: the ranker of a pipeline."""

from protocol import Options, Score, serve


def load(options: Options) -> Score:
    from haystack import Document
    from haystack.utils import ComponentDevice
    from haystack_integrations.components.rankers.sentence_transformers import SentenceTransformersSimilarityRanker

    device = ComponentDevice.from_str("cpu")
    ranker = SentenceTransformersSimilarityRanker(
        model=str(options.folder), device=device, token=None, scale_score=False, top_k=1000
    )
    if hasattr(ranker, "warm_up"):
        ranker.warm_up()

    def score(query: str, documents: list[str]) -> list[float]:
        pages = [Document(id=str(number), content=text) for number, text in enumerate(documents)]
        found = ranker.run(query=query, documents=pages)["documents"]
        return [one.score for one in sorted(found, key=lambda one: int(one.id))]

    return score


serve(load, "haystack-ai", "sentence-transformers-haystack")
