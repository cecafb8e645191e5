"""Stores of several teachers into one: each method's formula, what some teacher lacks, orderings, disagreement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import entropy, kendalltau, rankdata

from disranker.cli import main
from disranker.data.readers import write_records
from disranker.schema import Candidate, Judgment
from disranker.shards import read_manifest
from disranker.teacher.audit import find_faults, info_lines
from disranker.teacher.fusion import fuse_stores
from disranker.teacher.scoring import Teacher, score_candidates
from disranker.teacher.store import Store
from tests.teacher.fakes import CANDIDATES, store_bytes

DISTINCT = [candidate for candidate in CANDIDATES if candidate.doc_id not in {f"d{i}" for i in range(5, 10)}]
QUERIES = [np.arange(0, 5), np.arange(5, 15), np.arange(15, 20)]  # rows of DISTINCT


def random_scores(seed: int, scale: float = 1.0, shift: float = 0.0) -> NDArray[np.float32]:
    """One score for each of DISTINCT."""
    return (np.random.default_rng(seed).normal(size=len(DISTINCT)) * scale + shift).astype(np.float32)


def store_of(
    folder: Path,
    scores: NDArray[np.float32],
    candidates: Sequence[Candidate] = CANDIDATES,
    *,
    kind: str = "bundle",
    input_hash: str = "input",
) -> Path:
    """A store of a teacher of that name, whose scores go by the texts."""
    by_text = {candidate.pair: score for candidate, score in zip(DISTINCT, scores, strict=True)}

    def score(block: Sequence[Candidate]) -> tuple[NDArray[np.float32], None]:
        return np.array([by_text[candidate.pair] for candidate in block], dtype=np.float32), None

    teacher = Teacher({"kind": kind, "fingerprint": folder.name}, score)
    score_candidates(teacher, lambda: iter(candidates), out=folder, input_hash=input_hash, pairs_per_shard=6)
    return folder


def two_stores(tmp_path: Path) -> tuple[list[Path], list[NDArray[np.float64]]]:
    """Stores of two teachers of different scales, and their scores as the fusion should see them."""
    raw = [random_scores(1, 5.0, -3.0), random_scores(2, 0.1)]
    stores = [store_of(tmp_path / name, scores) for name, scores in zip(("large", "small"), raw, strict=True)]
    return stores, [standardise(scores) for scores in raw]


def standardise(scores: NDArray[Any]) -> NDArray[np.float64]:
    return (scores.astype(np.float64) - scores.astype(np.float64).mean()) / scores.astype(np.float64).std()


def fused_scores(folder: Path, candidates: Sequence[Candidate] = DISTINCT) -> NDArray[np.float32]:
    return Store(folder).lookup([candidate.pair for candidate in candidates])


def judged_file(path: Path, labels: NDArray[Any]) -> Path:
    """A label for each of DISTINCT."""
    rows = [
        Judgment(one.query_id, one.doc_id, *one.pair, label=int(label))
        for one, label in zip(DISTINCT, labels, strict=True)
    ]
    write_records(path, Judgment, rows)
    return path


# --- the methods ---


def test_mean_of_standardised_scores_in_a_store_like_any_other(tmp_path: Path) -> None:
    stores, columns = two_stores(tmp_path)
    manifest = fuse_stores(stores, tmp_path / "fused", "mean")
    expected = (columns[0] + columns[1]) / 2
    assert fused_scores(tmp_path / "fused") == pytest.approx(expected, abs=1e-6)
    assert manifest == read_manifest(tmp_path / "fused")
    assert find_faults(tmp_path / "fused") == []
    assert (manifest["num_pairs"], manifest["num_candidates"], manifest["input"]) == (20, 25, "input")
    assert [shard["rows"] for shard in manifest["shards"]] == [6, 6, 6, 2]
    teacher = manifest["teacher"]
    assert [one["fingerprint"] for one in teacher["teachers"]] == ["large", "small"]
    assert (teacher["kind"], teacher["method"], teacher["weights"], teacher["missing"]) == (
        "fused",
        "mean",
        [0.5, 0.5],
        "error",
    )
    # Aliases have the score of their text, and every candidate its place.
    rows = {row.doc_id: row for row in Store(tmp_path / "fused").rows()}
    assert len(rows) == 25 and rows["d5"].teacher_score == rows["d0"].teacher_score
    first = read_manifest(stores[0])
    assert [shard["aliases"] is None for shard in manifest["shards"]] == [
        shard["aliases"] is None for shard in first["shards"]
    ]


def test_the_same_call_makes_the_same_bytes(tmp_path: Path) -> None:
    stores, _ = two_stores(tmp_path)
    for name in ("one", "two", "two"):
        fuse_stores(stores, tmp_path / name, "gate")
    assert store_bytes(tmp_path / "one") == store_bytes(tmp_path / "two")
    prints = [
        fuse_stores(stores, tmp_path / f"{at}", "weights", weights=weights)["teacher"]["fingerprint"]
        for at, weights in enumerate([[1.0, 2.0], [2.0, 4.0], [2.0, 1.0]])
    ]
    assert prints[0] == prints[1] != prints[2]
    with pytest.raises(ValueError, match="was made from something else"):
        fuse_stores(stores, tmp_path / "one", "mean")


def test_given_weights_are_shares_of_their_sum(tmp_path: Path) -> None:
    stores, columns = two_stores(tmp_path)
    manifest = fuse_stores(stores, tmp_path / "fused", "weights", weights=[6.0, 2.0])
    assert manifest["teacher"]["weights"] == [0.75, 0.25]
    assert fused_scores(tmp_path / "fused") == pytest.approx(0.75 * columns[0] + 0.25 * columns[1], abs=1e-6)


def test_the_gate_weighs_teachers_by_their_entropy_in_each_query(tmp_path: Path) -> None:
    stores, columns = two_stores(tmp_path)
    manifest = fuse_stores(stores, tmp_path / "fused", "gate", temperature=0.3)
    assert manifest["teacher"]["temperature"] == 0.3 and "weights" not in manifest["teacher"]
    expected = np.empty(20)
    for rows in QUERIES:
        shares = [entropy(softmax(column[rows])) / np.log(len(rows)) for column in columns]
        weights = softmax(-np.array(shares) / 0.3)
        expected[rows] = weights @ np.stack([column[rows] for column in columns])
    assert fused_scores(tmp_path / "fused") == pytest.approx(expected, abs=1e-6)
    assert not np.allclose(expected, (columns[0] + columns[1]) / 2, atol=1e-3)
    # Hot, all teachers count alike; cold, the surer one alone.
    fuse_stores(stores, tmp_path / "hot", "gate", temperature=1e6)
    assert fused_scores(tmp_path / "hot") == pytest.approx((columns[0] + columns[1]) / 2, abs=1e-5)
    fuse_stores(stores, tmp_path / "cold", "gate", temperature=1e-6)
    for rows in QUERIES:
        surest = min(columns, key=lambda column: entropy(softmax(column[rows])))
        assert fused_scores(tmp_path / "cold")[rows] == pytest.approx(surest[rows], abs=1e-5)


# --- weights from labels ---


def test_stacking_finds_the_weights_that_made_the_labels(tmp_path: Path) -> None:
    """Labels are a sum of two teachers plus what is the query's alone; the third teacher is noise of no use."""
    raw = [random_scores(seed) for seed in (1, 2, 3)]
    stores = [store_of(tmp_path / f"t{at}", scores) for at, scores in enumerate(raw)]
    columns = [standardise(scores) for scores in raw]
    offset = np.concatenate([np.full(len(rows), value) for rows, value in zip(QUERIES, (0, 90, 40), strict=True)])
    labels = np.round(30 * (0.6 * columns[0] + 0.2 * columns[1]) + 80 + offset)  # grades end at 255
    file = judged_file(tmp_path / "judged.parquet", labels)
    manifest = fuse_stores(stores, tmp_path / "fused", "stack", judged=[file])
    assert manifest["teacher"]["weights"] == pytest.approx([0.75, 0.25, 0.0], abs=0.02)
    expected = np.array(manifest["teacher"]["weights"]) @ np.stack(columns)
    assert fused_scores(tmp_path / "fused") == pytest.approx(expected, abs=1e-5)
    found = manifest["fusion"]["judged"]
    assert (found["queries"], found["pairs"], found["left_out"]) == (3, 20, 0)
    assert found["fused"]["nDCG@10"] > max(one["nDCG@10"] for one in found["teachers"])
    assert found["weights"] == "weights fitted on the other folds of the queries"
    assert len(manifest["teacher"]["judged"]) == 1


def test_a_teacher_against_the_labels_gets_nothing(tmp_path: Path) -> None:
    stores, columns = two_stores(tmp_path)
    labels = np.round(20 * columns[0]) + 100
    against = store_of(tmp_path / "against", (-random_scores(1)).astype(np.float32))
    file = judged_file(tmp_path / "judged.parquet", labels)
    manifest = fuse_stores([stores[0], against], tmp_path / "fused", "stack", judged=[file])
    assert manifest["teacher"]["weights"] == [1.0, 0.0]
    # Two teachers that say the same share the weight.
    twin = store_of(tmp_path / "twin", random_scores(1) * 2)
    manifest = fuse_stores([stores[0], twin], tmp_path / "twins", "stack", judged=[file])
    assert manifest["teacher"]["weights"] == pytest.approx([0.5, 0.5], abs=1e-3)
    file = judged_file(tmp_path / "flat.parquet", np.repeat([1, 2, 3], [5, 10, 5]))
    with pytest.raises(ValueError, match="no judged query has documents of different labels"):
        fuse_stores(stores, tmp_path / "flat", "stack", judged=[file])
    file = judged_file(tmp_path / "reversed.parquet", 200 - labels)
    backwards = store_of(tmp_path / "again", (random_scores(1) * 2 + random_scores(5) * 0.01).astype(np.float32))
    with pytest.raises(ValueError, match="no teacher's scores rise with the labels"):
        fuse_stores([stores[0], backwards], tmp_path / "none", "stack", judged=[file])
    assert not (tmp_path / "none").exists()


def test_every_method_is_measured_where_there_are_labels(tmp_path: Path) -> None:
    stores, columns = two_stores(tmp_path)
    file = judged_file(tmp_path / "judged.parquet", np.round(columns[0] > 0))
    facts = fuse_stores(stores, tmp_path / "fused", "mean", judged=[file])["fusion"]["judged"]
    assert facts["fused"] == facts["mean"] and facts["weights"] == "by mean"
    assert facts["teachers"][0] == {"nDCG@10": 1.0, "PNR": "inf"}


def test_judged_pairs_that_no_teacher_scored(tmp_path: Path) -> None:
    stores, _ = two_stores(tmp_path)
    rows = [Judgment("q0", one.doc_id, *one.pair, label=at % 2) for at, one in enumerate(DISTINCT[:4])]
    write_records(tmp_path / "judged.parquet", Judgment, [*rows, Judgment("q0", "new", "query 0", "new", "", 1)])

    def call(name: str, **more: Any) -> dict[str, Any]:
        return fuse_stores(stores, tmp_path / name, "mean", judged=[tmp_path / "judged.parquet"], **more)

    said = "of 5 judged pairs have no score of some teacher, first (q0, new); score them, too, and merge"
    with pytest.raises(ValueError) as caught:
        call("refused")
    assert str(caught.value) == f"1 {said}, or choose --missing skip-pair to go by the others"
    facts = call("fused", missing="skip-pair")["fusion"]["judged"]
    assert (facts["pairs"], facts["left_out"]) == (4, 1)
    unknown = [Judgment("q0", name, "query 0", name, "", 1) for name in ("new", "b", "c", "d", "e")]
    write_records(tmp_path / "judged.parquet", Judgment, unknown)
    with pytest.raises(ValueError) as caught:
        call("none", missing="skip-pair")
    assert str(caught.value) == f"5 {said}"


# --- what a teacher lacks ---


def partial_stores(tmp_path: Path) -> list[Path]:
    """One teacher of d0 to d19, one of d0 and d12 to d24: d0 and d12 to d19 are shared."""
    stores = [
        store_of(tmp_path / "left", random_scores(1), CANDIDATES[:20], input_hash="l"),
        store_of(tmp_path / "right", random_scores(2), [CANDIDATES[0], *CANDIDATES[12:]], input_hash="r"),
    ]
    return stores


def test_a_pair_that_a_teacher_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        fuse_stores(partial_stores(tmp_path), tmp_path / "fused", "mean")
    message = str(caught.value)
    assert message.startswith("11 of 20 pairs have no score of some teacher (")
    assert "left lacks 5" in message and "right lacks 6" in message
    assert "first (q0, d1) of" in message and "--missing skip-pair" in message
    assert not (tmp_path / "fused").exists()


def test_such_pairs_are_left_out_on_demand(tmp_path: Path) -> None:
    manifest = fuse_stores(partial_stores(tmp_path), tmp_path / "fused", "mean", missing="skip-pair")
    shared = [one for one in DISTINCT if one.doc_id in {"d0", *(f"d{i}" for i in range(12, 20))}]
    at = [DISTINCT.index(one) for one in shared]
    # Scales are those of the shared pairs.
    expected = (standardise(random_scores(1)[at]) + standardise(random_scores(2)[at])) / 2
    assert fused_scores(tmp_path / "fused", shared) == pytest.approx(expected, abs=1e-6)
    assert (manifest["num_pairs"], manifest["fusion"]["left_out"], manifest["input"]) == (9, 11, "fused: l + r")
    # d5 says what d0 says and stays; the twins of what was left out go with it.
    assert {row.doc_id for row in Store(tmp_path / "fused").rows()} == {"d5", *(one.doc_id for one in shared)}
    assert find_faults(tmp_path / "fused") == []


def test_or_the_other_teachers_speak_for_them(tmp_path: Path) -> None:
    stores = partial_stores(tmp_path)
    manifest = fuse_stores(stores, tmp_path / "fused", "weights", weights=[3.0, 1.0], missing="others")
    names = [int(one.doc_id[1:]) for one in DISTINCT]
    has = np.array([[name < 20 for name in names], [name == 0 or name >= 12 for name in names]])
    raw = [random_scores(1).astype(np.float64), random_scores(2).astype(np.float64)]
    both = has.all(axis=0)
    columns = np.stack([(column - column[both].mean()) / column[both].std() for column in raw])
    weights = np.array([[0.75], [0.25]]) * has
    assert fused_scores(tmp_path / "fused") == pytest.approx((weights * columns).sum(0) / weights.sum(0), abs=1e-6)
    assert (manifest["num_candidates"], manifest["fusion"]["partly_scored"]) == (25, 11)
    assert find_faults(tmp_path / "fused") == []
    with pytest.raises(ValueError, match="5 pairs were scored by teachers of weight 0 alone"):
        fuse_stores(stores, tmp_path / "none", "weights", weights=[1.0, 0.0], missing="others")
    fuse_stores(stores, tmp_path / "gated", "gate", missing="others")
    single = fused_scores(tmp_path / "gated")[~has[0]]
    assert single == pytest.approx(columns[1][~has[0]], abs=1e-6)  # where one teacher speaks, it is heard


def test_stores_without_a_common_pair(tmp_path: Path) -> None:
    stores = [
        store_of(tmp_path / "left", random_scores(1), CANDIDATES[10:17]),
        store_of(tmp_path / "right", random_scores(2), CANDIDATES[17:]),
    ]
    with pytest.raises(ValueError, match="no pair has a score of every teacher"):
        fuse_stores(stores, tmp_path / "fused", "mean", missing="others")


# --- orderings ---


def test_orderings_are_fused_by_position(tmp_path: Path) -> None:
    raw = [random_scores(1), np.round(random_scores(2))]  # the second one has ties
    stores = [
        store_of(tmp_path / "ordering", raw[0], kind="ordering"),
        store_of(tmp_path / "scores", raw[1]),
    ]
    manifest = fuse_stores(stores, tmp_path / "fused", "weights", weights=[1.0, 3.0])
    expected = np.empty(20)
    for rows in QUERIES:
        positions = [rankdata(-column[rows], method="average") for column in raw]
        expected[rows] = -(0.25 * positions[0] + 0.75 * positions[1])
    assert fused_scores(tmp_path / "fused") == pytest.approx(expected, abs=1e-6)
    assert manifest["teacher"]["kind"] == "ordering"
    assert manifest["teacher"]["rule"] == "score = minus the weighted mean position"


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("gate", {}, "first is an ordering, which has no scale for gate to go by"),
        ("mean", {"missing": "others"}, "positions in lists of different documents cannot be compared"),
    ],
)
def test_what_an_ordering_cannot_do(tmp_path: Path, method: Any, more: Mapping[str, Any], message: str) -> None:
    stores = [
        store_of(tmp_path / "first", random_scores(1), kind="ordering"),
        store_of(tmp_path / "b", random_scores(2)),
    ]
    with pytest.raises(ValueError, match=message):
        fuse_stores(stores, tmp_path / "fused", method, **more)


# --- disagreement ---


def test_disagreement_of_pairs_and_of_queries(tmp_path: Path) -> None:
    raw = [random_scores(1), random_scores(2), np.round(random_scores(3))]
    stores = [store_of(tmp_path / f"t{at}", scores) for at, scores in enumerate(raw)]
    columns = np.stack([standardise(scores) for scores in raw])
    found = fuse_stores(stores, tmp_path / "fused", "mean")["fusion"]["dissent"]
    spread = columns.std(axis=0)
    assert found["pair_std"]["mean"] == pytest.approx(spread.mean())
    assert found["pair_std"]["quantiles"] == pytest.approx(
        {"0.5": np.median(spread), "0.95": np.quantile(spread, 0.95), "1": spread.max()}
    )
    taus = np.array(
        [
            [kendalltau(columns[one][rows], columns[two][rows]).statistic for rows in QUERIES]
            for one, two in ((0, 1), (0, 2), (1, 2))
        ]
    )
    assert [found["tau"][0][1], found["tau"][0][2], found["tau"][1][2]] == pytest.approx(taus.mean(axis=1))
    assert found["tau"][2][0] == found["tau"][0][2] and found["tau"][1][1] == 1.0
    order = np.argsort(taus.mean(axis=0))
    assert [one["query_id"] for one in found["disputed"]] == [f"q{at}" for at in order]
    assert [one["tau"] for one in found["disputed"]] == pytest.approx(taus.mean(axis=0)[order])
    assert (found["mean_tau"], found["num_queries"]) == (pytest.approx(taus.mean()), 3)


def test_teachers_of_one_mind_and_queries_without_an_order(tmp_path: Path) -> None:
    one = random_scores(1)
    one[QUERIES[0]] = 0.0  # this teacher has no order for the first query
    stores = [store_of(tmp_path / "a", one), store_of(tmp_path / "b", one * 2 + 1)]
    found = fuse_stores(stores, tmp_path / "fused", "mean")["fusion"]["dissent"]
    assert found["pair_std"]["mean"] == pytest.approx(0.0, abs=1e-6)
    assert (found["mean_tau"], found["num_queries"]) == (1.0, 2)
    singles = [CANDIDATES[0], CANDIDATES[10], CANDIDATES[20]]
    stores = [store_of(tmp_path / name, random_scores(at), singles) for at, name in enumerate(("c", "d"))]
    found = fuse_stores(stores, tmp_path / "single", "gate")["fusion"]["dissent"]
    assert (found["mean_tau"], found["disputed"], found["tau"][0][1]) == (None, [], None)


# --- calls that cannot be ---


def test_calls_that_do_not_fit_together(tmp_path: Path) -> None:
    stores, _ = two_stores(tmp_path)

    def refused(message: str, method: Any, folders: Sequence[Path] = stores, **more: Any) -> None:
        with pytest.raises(ValueError, match=message):
            fuse_stores(folders, tmp_path / "fused", method, **more)

    refused("one store has nothing to be fused with", "mean", stores[:1])
    refused("--weights goes with --method weights, and is needed there; the method is mean", "mean", weights=[1.0, 1.0])
    refused("--weights goes with --method weights, and is needed there", "weights")
    refused("3 weights for 2 stores", "weights", weights=[1.0, 1.0, 1.0])
    refused("the weights are 1 -1: give numbers of 0 or more", "weights", weights=[1.0, -1.0])
    refused("the weights are 0 0", "weights", weights=[0.0, 0.0])
    refused("--temperature is 0.1 with --method mean", "mean", temperature=0.1)
    refused("--temperature is 0 with --method gate", "gate", temperature=0.0)
    refused("--method stack fits weights on labels", "stack")
    refused("large and .*large are of one teacher: join them with `disranker store merge`", "mean", [stores[0]] * 2)
    constant = random_scores(1)
    constant[1:] = 2.0
    lone = store_of(tmp_path / "lone", constant)
    part = store_of(tmp_path / "part", random_scores(4), CANDIDATES[10:])
    refused("lone has one score for all pairs that every teacher scored", "mean", [lone, part], missing="skip-pair")
    assert not (tmp_path / "fused").exists()


def test_one_id_for_two_texts(tmp_path: Path) -> None:
    changed = Candidate("q2", "d24", "query 2", "title 3", "")
    scores = {candidate.pair: 0.5 for candidate in CANDIDATES} | {changed.pair: 0.1}
    stores = [store_of(tmp_path / "left", random_scores(1))]
    teacher = Teacher(
        {"kind": "bundle", "fingerprint": "r"},
        lambda block: (np.array([scores[one.pair] for one in block], dtype=np.float32), None),
    )
    candidates = [*CANDIDATES[:24], changed]
    score_candidates(teacher, lambda: iter(candidates), out=tmp_path / "r", input_hash="r", pairs_per_shard=9)
    with pytest.raises(ValueError, match=r"1 candidates have different texts .* \(q2, d24\) of"):
        fuse_stores([*stores, tmp_path / "r"], tmp_path / "fused", "mean", missing="others")


# --- the command ---


def test_the_command_writes_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores, columns = two_stores(tmp_path)
    file = judged_file(tmp_path / "judged.parquet", np.round(10 * columns[0]) + 50)
    out = str(tmp_path / "fused")
    capsys.readouterr()
    words = [*map(str, stores), "--out", out, "--method", "stack", "--judged", str(file)]
    assert main(["store", "fuse", *words]) == 0
    shown = capsys.readouterr().out
    assert "teacher 1 large: weight 1.000, bundle large\n" in shown
    assert "dissent   a pair's scores differ by a std of " in shown
    assert "order     Kendall's tau-b 1 and 2: " in shown and "; mean over 3 queries\n" in shown
    assert "disputed  q" in shown
    assert "judged    20 pairs of 3 queries\n" in shown
    assert "  fused      nDCG@10 1.0000  PNR inf  (weights fitted on the other folds of the queries)\n" in shown
    assert shown.endswith(f"wrote {out}: 20 scores of 25 candidates\n")
    assert set(shown.splitlines()[:-1]) <= set(info_lines(tmp_path / "fused"))
    assert main(["store", "verify", out]) == 0
    assert main(["store", "export-trec", out, "--out", str(tmp_path / "run.trec")]) == 0
    assert len((tmp_path / "run.trec").read_text().splitlines()) == 25


def test_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores = [str(folder) for folder in partial_stores(tmp_path)]
    capsys.readouterr()
    assert main(["store", "fuse", *stores, "--out", str(tmp_path / "out"), "--method", "mean"]) == 1
    assert capsys.readouterr().err.startswith("disranker store: 11 of 20 pairs have no score of some teacher")
    assert main(["store", "fuse", *stores, "--out", str(tmp_path / "out"), "--method", "stack"]) == 2
    assert capsys.readouterr().err.startswith("disranker store: --method stack fits weights on labels")
    with pytest.raises(SystemExit) as caught:
        main(["store", "fuse", *stores, "--out", str(tmp_path / "out"), "--method", "median"])
    assert caught.value.code == 2
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == '["left", "right"]'
