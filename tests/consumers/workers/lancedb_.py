"""LanceDB: documents in a table, found by vector, put in order by the ranker."""

import tempfile

from protocol import Options, Score, serve


def load(options: Options) -> Score:
    import lancedb
    from lancedb.rerankers import CrossEncoderReranker

    folder = tempfile.TemporaryDirectory()
    database = lancedb.connect(folder.name)
    reranker = CrossEncoderReranker(model_name=str(options.folder), device="cpu")

    def score(query: str, documents: list[str]) -> list[float]:
        rows = [{"id": number, "text": text, "vector": [0.0, number]} for number, text in enumerate(documents)]
        table = database.create_table("documents", rows, mode="overwrite")
        found = table.search([0.0, 0.0]).limit(len(rows)).rerank(reranker, query_string=query).to_list()
        assert folder is not None  # it lives as long as this function
        return [one["_relevance_score"] for one in sorted(found, key=lambda one: one["id"])]

    return score


serve(load, "lancedb", "sentence-transformers")
