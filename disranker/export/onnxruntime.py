"""Computing an ONNX file's logits with onnxruntime, on the CPU."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from disranker.export.padded import Forward, Inputs

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def onnx_forward(file: Path, threads: int | None = None) -> Forward:
    """What computes the logits with one ONNX file, on the CPU; it is given the inputs that the file names.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    session = open_session(str(file), threads)
    names = tuple(node.name for node in session.get_inputs())

    def forward(inputs: Inputs) -> NDArray[Any]:
        (logits_B1,) = session.run(None, {name: inputs[name] for name in names})
        return np.asarray(logits_B1)

    return forward


def open_session(model: str | bytes, threads: int | None = None) -> InferenceSession:
    """A session on the CPU that says nothing but errors, of a file or of a model in memory.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def import_onnxruntime() -> ModuleType:
    """The package onnxruntime.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("onnxruntime is not installed: pip install 'disranker[export]'") from error
    return onnxruntime
