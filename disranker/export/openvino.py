"""A student for OpenVINO: its intermediate representation, converted from an ONNX file, and what computes with it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from disranker.export.padded import Forward, Inputs


def write_openvino(source: Path, file: Path) -> None:
    """Write an ONNX file as `file` (.xml) and its weights beside it (.bin), in the types that it has.

    Raises:
        ImportError: openvino is not installed.
    """
    openvino = import_openvino()
    file.parent.mkdir(parents=True, exist_ok=True)
    model = openvino.Core().read_model(str(source))
    openvino.save_model(model, str(file), compress_to_fp16=False)


def openvino_forward(file: Path, threads: int | None = None, *, bfloat16: bool = False) -> Forward:
    """What computes the logits with one .xml file, on the CPU; not to be called from two threads at once.

    Raises:
        ImportError: openvino is not installed.
    """
    openvino = import_openvino()
    compiled = openvino.Core().compile_model(
        str(file),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
            # Left alone it takes bfloat16 wherever the processor has it.
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        },
    )
    request = compiled.create_infer_request()
    names = tuple(node.get_any_name() for node in compiled.inputs)

    def forward(inputs: Inputs) -> NDArray[Any]:
        (logits_B1,) = request.infer({name: inputs[name] for name in names}).values()
        return np.asarray(logits_B1)

    return forward


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16.

    Raises:
        ImportError: openvino is not installed.
    """
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def import_openvino() -> ModuleType:
    """The package openvino.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ImportError("openvino is not installed: pip install 'disranker[export]'") from error
    return openvino
