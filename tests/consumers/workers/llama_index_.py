"""LlamaIndex: the post-processor of a retriever, which reads 512 tokens unless told otherwise."""

import json

from protocol import Options, Score, serve


def load(options: Options) -> Score:
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.sbert_rerank import SentenceTransformerRerank

    max_tokens = json.loads((options.folder / "tokenizer_config.json").read_text("utf-8"))["model_max_length"]
    settings = {"max_length": max_tokens}
    reranker = SentenceTransformerRerank(
        model=str(options.folder), top_n=1000, device="cpu", cross_encoder_kwargs=settings
    )

    def score(query: str, documents: list[str]) -> list[float]:
        nodes = [NodeWithScore(node=TextNode(id_=str(number), text=text)) for number, text in enumerate(documents)]
        found = reranker.postprocess_nodes(nodes, query_str=query)
        return [one.score for one in sorted(found, key=lambda one: int(one.node.node_id))]

    return score


serve(load, "llama-index-core", "llama-index-postprocessor-sbert-rerank")
