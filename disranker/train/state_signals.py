"""Signals of stage 3 that read more of a student than its scores, and the student that has it all at hand.

    stored states   pooled-mse, pooled-cosine, rkd-distance, rkd-angle    the teacher's pooled states, from the store
    layers          hidden-mse, attention-relation                        the teacher itself, run beside the student

Shapes: Q queries, D documents of the largest, B documents in all, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from disranker.config.distill_terms import NEED_REPRESENTATIONS
from disranker.losses.reduction import mean_over_documents
from disranker.losses.states import (
    hidden_mse,
    pooled_cosine,
    pooled_mse,
    relation_divergence,
    rkd_angle,
    rkd_distance,
)
from disranker.models.ranker import Ranker
from disranker.models.states import Layers, Outputs
from disranker.models.student import HIDDEN, POOLED, Student, projection
from disranker.schema import stable_seed
from disranker.train.frozen_teacher import FrozenTeacher, load_teacher
from disranker.train.objectives import scores_by_query

if TYPE_CHECKING:
    from disranker.config.distill import DistillConfig
    from disranker.data.batches import DistillBatch
    from disranker.models.packed import Packed
    from disranker.teacher.store import Store
    from disranker.text.encode import PairEncoder
    from disranker.train.signals import Signal

_PROJECTED: Mapping[str, Callable[..., Tensor]] = {"pooled-mse": pooled_mse, "pooled-cosine": pooled_cosine}
_RELATIONS: Mapping[str, Callable[..., Tensor]] = {"rkd-distance": rkd_distance, "rkd-angle": rkd_angle}


@dataclass(frozen=True, slots=True)
class StoredStates:
    """The student's pooled states, projected or as they are, against the teacher's in the store."""

    name: str

    def loss(self, outputs: Outputs, batch: DistillBatch) -> Tensor:
        """Summed over queries; documents that the teacher has not scored are left out."""
        assert batch.represented_BH is not None
        is_projected = self.name in _PROJECTED
        states_BH = outputs.projected_BH if is_projected else outputs.pooled_BH
        assert states_BH is not None
        states_QDH = _states_by_query(states_BH, batch.mask_QD)
        teacher_QDH = _states_by_query(batch.represented_BH, batch.mask_QD)
        loss = (_PROJECTED if is_projected else _RELATIONS)[self.name]
        return loss(states_QDH, teacher_QDH, batch.taught_QD, reduction="sum")


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Hidden states of some layers, token by token, against those of the teacher's layers that they are mapped to."""

    layers: Mapping[int, int]
    """the student's layer -> the teacher's"""
    teacher: FrozenTeacher
    name: str = "hidden-mse"

    def loss(self, outputs: Outputs, batch: DistillBatch) -> Tensor:
        """Mean over the mapped layers, summed over queries; every document counts, scored or not."""
        ours, theirs = _layers_of_both(outputs, self.teacher, batch.packed)
        errors_BM = torch.stack(
            [
                hidden_mse(ours.hidden_TH[layer], theirs.hidden_TH[mapped], batch.packed.runs)
                for layer, mapped in self.layers.items()
            ],
            dim=1,
        )
        return _sum_of_row(errors_BM.mean(dim=1), batch)


@dataclass(frozen=True, slots=True)
class AttentionRelations:
    """Relations between the queries, the keys and the values of the last layer's tokens against the teacher's."""

    layers: tuple[int, int]
    """the student's, the teacher's"""
    relation_heads: int
    teacher: FrozenTeacher
    name: str = "attention-relation"

    def loss(self, outputs: Outputs, batch: DistillBatch) -> Tensor:
        """The three relations together, summed over queries; every document counts, scored or not."""
        ours, theirs = _layers_of_both(outputs, self.teacher, batch.packed)
        states = zip(ours.attention[self.layers[0]], theirs.attention[self.layers[1]], strict=True)
        divergences_BR = torch.stack(
            [
                relation_divergence(mine_TAW, its_TAW, batch.packed.runs, relation_heads=self.relation_heads)
                for mine_TAW, its_TAW in states
            ],
            dim=1,
        )
        return _sum_of_row(divergences_BR.sum(dim=1), batch)


def _states_by_query(states_BH: Tensor, mask_QD: Tensor) -> Tensor:
    """[B, H] states of all documents, query after query, into [Q, D, H] where the mask is True."""
    return states_BH.new_zeros(*mask_QD.shape, states_BH.shape[1]).masked_scatter(mask_QD[:, :, None], states_BH)


def _layers_of_both(outputs: Outputs, teacher: FrozenTeacher, packed: Packed) -> tuple[Layers, Layers]:
    assert outputs.layers is not None
    return outputs.layers, teacher.layers(packed)


def _sum_of_row(values_B: Tensor, batch: DistillBatch) -> Tensor:
    """Values of the sequences in the order of the row: mean over the documents of a query, summed over queries."""
    values_B = torch.empty_like(values_B).index_copy(0, batch.packed.order, values_B)
    return mean_over_documents(scores_by_query(values_B, batch.mask_QD), batch.mask_QD, reduction="sum")


# --- from the settings ------------------------------------------------------------------------------------------------


def build_student(
    ranker: Ranker, config: DistillConfig, encoder: PairEncoder, store: Store
) -> tuple[Student, list[Signal]]:
    """The student with the projections that the terms need, and the signals of this module, in the terms' order.

    Raises:
        ValueError: the store holds no representations, the teacher reads other tokens, a layer or a number of heads
            does not fit, or one of the two models cannot be looked into.
    """
    terms = {term.name: term for term in config.distill}
    hidden, relation = terms.get("hidden-mse"), terms.get("attention-relation")
    layers = (hidden.layers or {}) if hidden is not None else {}
    last = [_depth(ranker)] if relation is not None else []
    projections: dict[str, nn.Module] = {}
    signals: dict[str, Signal] = {name: StoredStates(name) for name in terms.keys() & NEED_REPRESENTATIONS}
    if signals:
        represented_width = _represented_width(store, sorted(signals))
        if signals.keys() & _PROJECTED.keys():
            projections[POOLED] = projection(_width(ranker), represented_width, seed=_seed(config, POOLED))
    if hidden is not None or relation is not None:
        assert config.teacher is not None
        beside = load_teacher(config.teacher, encoder, dtype=config.model.dtype)
        _check_layers(layers, ranker, beside)
        if layers and _width(beside) != _width(ranker):
            projections[HIDDEN] = projection(_width(ranker), _width(beside), seed=_seed(config, HIDDEN))
        its_last = [_depth(beside)] if relation is not None else []
        teacher = FrozenTeacher(beside, hidden_layers=layers.values(), attention_layers=its_last)
        if hidden is not None:
            signals["hidden-mse"] = HiddenStates(layers, teacher)
        if relation is not None:
            heads = _relation_heads(relation.relation_heads, ranker, beside)
            signals["attention-relation"] = AttentionRelations((last[0], its_last[0]), heads, teacher)
    student = Student(ranker, projections, hidden_layers=layers.keys(), attention_layers=last)
    return student, [signals[name] for name in terms if name in signals]


def _depth(ranker: Ranker) -> int:
    return int(ranker.stock.config.num_hidden_layers)


def _width(ranker: Ranker) -> int:
    return int(ranker.stock.config.hidden_size)


def _seed(config: DistillConfig, name: str) -> int:
    return stable_seed(config.training.seed, "projection", name)


def _represented_width(store: Store, names: Sequence[str]) -> int:
    """The width of the states in a store.

    Raises:
        ValueError: it holds none.
    """
    if store.manifest["representation"] is None:
        raise ValueError(
            f"{' and '.join(names)} of distill read the teacher's pooled states, but {store.folder} holds none: score "
            "into another folder with --representation pooled"
        )
    return int(store.manifest["representation_width"])


def _check_layers(layers: Mapping[int, int], student: Ranker, teacher: Ranker) -> None:
    """Refuse models whose layers cannot be read, and layers that they do not have.

    Raises:
        ValueError: there is one.
    """
    for role, ranker, named in (("student", student, layers.keys()), ("teacher", teacher, layers.values())):
        family, depth = ranker.stock.config.model_type, _depth(ranker)
        if not ranker.is_packed:
            raise ValueError(
                f"hidden-mse and attention-relation look into the layers of a model that runs packed; the {role}'s "
                f"family {family} does not"
            )
        outside = [layer for layer in named if layer > depth]
        if outside:
            raise ValueError(
                f"layers of hidden-mse names layer {outside[0]} of the {role}, which has {depth}: 0 is the embeddings, "
                f"{depth} the last"
            )


def _relation_heads(wanted: int | None, student: Ranker, teacher: Ranker) -> int:
    """Heads that both models' queries, keys and values are cut into.

    Raises:
        ValueError: a width is no multiple of it, or one of the two is a decoder.
    """
    heads = wanted or int(student.stock.config.num_attention_heads)
    for role, ranker in (("student", student), ("teacher", teacher)):
        if ranker.is_decoder:
            raise ValueError(f"attention-relation is for encoders, and the {role} is a decoder: use hidden-mse")
        if _width(ranker) % heads:
            raise ValueError(
                f"attention-relation cuts the {role}'s width of {_width(ranker)} into {heads} relation heads, which "
                "does not come out even: set relation_heads to a number that divides both widths"
            )
    return heads
