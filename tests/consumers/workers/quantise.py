"""What sentence-transformers makes of a model for its own back ends: the fp32 file, and int8 by its own function.

    python quantise.py MODEL OUT --backend onnx|openvino --pairs pairs.jsonl

Dynamic int8 for this CPU with onnx.  With openvino, static int8 calibrated on `pairs`, rows of {"pair": [query,
document]}; left to itself the function would download single sentences for that.
"""

import argparse
from pathlib import Path

INT8 = "int8"


def quantise_onnx(model: str, out: str) -> None:
    """onnx/model.onnx and onnx/model_int8.onnx"""
    from sentence_transformers import CrossEncoder, export_dynamic_quantized_onnx_model

    opened = CrossEncoder(model, device="cpu", backend="onnx")
    opened.save_pretrained(out)
    kind = "avx512_vnni" if "avx512_vnni" in Path("/proc/cpuinfo").read_text() else "avx2"
    export_dynamic_quantized_onnx_model(opened, kind, out, file_suffix=INT8)


def quantise_openvino(model: str, out: str, pairs: str) -> None:
    """openvino/openvino_model.xml and openvino/openvino_model_int8.xml"""
    from sentence_transformers import CrossEncoder, export_static_quantized_openvino_model

    opened = CrossEncoder(model, device="cpu", backend="openvino")
    opened.save_pretrained(out)
    data = {"dataset_name": pairs, "dataset_config_name": "default", "dataset_split": "train", "column_name": "pair"}
    export_static_quantized_openvino_model(opened, None, out, file_suffix=INT8, **data)


parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("out")
parser.add_argument("--backend", required=True, choices=["onnx", "openvino"])
parser.add_argument("--pairs", help="folder of one file")
args = parser.parse_args()
if args.backend == "onnx":
    quantise_onnx(args.model, args.out)
else:
    quantise_openvino(args.model, args.out, args.pairs)
