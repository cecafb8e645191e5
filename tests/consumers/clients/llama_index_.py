"""LlamaIndex's postprocessors for Cohere, Jina and text-embeddings-inference; all three give the same scores."""

from client import by_index, main


def score(address: str, model: str, query: str, documents: list[str]) -> list[float]:
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.cohere_rerank import CohereRerank
    from llama_index.postprocessor.jinaai_rerank import JinaRerank
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    top_n = len(documents)
    found = []
    for postprocessor in (
        JinaRerank(model=model, base_url=f"{address}/v1", api_key="none", top_n=top_n),
        CohereRerank(model=model, base_url=address, api_key="none", top_n=top_n),
        TextEmbeddingInference(base_url=address, top_n=top_n),
    ):
        nodes = [NodeWithScore(node=TextNode(text=text, id_=str(at)), score=0.0) for at, text in enumerate(documents)]
        ranked = postprocessor.postprocess_nodes(nodes, query_str=query)
        found.append(by_index([(int(node.node.node_id), node.score) for node in ranked]))
    if not found[0] == found[1] == found[2]:
        raise RuntimeError(f"three clients, other scores: {found}")
    return found[0]


main(
    score,
    "llama-index-core",
    "llama-index-postprocessor-jinaai-rerank",
    "llama-index-postprocessor-cohere-rerank",
    "llama-index-postprocessor-tei-rerank",
)
