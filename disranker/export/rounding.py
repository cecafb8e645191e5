"""The int8 variants of an export: calibrated on pairs of the user, with the sites that hurt most left in float.

How much a site hurts is measured: it alone is rounded, and the scores of calibration pairs are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from disranker.export.drift import first_queries
from disranker.export.int8 import write_dynamic, write_static
from disranker.export.onnxruntime import onnx_forward
from disranker.export.openvino import write_openvino
from disranker.export.padded import PaddedScorer, length_batches, pad
from disranker.export.products import choose_ranges, observe
from disranker.export.variants import VARIANTS
from disranker.schema import Judgment, Pair
from disranker.text.encode import PairEncoder

MAX_CALIBRATION_PAIRS = 256
_MIN_APART = 64
"""Pairs that are enough to calibrate on; where fewer are left, those that drift is measured on are taken."""
_HARM_PAIRS = 64
_DYNAMIC = "onnx-int8-dynamic"


def choose_calibration(judgments: Sequence[Judgment], max_measured: int) -> tuple[list[Pair], bool]:
    """Pairs to calibrate on, spread evenly, and whether none is of a query that drift is measured on."""
    measured = {judgment.query_id for judgment in first_queries(judgments, max_measured)}
    apart = [judgment.pair for judgment in judgments if judgment.query_id not in measured]
    pairs = apart if len(apart) >= _MIN_APART else [judgment.pair for judgment in judgments]
    at = np.linspace(0, len(pairs) - 1, min(MAX_CALIBRATION_PAIRS, len(pairs))).round().astype(int)
    return [pairs[index] for index in at.tolist()], pairs is apart


class Rounder:
    """Writes int8 variants of one fp32 ONNX file."""

    def __init__(self, source: Path, encoder: PairEncoder, pairs: Sequence[Pair]) -> None:
        import onnx

        self._source, self._encoder = source, encoder
        tokens = encoder.encode(pairs)
        batches = length_batches([len(one.ids) for one in tokens])
        pad_token_id = encoder.tokenizer.pad_token_id
        inputs = (pad([tokens[index] for index in batch], pad_token_id) for batch in batches)
        self.ranges = choose_ranges(observe(onnx.load(source), inputs))
        at = np.linspace(0, len(tokens) - 1, min(_HARM_PAIRS, len(tokens))).round().astype(int)
        self._tokens = [tokens[index] for index in at.tolist()]
        self._by_harm: dict[bool, list[str]] = {}

    def write(self, variant: str, folder: Path, in_float: Collection[str] = ()) -> list[str]:
        """Write a variant of an export folder, without the sites `in_float`; the products that have 8 bits in it."""
        file = folder / VARIANTS[variant].file
        if VARIANTS[variant].runtime == "onnxruntime":
            return self._write_onnx(variant == _DYNAMIC, file, in_float)
        between = file.with_suffix(".onnx")
        try:
            names = self._write_onnx(False, between, in_float)
            write_openvino(between, file)
        finally:
            between.unlink(missing_ok=True)
        return names

    def by_harm(self, variant: str) -> list[str]:
        """The sites, most harmful first: by the mean change of a calibration pair's score when a site alone has 8 bits.

        What is measured of onnxruntime holds for OpenVINO too, whose files round the same.
        """
        is_dynamic = variant == _DYNAMIC
        if is_dynamic not in self._by_harm:
            file = self._source.with_name(".harm.onnx")
            expected = self._score(self._source)
            harm = {}
            try:
                for site in self.ranges:
                    self._write_onnx(is_dynamic, file, self.ranges.keys() - {site})
                    harm[site] = float(np.abs(self._score(file) - expected).mean())
            finally:
                file.unlink(missing_ok=True)
            self._by_harm[is_dynamic] = sorted(harm, key=lambda site: -harm[site])
        return self._by_harm[is_dynamic]

    def _write_onnx(self, is_dynamic: bool, file: Path, in_float: Collection[str]) -> list[str]:
        ranges = {site: one for site, one in self.ranges.items() if site not in in_float}
        return (write_dynamic if is_dynamic else write_static)(self._source, file, ranges)

    def _score(self, file: Path) -> NDArray[np.float32]:
        return PaddedScorer(onnx_forward(file), self._encoder).score_tokens(self._tokens)
