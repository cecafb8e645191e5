"""What stage 3 reads: scores and labels of the same documents, and inputs from which nothing can be learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from disranker.config.distill import DistillConfig
from disranker.data.readers import write_records
from disranker.schema import Candidate, Judgment
from disranker.shards import read_manifest, write_manifest
from disranker.teacher.foreign import foreign_teacher
from disranker.teacher.scoring import score_candidates
from disranker.train.distilled import DistillPairs, read_distill_pairs
from disranker.train.mining import Chosen, choose_examples
from disranker.train.run import input_files
from tests.teacher import fakes

LEAST: dict[str, Any] = {
    "out": "x",
    "model": {"name": "m"},
    "optim": {"learning_rate": 1e-3},
    "training": {"steps": 1},
}
CANDIDATES = [Candidate(f"q{i // 4}", f"d{i}", f"query {i // 4}", f"title {i}", "") for i in range(12)]


def judgment(candidate: Candidate, label: int, **changed: str) -> Judgment:
    texts = {"query": candidate.query, "title": candidate.title, "summary": candidate.summary, **changed}
    return Judgment(candidate.query_id, candidate.doc_id, label=label, **texts)


# Two candidates of q0 are judged, one more of q0 and three of q9 are no candidates.
JUDGED = [
    judgment(CANDIDATES[1], 2),
    judgment(CANDIDATES[3], 0),
    Judgment("q0", "new", "query 0", "another title", "", 1),
    *(Judgment("q9", f"d{at}", "query 9", f"title {at}", "", at) for at in range(3)),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with candidates, a store and judged pairs."""
    write_records(tmp_path / "candidates.parquet", Candidate, CANDIDATES)
    write_records(tmp_path / "judged.parquet", Judgment, JUDGED)
    fakes.score(tmp_path / "store", fakes.Counting(represents=True), CANDIDATES, representation="pooled")
    return tmp_path


def config_of(folder: Path, **changed: Any) -> DistillConfig:
    inputs = {"store": folder / "store", "candidates": [folder / "candidates.parquet"]}
    return DistillConfig.model_validate({**LEAST, **inputs, **changed})


def read(folder: Path, **changed: Any) -> DistillPairs:
    return read_distill_pairs(config_of(folder, **changed))


def with_labels(folder: Path, *names: str) -> dict[str, Any]:
    return {"judged": [folder / "judged.parquet"], "supervised": list(names or ["ranknet"])}


def rewrite(
    folder: Path,
    candidates: Sequence[Candidate] | None = None,
    judged: Sequence[Judgment] = (),
    *,
    represents: bool = False,
) -> None:
    """Other candidates with a store of their own, or other judged pairs."""
    if candidates is not None:
        write_records(folder / "candidates.parquet", Candidate, candidates)
        for file in (folder / "store").iterdir():
            file.unlink()
        teacher, kind = fakes.Counting(represents=represents), "pooled" if represents else None
        fakes.score(folder / "store", teacher, candidates, representation=kind)
    if judged:
        write_records(folder / "judged.parquet", Judgment, judged)


# --- what is read ---


def test_candidates_alone_are_the_whole(folder: Path) -> None:
    pairs = read(folder)
    assert pairs.pair_set.doc_ids == [candidate.doc_id for candidate in CANDIDATES]
    assert [query_id for query_id, _ in pairs.groups] == ["q0", "q1", "q2"]
    raw = np.array([fakes.true_score(candidate) for candidate in CANDIDATES])
    assert pairs.targets.teacher_scores == pytest.approx((raw - raw.mean()) / raw.std(), abs=1e-5)
    assert pairs.targets.teacher_scores.dtype == np.float32
    assert np.isnan(pairs.targets.labels).all() and pairs.targets.representations is None
    expected = {
        "scored": "3 queries, 12 pairs, 4 to 4, median 4 documents per query",
        "loss": "point-mse + margin-mse",
    }
    assert pairs.facts == expected


def test_judged_pairs_join_their_candidates_and_the_others_follow(folder: Path) -> None:
    pairs = read(folder, **with_labels(folder, "ranknet", "mse"))
    ids = list(zip(pairs.pair_set.query_ids, pairs.pair_set.doc_ids, strict=True))
    assert ids[12:] == [("q0", "new"), ("q9", "d0"), ("q9", "d1"), ("q9", "d2")] and len(ids) == 16
    labels = {at: label for at, label in zip(ids, pairs.targets.labels.tolist(), strict=True) if not np.isnan(label)}
    assert labels == {(one.query_id, one.doc_id): float(one.label) for one in JUDGED}
    # Those that are no candidates have no score, though the store might know their text.
    assert np.isnan(pairs.targets.teacher_scores).tolist() == [False] * 12 + [True] * 4
    assert {query_id: rows.tolist() for query_id, rows in pairs.groups}["q0"] == [0, 1, 2, 3, 12]
    assert pairs.facts["judged"] == (
        "2 queries, 6 pairs, 3 to 3, median 3 documents per query; 2 pairs are scored, too"
    )
    assert pairs.facts["labels"].startswith("2 of 4 queries are judged; 0 of 2 groups")
    assert pairs.facts["loss"] == "point-mse + margin-mse; labels: ranknet + mse"
    # Scores are standardised over the whole store, whatever is judged.
    assert np.array_equal(pairs.targets.teacher_scores[:12], read(folder).targets.teacher_scores)


def test_states_are_read_from_the_store_by_row(folder: Path) -> None:
    pairs = read(folder, distill=["point-mse", "pooled-mse"], **with_labels(folder))
    assert pairs.targets.representations is not None
    found = pairs.targets.representations(np.array([7, 0, 11]))
    assert found.tolist() == [fakes.true_state(CANDIDATES[at]) for at in (7, 0, 11)]


def test_queries_that_are_too_small_for_a_term_are_counted(folder: Path) -> None:
    rewrite(folder, [*CANDIDATES, Candidate("q7", "d", "query 7", "a", ""), *CANDIDATES[:0]])
    pairs = read(folder, distill=["point-mse", "kl", "margin-mse"])
    assert pairs.facts["too few"] == "1 of 4 queries have fewer than 2 scored documents, nothing for kl, margin-mse"
    rewrite(folder, [*CANDIDATES, *(Candidate("q7", at, "query 7", at, "") for at in "ab")])
    pairs = read(folder, distill=["kl", "rkd-angle"])
    assert pairs.facts["too few"] == "1 of 4 queries have fewer than 3 scored documents, nothing for rkd-angle"


def test_the_second_passes_are_in_the_plan(folder: Path) -> None:
    pairs = read(folder, consistency={"weight": 0.5}, perturbation={})
    assert pairs.facts["passes"].endswith("3 passes of the student a step")


def test_a_run_knows_its_inputs_by_their_content(folder: Path) -> None:
    """Of a store the manifest, of a teacher that runs beside the student what its bundle says of its weights."""
    (folder / "teacher").mkdir()
    (folder / "teacher" / "disranker.json").write_text("{}")
    terms = ["point-mse", {"name": "hidden-mse", "layers": {1: 1}}]
    config = config_of(folder, distill=terms, teacher=folder / "teacher", **with_labels(folder))
    expected = {"store/manifest.json", "candidates.parquet", "judged.parquet", "teacher/disranker.json"}
    assert {str(path.relative_to(folder)) for path in input_files(config)} == expected


# --- what cannot be learned from ---


def fault(folder: Path, **changed: Any) -> str:
    with pytest.raises(ValueError) as caught:
        read(folder, **changed)
    return str(caught.value)


def test_a_candidate_without_a_score(folder: Path) -> None:
    write_records(folder / "candidates.parquet", Candidate, [*CANDIDATES, Candidate("q7", "d", "new query", "a", "")])
    assert fault(folder) == (
        f"1 of 13 pairs have no teacher score in {folder / 'store'}, first: 'new query' → 'a'; score these candidates "
        "with rank/score.py"
    )


def test_a_store_without_spread(folder: Path) -> None:
    manifest = read_manifest(folder / "store")
    write_manifest(folder / "store", {**manifest, "scores": {**manifest["scores"], "std": 0.0}})
    assert fault(folder) == (
        f"the scores of {folder / 'store'} have no spread: there is nothing to learn; score again with another teacher"
    )


def test_a_score_that_is_no_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from disranker.teacher.store import Store

    standardised = Store.standardised

    def spoilt(self: Store, pairs: Any) -> Any:
        scores = standardised(self, pairs)
        scores[[2, 5]] = np.nan
        return scores

    monkeypatch.setattr(Store, "standardised", spoilt)
    assert fault(folder) == (
        f"2 of 12 scores in {folder / 'store'} are no finite numbers, first: (q0, d2), (q1, d5); remove the store and "
        "score again"
    )


def test_candidates_of_one_score_in_a_store_of_many(folder: Path) -> None:
    write_records(folder / "candidates.parquet", Candidate, CANDIDATES[:1])
    assert fault(folder, distill=["point-mse"]) == (
        f"all 1 candidates have the same score in {folder / 'store'}: there is nothing to learn"
    )


@pytest.mark.parametrize(("name", "least"), [("margin-mse", 2), ("kl", 2), ("adr-mse", 2), ("rkd-distance", 3)])
def test_groups_that_are_all_too_small(folder: Path, name: str, least: int) -> None:
    rewrite(folder, [one for at, one in enumerate(CANDIDATES) if at % 4 < least - 1])
    assert fault(folder, distill=["point-mse", name]) == (
        f"{name} compares {least} scored documents of a query, and every query has {least - 1} at most: there is "
        "nothing to learn from; score more candidates of each query, or take point-mse"
    )
    assert read(folder, distill=["point-mse"]).facts["loss"] == "point-mse"


def test_groups_that_are_too_small_once_documents_are_dropped(folder: Path) -> None:
    changed: dict[str, Any] = {"distill": ["point-mse", "rkd-angle"], "docs_per_query": 3}

    def choose(share: float) -> Chosen:
        mining = {"documents": {"keep": "certain", "share": share}}
        config, nothing = config_of(folder, **changed, mining=mining), cast(Any, None)
        return choose_examples(config, read(folder, **changed), nothing, nothing, folder)

    with pytest.raises(ValueError) as caught:
        choose(0.5)
    assert str(caught.value) == (
        "rkd-angle compares 3 scored documents of a query, and every query has 2 at most: there is nothing to learn "
        "from; raise mining.documents.share, or take point-mse"
    )
    assert "too few" not in choose(0.75).facts
    rewrite(folder, [*CANDIDATES[:11], *(Candidate("q7", at, "query 7", at, "") for at in "abcdef")], represents=True)
    assert choose(0.5).facts["too few"] == ("3 of 4 queries have fewer than 3 scored documents, nothing for rkd-angle")


def test_an_ordering_has_no_distances(folder: Path) -> None:
    order = folder / "order.jsonl"
    lines = [f'{{"query_id": "q{q}", "doc_ids": {[f"d{4 * q + d}" for d in (2, 0, 3, 1)]}}}' for q in range(3)]
    order.write_text("\n".join(lines).replace("'", '"'))
    teacher, out = foreign_teacher("ordering", order), folder / "ordered"
    score_candidates(teacher, lambda: iter(CANDIDATES), out=out, input_hash="x", pairs_per_shard=50)
    assert fault(folder, store=out) == (
        f"{out} holds an ordering: the distances between its scores, by which point-mse and margin-mse would learn, "
        "mean nothing; name terms that read the order alone, as in distill: [ranknet, adr-mse]"
    )
    for name in ("kl", "cross-entropy", "weighted-kl", "score-differences"):
        assert f"by which {name} would learn" in fault(folder, store=out, distill=["ranknet", name])
    scores = read(folder, store=out, distill=["ranknet", "adr-mse"]).targets.teacher_scores
    assert np.argsort(-scores[:4]).tolist() == [2, 0, 3, 1]


def test_labels_that_a_loss_has_no_place_for(folder: Path) -> None:
    supervised = [{"name": "bce", "max_label": 1}]
    said = fault(folder, judged=[folder / "judged.parquet"], supervised=supervised)
    assert said == "the labels go up to 2, but max_label of bce is 1: raise it to the highest grade"


def test_labels_without_an_order(folder: Path) -> None:
    rewrite(folder, judged=[judgment(CANDIDATES[0], 1), judgment(CANDIDATES[1], 1), judgment(CANDIDATES[5], 0)])
    assert fault(folder, **with_labels(folder, "mse", "hinge", "softmax")) == (
        "no query of judged has documents of different labels, and hinge and softmax of supervised would learn from "
        "those alone: there is nothing to learn from"
    )
    assert (
        read(folder, **with_labels(folder, "mse"))
        .facts["labels"]
        .startswith("2 of 3 queries are judged; 2 of 2 groups")
    )


def test_a_label_of_another_text(folder: Path) -> None:
    rewrite(folder, judged=[judgment(CANDIDATES[0], 1), judgment(CANDIDATES[1], 0, title="changed")])
    assert fault(folder, **with_labels(folder)) == (
        "query_id q0 with doc_id d1 has one text in judged ('changed') and another in candidates ('title 1'): label "
        "and score would be of different documents"
    )


def test_a_query_of_another_text(folder: Path) -> None:
    rewrite(
        folder, judged=[Judgment("q0", "a", "other query", "x", "", 1), Judgment("q0", "b", "other query", "y", "", 0)]
    )
    assert fault(folder, **with_labels(folder)) == (
        "query_id q0 is 'other query' in judged and 'query 0' in candidates: give each query text its own query_id"
    )
