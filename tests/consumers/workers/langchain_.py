"""LangChain: the compressor of a retriever, which gives the order alone; the scores are those of its model."""

from protocol import Options, Score, serve


def load(options: Options) -> Score:
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder
    from langchain_core.documents import Document

    model = HuggingFaceCrossEncoder(model_name=str(options.folder), model_kwargs={"device": "cpu"})
    reranker = CrossEncoderReranker(model=model, top_n=1000)

    def score(query: str, documents: list[str]) -> list[float]:
        scores = [float(one) for one in model.score([(query, document) for document in documents])]
        pages = [Document(page_content=text, metadata={"at": at}) for at, text in enumerate(documents)]
        order = [page.metadata["at"] for page in reranker.compress_documents(pages, query)]
        if sorted(order) != list(range(len(documents))) or order != sorted(order, key=lambda at: -scores[at]):
            raise RuntimeError(f"the order {order} is not that of the scores {scores}")
        return scores

    return score


serve(load, "langchain-community", "langchain-classic")
