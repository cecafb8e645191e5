"""FastEmbed, the library of Qdrant."""

from protocol import Options, Score, serve


def load(options: Options) -> Score:
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    file = options.file or "onnx/model.onnx"
    TextCrossEncoder.add_custom_model(model="me/disranker", model_file=file, sources=ModelSource(hf="me/disranker"))
    model = TextCrossEncoder("me/disranker", specific_model_path=str(options.folder), threads=options.threads)
    return lambda query, documents: list(model.rerank(query, documents))


serve(load, "fastembed", "onnxruntime")
