"""Stores of several teachers over the same pairs, made into one store that any student learns from unchanged.

Teachers score on different scales, so each is standardised first (mean 0, standard deviation 1 over the pairs that all
of them scored); the fused score of a pair is then the weighted mean of what its teachers say:

    mean      equal weights
    weights   given weights
    gate      weights of each query by the teachers' entropies over its documents: softmax(-entropy share / temperature)
    stack     weights fitted on judged pairs (stacking.py)

The gate is Kwon et al. 2020 (Adaptive knowledge distillation based on entropy, ICASSP) for lists: a teacher that tells
a query's documents apart weighs more in it than one that cannot decide.

An ordering has no scale.  Where one teacher is an ordering, every teacher counts by its positions: the fused score is
minus the weighted mean position of the document in its query's list (Borda; Aslam and Montague 2001, Models for
metasearch, SIGIR), and the fused store is an ordering again.  Only mean and weights make sense there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from disranker.data.certainty import entropy_shares
from disranker.data.groups import collect_judged
from disranker.data.readers import read_judged
from disranker.shards import file_hash
from disranker.teacher.dissent import describe_dissent, dissent_lines
from disranker.teacher.keys import KeyIndex, keys_of
from disranker.teacher.merge import Kept, Piece, pieces_of, write_pieces
from disranker.teacher.panel import Floats, Missing, Panel, read_panel
from disranker.teacher.stacking import Judged, cross_fit, fit_weights, judged_lines, measure_fusion
from disranker.teacher.store import SCORE_SCHEMA, begin_store, finish_store, read_finished

Method = Literal["mean", "weights", "gate", "stack"]
DEFAULT_TEMPERATURE = 0.1
"""Of the gate: a teacher whose entropy share is 0.1 lower has e times the weight."""


def fuse_stores(
    folders: Sequence[Path],
    out: Path,
    method: Method,
    *,
    weights: Sequence[float] | None = None,
    temperature: float | None = None,
    judged: Sequence[Path] = (),
    missing: Missing = "error",
) -> dict[str, Any]:
    """Write the store of all pairs of these stores with fused scores; its manifest.

    `judged` are labelled pairs that stack fits its weights on; whatever the method, they measure teachers and fusion.
    The manifest's `teacher` names method, weights and the teachers, its `fusion` where they disagree.  No
    representations are carried over.  Memory: some 100 bytes a candidate of every store.

    Raises:
        ValueError: a parameter does not go with the method, a store is not finished, two are of one teacher, or what
            the method needs is missing: scores, scales, labels; what and where is named.
    """
    check_call(folders, method, weights=weights, temperature=temperature, judged=judged)
    manifests = [read_finished(folder) for folder in folders]
    by_position = any(one["teacher"].get("kind") == "ordering" for one in manifests)
    _check_teachers(folders, manifests, method, missing, by_position=by_position)
    panel, kept = read_panel(folders, manifests, missing)
    numbers = range(len(folders))
    columns = [-panel.positions(at) if by_position else panel.standardised(at) for at in numbers]
    labelled = _read_judged(panel, columns, judged, missing) if judged else None

    temperature = DEFAULT_TEMPERATURE if method == "gate" and temperature is None else temperature
    fixed = _fixed_weights(method, weights, labelled, len(folders))
    by_teacher = _gate(panel, columns, temperature) if temperature is not None else [np.full(1, w) for w in fixed]
    fused = _weighted_mean(panel, columns, by_teacher)
    identity = _identify(manifests, method, by_position=by_position)
    identity |= {"missing": missing}
    if method == "gate":
        identity |= {"temperature": temperature}
    else:
        identity |= {"weights": fixed.tolist()}
    if method == "stack":
        identity |= {"judged": [file_hash(path) for path in judged]}
    content = json.dumps(identity, sort_keys=True).encode()
    identity["fingerprint"] = hashlib.blake2b(content, digest_size=16).hexdigest()

    facts = _describe(panel, columns, method, labelled, fused)
    inputs = [one["input"] for one in manifests]
    joined = inputs[0] if len(set(inputs)) == 1 else "fused: " + " + ".join(inputs)
    per_shard = manifests[0]["pairs_per_shard"]
    begin_store(out, identity, joined, per_shard, None)
    num_shards = write_pieces(out, _fused_pieces(folders, manifests, kept, panel, fused), kept, per_shard)
    return finish_store(out, num_shards, int(kept.scored.sum() + kept.alias.sum()), {"fusion": facts})


def check_call(
    folders: Sequence[Path],
    method: Method,
    *,
    weights: Sequence[float] | None,
    temperature: float | None,
    judged: Sequence[Path],
) -> None:
    """Refuse parameters that do not go together; nothing is read.

    Raises:
        ValueError: they do not; the option is named.
    """
    if len(folders) < 2:
        raise ValueError("one store has nothing to be fused with: give two or more")
    if (weights is not None) != (method == "weights"):
        raise ValueError(f"--weights goes with --method weights, and is needed there; the method is {method}")
    if weights is not None:
        if len(weights) != len(folders):
            raise ValueError(f"{len(weights)} weights for {len(folders)} stores: give one for each, in their order")
        if not all(np.isfinite(weights)) or min(weights) < 0.0 or sum(weights) == 0.0:
            shown = " ".join(f"{weight:g}" for weight in weights)
            raise ValueError(f"the weights are {shown}: give numbers of 0 or more, not all of them 0")
    if temperature is not None and (method != "gate" or not 0.0 < temperature < np.inf):
        raise ValueError(f"--temperature is {temperature:g} with --method {method}: it is of the gate, and above 0")
    if method == "stack" and not judged:
        raise ValueError("--method stack fits weights on labels: give judged pairs with --judged")


def _check_teachers(
    folders: Sequence[Path], manifests: Sequence[dict[str, Any]], method: Method, missing: Missing, *, by_position: bool
) -> None:
    for at, one in enumerate(manifests):
        for folder, other in zip(folders[:at], manifests[:at], strict=True):
            if one["teacher"] == other["teacher"]:
                raise ValueError(
                    f"{folder} and {folders[at]} are of one teacher: join them with `disranker store merge`"
                )
    if not by_position:
        return
    first = next(
        folder for folder, one in zip(folders, manifests, strict=True) if one["teacher"].get("kind") == "ordering"
    )
    if method in ("gate", "stack"):
        raise ValueError(f"{first} is an ordering, which has no scale for {method} to go by: use mean or weights")
    if missing == "others":
        raise ValueError(
            f"{first} is an ordering: positions in lists of different documents cannot be compared; "
            "use --missing skip-pair, which counts positions among the documents that all teachers have"
        )


# --- weights and scores -----------------------------------------------------------------------------------------------


def _fixed_weights(
    method: Method, weights: Sequence[float] | None, labelled: Judged | None, num_teachers: int
) -> Floats:
    """[K] weights that hold for every query and sum to 1."""
    if method == "stack":
        assert labelled is not None
        return fit_weights(labelled)
    given = np.ones(num_teachers) if weights is None else np.array(weights, dtype=np.float64)
    return given / given.sum()


def _gate(panel: Panel, columns: Sequence[Floats], temperature: float) -> list[Floats]:
    """K columns [N] of weights; those of a pair sum to 1.

    A teacher that scored fewer than two documents of a query cannot be sure of their order: its entropy share is 1.
    """
    shares = [
        entropy_shares(column[has], panel.queries[has], len(panel.query_ids))
        for column, has in zip(columns, panel.has, strict=True)
    ]
    logits = [-np.nan_to_num(one, nan=1.0) / temperature for one in shares]
    largest = np.maximum.reduce(logits)
    masses = [np.exp(one - largest) for one in logits]
    total = np.sum(masses, axis=0)
    return [(mass / total)[panel.queries] for mass in masses]


def _weighted_mean(panel: Panel, columns: Sequence[Floats], weights: Sequence[Floats]) -> NDArray[np.float32]:
    """[N] mean over the teachers that scored a pair; `weights` are K columns of [N] or [1]."""
    total, fused = np.zeros(len(panel)), np.zeros(len(panel))
    for column, weight, has in zip(columns, weights, panel.has, strict=True):
        total += weight * has
        fused += weight * has * column
    without = int((total == 0.0).sum())
    if without:
        raise ValueError(f"{without:,} pairs were scored by teachers of weight 0 alone: use --missing skip-pair")
    return (fused / total).astype(np.float32)


def _read_judged(panel: Panel, columns: Sequence[Floats], paths: Sequence[Path], missing: Missing) -> Judged:
    """The judged pairs that every teacher scored.

    Raises:
        ValueError: some teacher did not score one, and `missing` is error; or there is none that all scored.
    """
    pair_set, labels = collect_judged(read_judged(paths))
    rows = KeyIndex(panel.keys).find(keys_of(pair_set.pairs))
    scored = rows >= 0
    scored[scored] = panel.shared[rows[scored]]
    without = np.flatnonzero(~scored)
    if len(without) and (missing == "error" or not scored.any()):
        first = f"({pair_set.query_ids[without[0]]}, {pair_set.doc_ids[without[0]]})"
        or_else = ", or choose --missing skip-pair to go by the others" if scored.any() else ""
        raise ValueError(
            f"{len(without):,} of {len(labels):,} judged pairs have no score of some teacher, first {first}; score "
            f"them, too, and merge{or_else}"
        )
    kept = np.flatnonzero(scored)
    scores_MK = np.stack([column[rows[kept]] for column in columns], axis=1)
    return Judged(pair_set.take(kept.tolist()), labels[kept], scores_MK, len(without))


# --- what is written --------------------------------------------------------------------------------------------------


def _identify(manifests: Sequence[dict[str, Any]], method: Method, *, by_position: bool) -> dict[str, Any]:
    identity: dict[str, Any] = {"kind": "ordering" if by_position else "fused", "method": method}
    if by_position:
        identity["rule"] = "score = minus the weighted mean position"
    return {**identity, "teachers": [one["teacher"] for one in manifests]}


def _describe(
    panel: Panel, columns: Sequence[Floats], method: Method, labelled: Judged | None, fused: NDArray[np.float32]
) -> dict[str, Any]:
    shared = panel.shared
    dissent = describe_dissent([column[shared] for column in columns], panel.queries[shared], panel.query_ids)
    facts: dict[str, Any] = {
        "stores": [folder.name for folder in panel.folders],
        "left_out": panel.num_left_out,
        "partly_scored": int((~shared).sum()),
        "dissent": dissent,
    }
    if labelled is not None:
        if method == "stack":
            scores, how = cross_fit(labelled), "weights fitted on the other folds of the queries"
        else:
            rows = KeyIndex(panel.keys).find(keys_of(labelled.pair_set.pairs))
            scores, how = fused[rows].astype(np.float64), f"by {method}"
        facts["judged"] = measure_fusion(labelled, scores, how)
    return facts


def _fused_pieces(
    folders: Sequence[Path], manifests: Sequence[dict[str, Any]], kept: Kept, panel: Panel, fused: NDArray[np.float32]
) -> Iterator[Piece]:
    """The pieces of the stores with fused scores where a row is kept."""
    begin = done = 0
    for piece in pieces_of(folders, manifests):
        end = begin + len(piece.table)
        table = piece.table
        if piece.is_scored:
            scored = kept.scored[begin:end]
            scores = np.zeros(len(table), dtype=np.float32)
            scores[scored] = fused[done : done + int(scored.sum())]
            done += int(scored.sum())
            at = table.schema.get_field_index("teacher_score")
            table = table.set_column(at, SCORE_SCHEMA.field("teacher_score"), pa.array(scores, pa.float32()))
        yield Piece(piece.folder, table, None)
        begin = end
    assert done == len(panel)


def fusion_lines(manifest: dict[str, Any]) -> list[str]:
    """How a store was fused and where its teachers disagree, for the screen; nothing for a store that was not."""
    facts, teacher = manifest.get("fusion"), manifest["teacher"]
    if facts is None:
        return []
    lines = []
    for number, (name, one) in enumerate(zip(facts["stores"], teacher["teachers"], strict=True), start=1):
        share = f"weight {teacher['weights'][number - 1]:.3f}" if "weights" in teacher else "weight by query"
        lines.append(f"teacher {number} {name}: {share}, {one.get('kind', '')} {one.get('fingerprint', '')}")
    for count, what in (("left_out", "left out"), ("partly_scored", "scored by some teachers only")):
        if facts[count]:
            lines.append(f"missing   {facts[count]:,} pairs {what}")
    unit = "positions" if teacher["kind"] == "ordering" else "standardised scores"
    lines += dissent_lines(facts["dissent"], unit)
    return [*lines, *judged_lines(facts["judged"])] if "judged" in facts else lines
