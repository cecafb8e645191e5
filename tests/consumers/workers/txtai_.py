"""txtai: the cross-encoder of its similarity pipeline."""

from protocol import Options, Score, serve


def load(options: Options) -> Score:
    from txtai.pipeline import CrossEncoder

    model = CrossEncoder(str(options.folder), gpu=False)

    def score(query: str, documents: list[str]) -> list[float]:
        # multilabel None: no activation.
        found = model(query, documents, multilabel=None)
        return [score for _, score in sorted(found)]

    return score


serve(load, "txtai", "transformers")
