"""The gate of an export: every variant is made, scored beside the bundle, refused or accepted, and timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disranker.export.drift import (
    MAX_NDCG_LOSS,
    Drift,
    DriftError,
    PairScorer,
    find_fault,
    measure_drift,
    measure_speeds,
)
from disranker.export.manifest import ONNX_MODEL
from disranker.export.openvino import has_bfloat16, write_openvino
from disranker.export.padded import PaddedScorer
from disranker.export.rounding import Rounder
from disranker.export.variants import VARIANTS, bytes_of, open_variant
from disranker.schema import Judgment
from disranker.text.encode import PairEncoder

BUNDLE = "bundle"
"""The name of the bundle in torch among those that are timed."""
_LEFT_IN_FLOAT = (0, 1, 2, 4, 8)
"""Numbers of sites that are left in float, one after the other, until the drift is within its limit."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A variant, and what it costs and changes."""

    name: str
    bytes: int
    drift: Drift
    fault: str | None
    """Why it is beyond the limit of drift, which was accepted."""
    rounded: int | None = None
    """Products in 8 bits; None where none was asked for."""
    in_float: Sequence[str] = ()
    """Sites that were left in float because they hurt most."""
    speeds: dict[str, float] = field(default_factory=dict)
    """Threads -> pairs a second."""

    def __str__(self) -> str:
        accepted = f"; accepted: {self.fault}" if self.fault else ""
        left = f", {len(self.in_float)} sites in float" if self.in_float else ""
        return f"{self.name}: {describe_cost(self.bytes, self.speeds)}{left}, {self.drift}{accepted}"

    def as_json(self) -> dict[str, Any]:
        """What the manifest says of it."""
        variant = VARIANTS[self.name]
        rounded = {} if self.rounded is None else {"products_in_8_bits": self.rounded, "in_float": list(self.in_float)}
        return {
            "file": variant.file.as_posix(),
            "runtime": variant.runtime,
            "precision": variant.precision,
            "bytes": self.bytes,
            **rounded,
            "drift": asdict(self.drift),
            "pairs_per_second": self.speeds,
            "accepted_fault": self.fault,
        }


class Gate:
    """Makes variants of an export folder that holds the ONNX file, and lets pass what is within its limit."""

    def __init__(
        self,
        folder: Path,
        encoder: PairEncoder,
        judgments: Sequence[Judgment],
        expected: NDArray[np.float32],
        *,
        max_difference: float,
        accept_drift: bool,
        rounder: Rounder | None,
    ) -> None:
        """`expected` are the bundle's scores [N] of `judgments`; int8 variants need a `rounder`."""
        self._folder, self._encoder, self._judgments, self._expected = folder, encoder, judgments, expected
        self._max_difference, self._accept_drift, self._rounder = max_difference, accept_drift, rounder

    def pass_variant(self, name: str) -> Measured:
        """Write a variant, where it is not there, and measure its drift.

        Raises:
            DriftError: it is beyond its limit, and that is not accepted.
            ValueError: this machine does not compute in its type.
            ImportError: its runtime is not installed.
        """
        if VARIANTS[name].precision == "int8":
            measured = self._round(name)
        else:
            self._write(name)
            measured = self._measure(name)
        if measured.fault and not self._accept_drift:
            raise DriftError(name, measured.fault, measured.drift)
        return measured

    def _write(self, name: str) -> None:
        variant = VARIANTS[name]
        if variant.precision == "bfloat16" and not has_bfloat16():
            raise ValueError(
                f"variant {name}: this processor does not compute in bfloat16, so neither its scores nor its speed "
                "could be measured; take it out of variants"
            )
        file = self._folder / variant.file
        if variant.runtime == "openvino" and not file.exists():
            write_openvino(self._folder / ONNX_MODEL, file)

    def _round(self, name: str) -> Measured:
        """With as few sites in float as bring it within its limit, up to a number of them."""
        assert self._rounder is not None
        for number in _LEFT_IN_FLOAT:
            in_float = self._rounder.by_harm(name)[:number] if number else []
            rounded = len(self._rounder.write(name, self._folder, in_float))
            measured = replace(self._measure(name), rounded=rounded, in_float=in_float)
            if measured.fault is None or not rounded:
                break
        return measured

    def _measure(self, name: str) -> Measured:
        scores = self.open(name).score([judgment.pair for judgment in self._judgments])
        drift = measure_drift(self._judgments, self._expected, scores)
        fault = find_fault(
            drift,
            precision=VARIANTS[name].precision,
            max_difference=self._max_difference,
            max_ndcg_loss=MAX_NDCG_LOSS,
        )
        return Measured(name, bytes_of(name, self._folder), drift, fault)

    def open(self, name: str) -> PaddedScorer:
        """A variant of the folder for scoring, with as many threads as torch has."""
        return PaddedScorer(open_variant(name, self._folder), self._encoder)


def time_variants(
    variants: Sequence[Measured],
    open_variant: Callable[[str], PairScorer],
    bundle: PairScorer,
    judgments: Sequence[Judgment],
) -> tuple[list[Measured], dict[str, float]]:
    """The variants with their speeds, and the bundle's: all of them in turn, so that a busy moment favours none."""
    loaders: dict[str, Callable[[], PairScorer]] = {BUNDLE: lambda: bundle}
    loaders |= {variant.name: partial(open_variant, variant.name) for variant in variants}
    speeds = measure_speeds(loaders, [judgment.pair for judgment in judgments])
    return [replace(variant, speeds=speeds[variant.name]) for variant in variants], speeds[BUNDLE]


def find_fastest(variants: Sequence[Measured]) -> dict[str, str]:
    """Threads -> the fastest variant of those within their limits, or of all where none is."""
    good = [variant for variant in variants if variant.fault is None] or variants
    return {threads: max(good, key=lambda variant: variant.speeds[threads]).name for threads in good[0].speeds}


def describe_cost(size: int, speeds: dict[str, float]) -> str:
    """Size and speed for a reader."""
    rates = " / ".join(f"{rate:,.0f}" for rate in speeds.values())
    return f"{size / 1e6:.1f} MB, {rates} pairs/s at {' / '.join(speeds)} threads"
