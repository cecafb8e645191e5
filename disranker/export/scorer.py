"""Pairs to scores with an export: `Scorer`'s interface over any of its variants, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from disranker.export.padded import Forward, PaddedScorer
from disranker.export.variants import VARIANTS, find_variant, open_variant
from disranker.models.bundle import load_encoder, read_facts
from disranker.text.encode import PairEncoder


class ExportScorer(PaddedScorer):
    """Scores pairs with an exported ranker; `ExportScorer.load(path).score(pairs)` is the whole interface."""

    def __init__(self, forward: Forward, encoder: PairEncoder, *, variant: str, num_parameters: int) -> None:
        super().__init__(forward, encoder)
        self.variant = variant
        """Its name in the manifest."""
        self.runtime: str = VARIANTS[variant].runtime
        """The package that computes."""
        self.num_parameters = num_parameters

    @classmethod
    def load(cls, path: str | Path, variant: str | None = None, threads: int | None = None) -> Self:
        """The scorer of an export folder.

        `variant` is one of those in its manifest; by default the one that was fastest at so many threads when the
        export was made.  `threads` are those of one forward pass, by default as many as torch would use.

        Raises:
            ValueError: the folder is no export of disranker or has no such variant, or its template has changed.
            ImportError: the variant's runtime is not installed.
        """
        name, _ = find_variant(path, variant, threads)
        facts = read_facts(path)
        forward = open_variant(name, Path(path), threads)
        return cls(forward, load_encoder(path, facts), variant=name, num_parameters=facts["num_parameters"])
