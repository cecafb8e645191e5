"""The settings of shrinking an encoder."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from disranker.config.parts import Positive
from disranker.settings import InputPath, OutputFolder, Settings


class ShrinkConfig(Settings):
    """A smaller encoder out of a larger one: some of its layers, the part of its vocabulary that is in use, or both."""

    model: str
    """A folder, a bundle, a hub name, or `package:PACKAGE/FOLDER`.  A ranker keeps its head, and a bundle stays one."""
    out: OutputFolder
    """Folder to write; training starts from it by `model.name`."""
    layers: Literal["first", "spaced"] | list[Annotated[int, Field(ge=0)]] | None = None
    """Which layers stay: the `first` ones; `spaced` evenly from the first to the last one, as DistilBERT was made
    (arXiv 1910.01108); or a list of them, counted from 0, as in [0, 2, 4].  null keeps all."""
    num_layers: Positive | None = None
    """How many layers stay; for first and spaced."""
    vocabulary: list[InputPath] = []
    """Clicks, judged pairs or candidates: the vocabulary is cut to the tokens of their texts, and all single
    characters stay, too, so that any other word can be spelt.  Empty keeps all.  WordPiece only."""

    @model_validator(mode="after")
    def _something_to_cut(self) -> Self:
        if self.layers is None and not self.vocabulary:
            raise ValueError("there is nothing to cut: give layers or vocabulary")
        return self

    @model_validator(mode="after")
    def _a_number_for_a_rule(self) -> Self:
        if isinstance(self.layers, str) and self.num_layers is None:
            raise ValueError(f"layers {self.layers} needs num_layers, how many of them stay")
        if not isinstance(self.layers, str) and self.num_layers is not None:
            raise ValueError("num_layers is for layers first and spaced; leave it out")
        return self

    @model_validator(mode="after")
    def _layers_in_order(self) -> Self:
        if isinstance(self.layers, list) and (
            not self.layers or any(after <= before for before, after in pairwise(self.layers))
        ):
            raise ValueError(f"layers {self.layers} must name at least one, in their order and each once")
        return self
