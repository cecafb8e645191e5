"""Pairs to scores with onnxruntime: `Scorer`'s interface over an export folder, on the CPU; torch reads no weight."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from disranker.export.manifest import ONNX_MODEL, read_manifest
from disranker.export.padded import Forward, Inputs, PaddedScorer
from disranker.models.bundle import load_encoder, read_facts
from disranker.text.encode import PairEncoder

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class OnnxScorer(PaddedScorer):
    """Scores pairs with an exported ranker; `OnnxScorer.load(path).score(pairs)` is the whole interface."""

    def __init__(self, forward: Forward, encoder: PairEncoder, *, num_parameters: int) -> None:
        super().__init__(forward, encoder)
        self.num_parameters = num_parameters

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> Self:
        """The scorer of an export folder; `threads` of one forward pass, by default as many as torch would use.

        Raises:
            ValueError: the folder is no export of disranker, or its template has changed.
            ImportError: onnxruntime is not installed.
        """
        read_manifest(path)
        facts = read_facts(path)
        encoder = load_encoder(path, facts)
        return cls(onnx_forward(Path(path, ONNX_MODEL), threads), encoder, num_parameters=facts["num_parameters"])


def onnx_forward(file: Path, threads: int | None = None) -> Forward:
    """What computes the logits with one ONNX file, on the CPU; it is given the inputs that the file names.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    session = open_session(file, threads)
    names = tuple(node.name for node in session.get_inputs())

    def forward(inputs: Inputs) -> NDArray[Any]:
        (logits_B1,) = session.run(None, {name: inputs[name] for name in names})
        return np.asarray(logits_B1)

    return forward


def open_session(file: Path, threads: int | None = None) -> InferenceSession:
    """An onnxruntime session on the CPU that says nothing but errors.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


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
