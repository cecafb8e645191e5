"""sentence-transformers' CrossEncoder, with any of its back ends."""

from typing import Any

from protocol import Options, Score, serve


def load(options: Options) -> Score:
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(options.threads)
    settings: dict[str, Any] = {}
    if options.backend == "onnx":
        import onnxruntime

        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = options.threads
        settings = {"session_options": session, "provider": "CPUExecutionProvider"}
    elif options.backend.startswith("openvino"):
        settings = {"ov_config": {"INFERENCE_NUM_THREADS": options.threads}}
    if options.backend == "openvino-float32":
        # Where a CPU has bfloat16, OpenVINO computes in it unless told otherwise.
        settings["ov_config"]["INFERENCE_PRECISION_HINT"] = "f32"
    if options.file:
        settings["file_name"] = options.file
    backend = options.backend.removesuffix("-float32")
    model = CrossEncoder(str(options.folder), device="cpu", backend=backend, model_kwargs=settings)

    def score(query: str, documents: list[str]) -> list[float]:
        return model.predict([(query, document) for document in documents], show_progress_bar=False)

    return score


serve(load, "sentence-transformers", "transformers")
