"""rerankers."""

from protocol import Options, Score, serve


def load(options: Options) -> Score:
    from rerankers import Reranker

    ranker = Reranker(str(options.folder), model_type="cross-encoder", device="cpu", verbose=0)

    def score(query: str, documents: list[str]) -> list[float]:
        found = ranker.rank(query, documents, doc_ids=list(range(len(documents))))
        return [one.score for one in sorted(found.results, key=lambda one: one.doc_id)]

    return score


serve(load, "rerankers")
