"""OpenVINO and tokenizers alone, on the ONNX file or on an .xml of OpenVINO's own: one padded batch for a request."""

from protocol import Options, Score, serve


def load(options: Options) -> Score:
    import numpy as np
    import openvino
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))  # cuts by itself
    tokenizer.enable_padding()
    core = openvino.Core()
    # Where a CPU has bfloat16, OpenVINO computes in it unless told otherwise.
    settings = {"INFERENCE_NUM_THREADS": options.threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(options.folder / (options.file or "onnx/model.onnx")), "CPU", settings)
    names = {name for node in model.inputs for name in node.get_names()}

    def score(query: str, documents: list[str]) -> list[float]:
        pairs = tokenizer.encode_batch([(query, document) for document in documents])
        inputs = {
            "input_ids": np.array([pair.ids for pair in pairs], dtype=np.int64),
            "attention_mask": np.array([pair.attention_mask for pair in pairs], dtype=np.int64),
            "token_type_ids": np.array([pair.type_ids for pair in pairs], dtype=np.int64),
        }
        logits = model({name: value for name, value in inputs.items() if name in names})[0]
        return logits[:, 0].tolist()

    return score


serve(load, "openvino", "tokenizers")
