"""Ours, in the project's own environment: an export's variant (`--file`), or a bundle in torch (`--backend torch`)."""

from protocol import Options, Score, serve


def load(options: Options) -> Score:
    import torch

    from disranker.export.scorer import ExportScorer
    from disranker.models.scorer import Scorer
    from disranker.schema import Pair

    torch.set_num_threads(options.threads)
    if options.backend == "torch":
        scorer = Scorer.load(options.folder)
    else:
        scorer = ExportScorer.load(options.folder, variant=options.file or None, threads=options.threads)
    return lambda query, documents: scorer.score([Pair(query, "", document) for document in documents]).tolist()


serve(load, "torch", "onnxruntime")
