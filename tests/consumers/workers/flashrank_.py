"""FlashRank, on layouts/flashrank."""

import json

from protocol import Options, Score, limit_onnxruntime, serve


def load(options: Options) -> Score:
    limit_onnxruntime(options.threads)
    from flashrank import Ranker, RerankRequest
    from flashrank.Config import model_file_map

    model_file_map["disranker"] = "model.onnx"
    max_tokens = json.loads((options.folder / "tokenizer_config.json").read_text("utf-8"))["model_max_length"]
    ranker = Ranker("disranker", cache_dir=str(options.folder / "layouts" / "flashrank"), max_length=max_tokens)

    def score(query: str, documents: list[str]) -> list[float]:
        passages = [{"id": number, "text": document} for number, document in enumerate(documents)]
        found = ranker.rerank(RerankRequest(query=query, passages=passages))
        return [one["score"] for one in sorted(found, key=lambda one: one["id"])]

    return score


serve(load, "FlashRank", "onnxruntime")
