"""Signals of a student's states: what they compare, in one forward, through DeepSpeed, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from disranker.losses.states import (
    hidden_mse,
    pooled_cosine,
    pooled_mse,
    relation_divergence,
    rkd_angle,
    rkd_distance,
)
from disranker.models.bundle import load_bundle
from disranker.models.packed import pack
from disranker.models.ranker import Ranker
from disranker.models.student import HIDDEN, POOLED
from disranker.text.encode import Tokens
from disranker.train.frozen_teacher import FrozenTeacher
from disranker.train.state_signals import build_student
from tests import tiny
from tests.tiny_runs import largest_difference
from tests.train.state_runs import WIDTH, TinyStore, make_batch, make_config, make_ranker, parts_of, run, save_teacher
from tests.train.training import VOCAB, Killed, killed_at, with_gradient

pytestmark = pytest.mark.filterwarnings("ignore:`torch.distributed:FutureWarning")

STORED = ["pooled-mse", "pooled-cosine", "rkd-distance", "rkd-angle"]
BESIDE: list[Any] = [{"name": "hidden-mse", "layers": {1: 2, 3: 4}}, {"name": "attention-relation"}]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher(tmp_path_factory.mktemp("teacher"))


def alone(batch: Any) -> list[Tokens]:
    """The sequences of a batch, in the order of the caller."""
    bounds, ids = batch.packed.cu_seqlens.tolist(), batch.packed.input_ids[0].numpy()
    types = batch.packed.token_type_ids[0].numpy()
    found = {}
    for at, caller in enumerate(batch.packed.order.tolist()):
        part = slice(bounds[at], bounds[at + 1])
        found[caller] = Tokens(ids[part].astype(np.int32), int((types[part] == 0).sum()), 0)
    return [found[caller] for caller in range(len(found))]


# --- what is compared ---


def test_stored_states_are_compared_document_by_document(tmp_path: Path) -> None:
    """Against every document run alone and every query by itself; those that are not scored are left out."""
    batch, ranker = make_batch(tmp_path), make_ranker()
    config = make_config(*STORED)
    student, signals = build_student(ranker, config, tiny.encoder(), TinyStore())
    assert [signal.name for signal in signals] == STORED
    outputs = student(batch.packed)
    found = {signal.name: signal.loss(outputs, batch) for signal in signals}
    losses = {
        "pooled-mse": pooled_mse,
        "pooled-cosine": pooled_cosine,
        "rkd-distance": rkd_distance,
        "rkd-angle": rkd_angle,
    }
    expected = dict.fromkeys(losses, 0.0)
    begin, sequences = 0, alone(batch)
    assert batch.represented_BH is not None and not batch.taught_QD.equal(batch.mask_QD)
    for query, count in enumerate(batch.docs_per_query):
        rows = [begin + at for at in range(count) if batch.taught_QD[query, at]]
        states = torch.cat([ranker.read(pack([sequences[row]])).pooled_BH for row in rows])
        theirs, mask = batch.represented_BH[rows][None], torch.ones(1, len(rows), dtype=torch.bool)
        projected = student.projections[POOLED](states)[None]
        for name, loss in losses.items():
            ours = projected if name.startswith("pooled") else states[None]
            expected[name] += loss(ours, theirs, mask).item()
        begin += count
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-4)
    assert min(expected.values()) > 0.01


def test_layers_are_compared_token_by_token(teacher: Path, tmp_path: Path) -> None:
    """Against every document run alone through both models."""
    batch, ranker = make_batch(tmp_path), make_ranker()
    beside = Ranker(load_bundle(teacher, dtype="float32")[0]).eval()
    student, signals = build_student(ranker, make_config(*BESIDE, teacher=teacher), tiny.encoder(), TinyStore())
    outputs = student(batch.packed)
    found = {signal.name: signal.loss(outputs, batch).item() for signal in signals}
    expected = dict.fromkeys(found, 0.0)
    sequences, begin = alone(batch), 0
    for count in batch.docs_per_query:
        for row in range(begin, begin + count):
            one = pack([sequences[row]])
            ours = ranker.read(one, hidden_layers=[1, 3], attention_layers=[3]).layers
            theirs = beside.read(one, hidden_layers=[2, 4], attention_layers=[4]).layers
            assert ours is not None and theirs is not None
            projected = {layer: student.projections[HIDDEN](state) for layer, state in ours.hidden_TH.items()}
            errors = [hidden_mse(projected[i], theirs.hidden_TH[j], one.runs).item() for i, j in ((1, 2), (3, 4))]
            expected["hidden-mse"] += sum(errors) / 2 / count
            for left, right in zip(ours.attention[3], theirs.attention[4], strict=True):
                # null: as many relation heads as the student has attention heads
                divergence = relation_divergence(left, right, one.runs, relation_heads=4)
                expected["attention-relation"] += divergence.item() / count
        begin += count
    assert found == pytest.approx(expected, rel=1e-4) and min(expected.values()) > 0.01


def test_hidden_states_of_one_width_need_no_projection(tmp_path: Path) -> None:
    same = save_teacher(tmp_path / "same", make_ranker().eval().stock)
    config = make_config({"name": "hidden-mse", "layers": {0: 0, 2: 2, 3: 3}}, teacher=same)
    student, signals = build_student(make_ranker(), config, tiny.encoder(), TinyStore())
    batch = make_batch(tmp_path)
    assert len(student.projections) == 0
    # the teacher is the student
    assert signals[0].loss(student(batch.packed), batch).item() == pytest.approx(0.0, abs=1e-9)


def test_one_forward_of_each_whatever_terms_are_on(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker, calls = make_ranker(), {"student": 0, "teacher": 0}

    def count(who: str) -> Any:
        return lambda *_: calls.__setitem__(who, calls[who] + 1)

    ranker.stock.base_model.register_forward_pre_hook(count("student"))
    started = FrozenTeacher.__init__

    def watched(self: FrozenTeacher, beside: Ranker, **layers: Any) -> None:
        started(self, beside, **layers)
        beside.stock.base_model.register_forward_pre_hook(count("teacher"))

    monkeypatch.setattr(FrozenTeacher, "__init__", watched)
    config = make_config("point-mse", "margin-mse", *STORED, *BESIDE, teacher=teacher)
    parts = parts_of(config, make_batch(tmp_path), ranker)
    assert calls == {"student": 1, "teacher": 1}
    assert set(parts) == {
        "loss",
        "point-mse",
        "margin-mse",
        "hidden-mse",
        "attention-relation",
    } | {*STORED}


@pytest.mark.parametrize("name", [*STORED, "hidden-mse", "attention-relation"])
def test_gradients_reach_projection_and_student(name: str, teacher: Path, tmp_path: Path) -> None:
    term = next((term for term in BESIDE if term["name"] == name), name)
    needs = {"teacher": teacher} if isinstance(term, dict) else {}
    config = make_config(term, **needs)
    student, signals = build_student(make_ranker(), config, tiny.encoder(), TinyStore())
    batch = make_batch(tmp_path)
    signals[0].loss(student(batch.packed), batch).backward()
    of_layers = [weight.grad for key, weight in student.named_parameters() if ".layer.0." in key and weight.ndim > 1]
    assert len(of_layers) > 3 and all(grad is not None and grad.abs().max() > 0 for grad in of_layers)
    projections = [weight.grad for weight in student.projections.parameters()]
    assert all(grad is not None and grad.abs().max() > 0 for grad in projections)
    assert bool(projections) is (name in ("pooled-mse", "pooled-cosine", "hidden-mse"))


def test_a_query_without_a_scored_document_adds_zero(tmp_path: Path) -> None:
    batch = make_batch(tmp_path)
    assert batch.represented_BH is not None
    batch.taught_QD.fill_(False)
    batch.represented_BH.zero_()
    without = parts_of(make_config(*STORED), batch)
    assert {name: value.item() for name, value in without.items()} == dict.fromkeys(without, 0.0)
    without["loss"].backward()  # a step must be possible all the same


# --- in training ---


@pytest.mark.slow
def test_training_lowers_every_one(teacher: Path, tmp_path: Path) -> None:
    terms = [*STORED, BESIDE[0], {**BESIDE[1], "weight": 4.0}]
    outcome, _ = run(make_config(*terms, teacher=teacher), tmp_path, steps=30, learning_rate=5e-3)
    for name in (*STORED, "hidden-mse", "attention-relation"):
        values = [line[name] for line in outcome.lines]
        assert np.mean(values[-6:]) < 0.95 * np.mean(values[:6]), name


MIXED = ["point-mse", "pooled-mse", "rkd-angle", {"name": "pooled-cosine", "weight": 0.5, "start": 3}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(make_config(*MIXED), tmp_path_factory.mktemp("whole"))[0]


@pytest.mark.parametrize(
    ("accumulation", "zero_stage"),
    [(8, 2), *(pytest.param(2, stage, marks=pytest.mark.slow) for stage in (0, 1, 3))],
)
def test_accumulation_and_zero_change_nothing(whole: Any, tmp_path: Path, accumulation: int, zero_stage: int) -> None:
    cut, _ = run(make_config(*MIXED), tmp_path, accumulation=accumulation, zero_stage=zero_stage)
    assert cut.losses == pytest.approx(whole.losses, abs=1e-5) and len(cut.losses) == 6
    assert [line["pooled-mse"] for line in cut.lines] == pytest.approx([line["pooled-mse"] for line in whole.lines])
    if zero_stage < 3:
        ours, theirs = with_gradient(cut.weights), with_gradient(whole.weights)
        assert largest_difference(ours, theirs) < 1e-5
        assert {f"{POOLED}.weight", f"{POOLED}.bias"} <= set(ours)


@pytest.mark.parametrize("zero_stage", [1, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (0, 2))])
def test_a_projection_that_no_term_uses_yet_stands_still(zero_stage: int, tmp_path: Path) -> None:
    config = make_config("point-mse", {"name": "pooled-mse", "start": 3})
    early, _ = run(config, tmp_path / "early", steps=4, zero_stage=zero_stage)
    weightless = make_config("point-mse", {"name": "pooled-mse", "weight": 0.0})
    never, _ = run(weightless, tmp_path / "never", steps=4, zero_stage=zero_stage)
    assert early.losses[:3] == never.losses[:3] and early.losses[3] > never.losses[3]
    assert early.lines[2]["pooled-mse"] > 0.0
    bias = f"{POOLED}.bias"  # vectors have no weight decay
    student, _ = build_student(make_ranker(), weightless, tiny.encoder(), TinyStore())
    assert torch.equal(never.weights[bias], student.projections.state_dict()[bias])
    assert not torch.equal(early.weights[bias], never.weights[bias])


def test_killed_and_resumed_the_projection_goes_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 6, "checkpoint_every": 2}
    straight, _ = run(make_config(*MIXED), tmp_path / "straight", **settings)
    with pytest.raises(Killed):
        run(make_config(*MIXED), tmp_path / "killed", wrap_plan=killed_at(5), **settings)
    resumed, _ = run(make_config(*MIXED), tmp_path / "killed", **settings)
    assert resumed.lines == straight.lines
    assert largest_difference(resumed.weights, straight.weights) == 0.0


def test_the_teacher_beside_stands_still_and_has_no_dropout(teacher: Path, tmp_path: Path) -> None:
    beside = Ranker(load_bundle(teacher, dtype="float32")[0]).train()
    before = {name: weight.clone() for name, weight in beside.state_dict().items()}
    frozen = FrozenTeacher(beside, hidden_layers=[4], attention_layers=[1])
    batch = make_batch(tmp_path)
    first = frozen.layers(batch.packed)
    assert frozen.layers(batch.packed) is first
    other = make_batch(tmp_path / "other")
    assert frozen.layers(other.packed) is not first
    torch.testing.assert_close(frozen.layers(other.packed).hidden_TH[4], first.hidden_TH[4])
    assert not any(state.requires_grad for state in (first.hidden_TH[4], *first.attention[1]))
    assert not any(weight.requires_grad for weight in beside.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in beside.state_dict().items())


# --- what is refused, before training ---


def refused(config: Any, ranker: Ranker | None = None, *, store: TinyStore | None = None, **encoder: Any) -> str:
    with pytest.raises(ValueError) as error:
        build_student(ranker or make_ranker(), config, tiny.encoder(**encoder), store or TinyStore())
    return str(error.value)


def test_a_store_without_states_is_refused() -> None:
    said = refused(make_config("point-mse", "rkd-angle", "pooled-mse"), store=TinyStore(None))
    assert said == (
        "pooled-mse and rkd-angle of distill read the teacher's pooled states, but scores holds none: score into "
        "another folder with --representation pooled"
    )


def test_layers_that_are_not_there_are_refused(teacher: Path) -> None:
    for layers, named in [
        ({4: 4}, "layer 4 of the student, which has 3"),
        ({3: 5}, "layer 5 of the teacher, which has 4"),
    ]:
        said = refused(make_config({"name": "hidden-mse", "layers": layers}, teacher=teacher))
        assert f"layers of hidden-mse names {named}: 0 is the embeddings" in said


def test_another_budget_of_tokens_is_refused(teacher: Path) -> None:
    said = refused(make_config("attention-relation", teacher=teacher), max_tokens=16, max_query_tokens=8)
    assert said == (
        f"hidden-mse and attention-relation compare token by token, but the teacher {teacher} reads other tokens than "
        "the student: text.max_tokens is 32 there and 16 here; text.max_query_tokens is 16 there and 8 here"
    )


def test_another_template_and_another_vocabulary_are_refused(tmp_path: Path) -> None:
    decoder = save_teacher(tmp_path, tiny.classifier("llama", vocab_size=VOCAB), template="plain")
    said = refused(make_config("attention-relation", teacher=decoder))
    assert "template is plain of version 1 there and pair of version 1 here" in said
    assert said.endswith("the tokenizers have other vocabularies")


def test_a_tokenizer_that_splits_otherwise_is_refused(teacher: Path) -> None:
    ours = copy.deepcopy(tiny.encoder())
    ours.tokenizer.backend_tokenizer.normalizer = None
    with pytest.raises(ValueError, match=r"the tokenizers split 'Red SHOES .*' differently"):
        build_student(make_ranker(), make_config("attention-relation", teacher=teacher), ours, TinyStore())


def test_heads_that_do_not_come_out_even_are_refused(teacher: Path) -> None:
    said = refused(make_config({"name": "attention-relation", "relation_heads": 5}, teacher=teacher))
    assert "cuts the student's width of 32 into 5 relation heads, which does not come out even" in said
    said = refused(make_config({"name": "attention-relation", "relation_heads": 32}, teacher=teacher))
    assert "cuts the teacher's width of 48 into 32 relation heads" in said


def test_decoders_have_no_attention_relation_but_hidden_states(tmp_path: Path) -> None:
    decoder = save_teacher(tmp_path / "llama", tiny.classifier("llama", vocab_size=VOCAB), template="plain")
    student = make_ranker("llama")
    said = refused(make_config("attention-relation", teacher=decoder), student, template="plain")
    assert said == "attention-relation is for encoders, and the student is a decoder: use hidden-mse"
    config = make_config({"name": "hidden-mse", "layers": {1: 1}}, teacher=decoder)
    _, signals = build_student(student, config, tiny.encoder("plain"), TinyStore())
    assert [signal.name for signal in signals] == ["hidden-mse"]


def test_models_that_do_not_run_packed_are_refused(teacher: Path) -> None:
    student = make_ranker("deberta-v2")
    said = refused(make_config("attention-relation", teacher=teacher), student)
    assert said.endswith("a model that runs packed; the student's family deberta-v2 does not")
    # their pooled states can be read all the same
    _, signals = build_student(student, make_config("pooled-mse"), tiny.encoder(), TinyStore())
    assert [signal.name for signal in signals] == ["pooled-mse"]


def test_the_width_of_the_store_is_the_projections(tmp_path: Path) -> None:
    student, _ = build_student(make_ranker(), make_config("pooled-cosine"), tiny.encoder(), TinyStore())
    outputs = student(make_batch(tmp_path).packed)
    assert outputs.projected_BH is not None and outputs.projected_BH.shape[1] == WIDTH
