"""onnxruntime and tokenizers alone: one padded batch for a request."""

from protocol import Options, Score, serve


def load(options: Options) -> Score:
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))  # cuts by itself
    tokenizer.enable_padding()
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = options.threads
    file = options.folder / (options.file or "onnx/model.onnx")
    session = onnxruntime.InferenceSession(str(file), session_options, providers=["CPUExecutionProvider"])
    names = {node.name for node in session.get_inputs()}

    def score(query: str, documents: list[str]) -> list[float]:
        pairs = tokenizer.encode_batch([(query, document) for document in documents])
        inputs = {
            "input_ids": np.array([pair.ids for pair in pairs], dtype=np.int64),
            "attention_mask": np.array([pair.attention_mask for pair in pairs], dtype=np.int64),
            "token_type_ids": np.array([pair.type_ids for pair in pairs], dtype=np.int64),
        }
        (logits,) = session.run(["logits"], {name: inputs[name] for name in names})
        return logits[:, 0].tolist()

    return score


serve(load, "onnxruntime", "tokenizers")
