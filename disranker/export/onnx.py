"""A student bundle as ONNX: one fp32 file in a folder that other software opens, with proof that it scores as before.

The stock padded model is traced, not the packed one: a consumer knows neither our attention nor our packing.  The
folder also stays a bundle that transformers, sentence-transformers' `CrossEncoder` and `Scorer` open.  Decoders are not
exported; a teacher is served from its bundle.

    onnx/model.onnx    input_ids, attention_mask, token_type_ids [batch, sequence] int64 -> logits [batch, 1] float32
    tokenizer.json     cuts pairs at max_tokens by itself, for consumers that read no other file; pads nothing
    disranker.json     the facts of the bundle, and under `export` everything a consumer must know
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from disranker.export.parity import Parity, ParityError, check_parity
from disranker.export.scorer import ONNX_MODEL, OnnxScorer, pad
from disranker.models.bundle import FACTS_NAME, load_bundle, read_facts, save_bundle
from disranker.models.ranker import has_token_types
from disranker.models.scorer import Scorer
from disranker.schema import Pair
from disranker.shards import write_json
from disranker.text.encode import PairEncoder

MAX_OPSET = 20
"""The newest operator set that torch's tracing exporter writes."""
_MAX_FILE_BYTES = 2**31 - 2**20
"""A protobuf file ends at 2 GiB; larger models need a second file, which half of the consumers cannot read."""
_PAIR_FORMAT = "text pair (query, document); document = title + ' ' + summary, stripped"


def export_student(
    bundle: str | Path,
    out: str | Path,
    pairs: Sequence[Pair],
    *,
    opset: int,
    max_difference: float,
    facts: Mapping[str, Any],
) -> Parity:
    """Write the export folder of an encoder bundle, once it has been shown to score `pairs` as the bundle does.

    `facts` (resolved settings, provenance) go into `disranker.json` under `export`.  An earlier export in `out` is
    replaced; when anything fails, `out` is left as it was.

    Raises:
        ValueError: the bundle is a decoder's, `out` holds a bundle, there are no pairs, the operator set or the size of
            the model is out of range; `ParityError` when a score differs by more than `max_difference`.
        ImportError: onnx or onnxruntime is not installed.
    """
    target = Path(out)
    if (target / FACTS_NAME).exists() and "export" not in read_facts(target):
        raise ValueError(f"{target} holds a bundle, which an export would overwrite; choose another folder")
    is_new = not target.exists()
    # Inside the target, so that moving a file into place is a rename even where the target is a mounted volume.
    staged = target / f".export-{os.getpid()}"
    try:
        manifest = {**write_export(bundle, staged, opset=opset), **facts}
        parity = check_parity(Scorer.load(bundle), OnnxScorer.load(staged), pairs)
        if parity.max_difference > max_difference:
            raise ParityError(parity, max_difference)
        manifest["parity"] = {**asdict(parity), "max_difference_accepted": max_difference}
        write_json(staged / FACTS_NAME, {**read_facts(staged), "export": manifest})
        _publish(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if is_new and target.exists() and not any(target.iterdir()):
            target.rmdir()
    return parity


def write_export(bundle: str | Path, folder: Path, *, opset: int) -> dict[str, Any]:
    """Write everything but the parity into an empty folder; the manifest of what was written.

    Raises:
        ValueError, ImportError: as `export_student`.
    """
    if not 14 <= opset <= MAX_OPSET:
        raise ValueError(f"opset = {opset}: the exporter writes operator sets 14 to {MAX_OPSET}")
    if read_facts(bundle)["head"] != "cls":
        raise ValueError(
            f"{bundle} is a decoder's bundle, and only encoders are exported to ONNX; "
            "distill a student from it, or serve the bundle itself, which stock transformers and vLLM open"
        )
    model, encoder, facts = load_bundle(bundle, dtype="float32")
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size > _MAX_FILE_BYTES:
        raise ValueError(f"{bundle} has {size:,} bytes of fp32 weights, more than the 2 GiB that one ONNX file holds")
    # In fp32 whatever the bundle is in, so that every consumer of the folder computes the same number.
    save_bundle(folder, model, encoder, facts)
    _bake_truncation(folder / "tokenizer.json", encoder.max_tokens)
    input_names = trace(model, encoder, folder / ONNX_MODEL, opset=opset)
    return {
        "file": ONNX_MODEL.as_posix(),
        "bytes": (folder / ONNX_MODEL).stat().st_size,
        "precision": "float32",
        "opset": opset,
        "inputs": [{"name": name, "shape": ["batch", "sequence"], "type": "int64"} for name in input_names],
        "output": {"name": "logits", "shape": ["batch", 1], "type": "float32", "meaning": "raw score, no activation"},
        "pair_format": _PAIR_FORMAT,
        "max_tokens": encoder.max_tokens,
        "truncation": "longest_first",
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "onnx")},
    }


def trace(model: PreTrainedModel, encoder: PairEncoder, file: Path, *, opset: int) -> tuple[str, ...]:
    """Write an encoder as one ONNX file; the names of its inputs.

    Raises:
        ImportError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError("onnx is not installed: pip install 'disranker[export]'") from error

    # Plain matrix products: every runtime has them, and optimizers of ONNX graphs know their pattern.
    model.set_attn_implementation("eager")
    model.eval()
    examples = [Pair("a b", "a b c", "a b c d e f g h"), Pair("a", "b", "c")]
    padded = pad(encoder.encode(examples), encoder.tokenizer.pad_token_id)
    names = ("input_ids", "attention_mask", *(("token_type_ids",) if has_token_types(model) else ()))
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # Constants that the tracer warns of depend on the model alone; the parity check holds them to that.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Logits(model, names),
            tuple(torch.from_numpy(padded[name]) for name in names),
            str(file),
            input_names=list(names),
            output_names=["logits"],
            dynamic_axes={**{name: {0: "batch", 1: "sequence"} for name in names}, "logits": {0: "batch"}},
            opset_version=opset,
            dynamo=False,
        )
    onnx.checker.check_model(str(file), full_check=True)
    return names


class _Logits(nn.Module):
    """The stock model as a function of its named inputs."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits_B1: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits_B1


def _bake_truncation(file: Path, max_tokens: int) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(max_tokens, stride=0, strategy="longest_first", direction="right")
    tokenizer.no_padding()
    tokenizer.save(str(file))


def _publish(staged: Path, target: Path) -> None:
    """Move the finished files into place; until the last one is there, the folder is no export."""
    (target / FACTS_NAME).unlink(missing_ok=True)
    # What was derived from the earlier model, an int8 file for one, goes with it.
    shutil.rmtree(target / ONNX_MODEL.parent, ignore_errors=True)
    files = [path.relative_to(staged) for path in staged.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda path: (path.name == FACTS_NAME, path)):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged / file, target / file)
