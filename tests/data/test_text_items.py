"""What an epoch shows of clicks and of general text, and its batches."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from disranker.data.batches import StepPlan
from disranker.data.text_items import Replay, TextBatch, TextItems
from disranker.data.tokens import TokenTable, write_tokens
from disranker.schema import Pair
from disranker.text.encode import FormatEncoder, PieceEncoder
from disranker.text.templates import FORMATS
from tests.tiny import PAIRS, encoder, prompt_tokenizer

GENERAL = [f"{number} is new" * (1 + number % 3) for number in range(23)]


def pairs() -> list[Pair]:
    """120 pairs of different lengths, no two alike."""
    return [
        Pair(f"{one.query} {n}", other.title, other.summary) for n in range(4) for one in PAIRS[:5] for other in PAIRS
    ]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[TokenTable]:
    """The pairs as documents given queries, as queries given documents, and as documents."""
    folder = tmp_path_factory.mktemp("tokens")
    tokenizer = prompt_tokenizer()
    formats = [
        FormatEncoder(tokenizer, FORMATS[f"{kind}-plain"], max_tokens=32, max_query_tokens=16)
        for kind in ("query", "document")
    ]
    for number, text in enumerate([encoder("plain"), *formats]):
        write_tokens(folder / f"{number}.arrow", text, pairs())
    return [TokenTable(folder / f"{number}.arrow") for number in range(3)]


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> TokenTable:
    path = tmp_path_factory.mktemp("general") / "g.arrow"
    write_tokens(path, PieceEncoder(prompt_tokenizer(), max_tokens=64), GENERAL)
    return TokenTable(path)


def unpack(batch: TextBatch) -> list[list[int]]:
    """The sequences of a batch in the order in which they were asked for."""
    packed = batch.packed
    parts = packed.input_ids[0].split(packed.cu_seqlens.diff().tolist())
    order = packed.order.tolist()
    return [parts[order.index(at)].tolist() for at in range(len(parts))]


def test_text_is_learnt_from_the_document_on(tables: list[TokenTable]) -> None:
    table = tables[0]
    items = TextItems([table])
    assert items.lengths(0).tolist() == items.lengths(7).tolist() == table.lengths.tolist()
    batch = items.batch([11, 3], 0, 0.0)
    given = [table[11], table[3]]
    assert unpack(batch) == [one.ids.tolist() for one in given]
    assert (batch.weight, batch.weights_N, batch.predict_T.dtype) == (0.0, None, torch.bool)
    assert int(batch.predict_T.sum()) == sum(len(one.ids) - one.second for one in given)
    for sequence, begin in enumerate(batch.packed.cu_seqlens[:-1].tolist()):
        one = given[int(batch.packed.order[sequence])]
        expected = [at >= one.second for at in range(len(one.ids))]
        assert batch.predict_T[begin : begin + len(one.ids)].tolist() == expected
        assert not expected[0]  # the first token has nothing before it


def test_a_batch_moves_as_a_whole(tables: list[TokenTable]) -> None:
    weights = np.arange(1, 121, dtype=np.float32)
    batch = TextItems([tables[0]], weights=weights).batch([1], 0, 0.0).to(torch.device("meta"))
    assert batch.weights_N is not None
    assert {t.device.type for t in (batch.predict_T, batch.packed.order, batch.weights_N)} == {"meta"}
    assert batch.weight == 0.0


# --- forms ---


def forms_of(items: TextItems, tables: list[TokenTable], epoch: int) -> list[int]:
    """Which table each click came from, found by its tokens."""
    shown = [unpack(items.batch([row], epoch, 1.0))[0] for row in range(120)]
    return [
        next(form for form, table in enumerate(tables) if table[row].ids.tolist() == ids)
        for row, ids in enumerate(shown)
    ]


def test_a_click_has_one_form_an_epoch_drawn_by_the_shares(tables: list[TokenTable]) -> None:
    items = TextItems(tables, shares=[2.0, 1.0, 1.0], seed=3)
    epochs = [forms_of(items, tables, epoch) for epoch in range(12)]
    for epoch, forms in enumerate(epochs):
        assert items.lengths(epoch).tolist() == [int(tables[form].lengths[row]) for row, form in enumerate(forms)]
    counts = np.bincount(np.concatenate(epochs), minlength=3) / (12 * 120)
    # 1440 draws: a share of 1/2 is within 0.05 by four standard errors
    assert counts.tolist() == pytest.approx([0.5, 0.25, 0.25], abs=0.05)
    assert len({tuple(forms) for forms in epochs}) == 12
    assert len({epochs[epoch][0] for epoch in range(12)}) > 1  # a click has another form in another epoch
    again = TextItems(tables, shares=[2.0, 1.0, 1.0], seed=3)
    assert forms_of(again, tables, 5) == epochs[5]
    assert forms_of(TextItems(tables, shares=[2.0, 1.0, 1.0], seed=4), tables, 5) != epochs[5]


def test_what_each_form_learns(tables: list[TokenTable]) -> None:
    tokenizer = prompt_tokenizer()
    learnt = []
    for table in tables:
        batch = TextItems([table]).batch([5], 0, 1.0)
        words = tokenizer.decode(batch.packed.input_ids[0, batch.predict_T])
        learnt.append(" ".join(words.split()))
    title, summary, end = PAIRS[5].title, PAIRS[5].summary, tokenizer.eos_token
    # The title's first token has nothing before it where nothing is before the title.
    first = tokenizer.decode(tables[2][5].ids[:1]).strip()
    assert learnt == [
        f"{title} {summary}{end}",
        f"red shoes 0{end}",
        f"{title} {summary}{end}".removeprefix(first).strip(),
    ]


# --- general text ---


def test_general_text_has_its_share_of_the_tokens(tables: list[TokenTable], general: TokenTable) -> None:
    for share in (0.05, 0.3, 0.9):
        items = TextItems([tables[0]], replay=Replay(general, share), seed=0)
        lengths = [items.lengths(epoch) for epoch in range(20)]
        found = sum(of[120:].sum() for of in lengths) / sum(of.sum() for of in lengths)
        assert found == pytest.approx(share, abs=0.02)
        assert {len(of) for of in lengths} == {120 + items.num_replayed}
        assert all(of[:120].tolist() == tables[0].lengths.tolist() for of in lengths)


def test_all_general_text_is_seen_before_any_is_seen_again(tables: list[TokenTable], general: TokenTable) -> None:
    items = TextItems([tables[0]], replay=Replay(general, 0.02), seed=0)
    assert 1 < items.num_replayed < len(general)
    of_row = {tuple(general[row].ids.tolist()): row for row in range(len(general))}
    assert len(of_row) == len(general)
    stream = []
    for epoch in range(3 * len(general) // items.num_replayed + 1):
        shown = items.batch(range(120, 120 + items.num_replayed), epoch, 1.0)
        stream += [of_row[tuple(ids)] for ids in unpack(shown)]
    rounds = [stream[at : at + len(general)] for at in range(0, 3 * len(general), len(general))]
    assert [sorted(one) for one in rounds] == [list(range(len(general)))] * 3
    assert rounds[0] != rounds[1]
    many = TextItems([tables[0]], replay=Replay(general, 0.9), seed=0)
    assert many.num_replayed > len(general)
    counts = np.bincount([of_row[tuple(i)] for i in unpack(many.batch(range(120, 120 + many.num_replayed), 0, 1.0))])
    assert counts.max() - counts.min() <= 1


def test_the_averages_of_the_plan(tables: list[TokenTable], general: TokenTable) -> None:
    items = TextItems(tables, shares=[1.0, 0.0, 3.0], replay=Replay(general, 0.2), seed=0)
    tokens, predicted = 0, 0
    for epoch in range(40):
        batch = items.batch(range(120 + items.num_replayed), epoch, 1.0)
        tokens, predicted = tokens + batch.packed.num_tokens, predicted + int(batch.predict_T.sum())
    assert items.predicted_share == pytest.approx(predicted / tokens, abs=0.01)
    assert items.num_truncated == round(0.25 * tables[0].num_truncated + 0.75 * tables[2].num_truncated) > 0


# --- weights ---


def test_every_predicted_token_has_the_weight_of_its_example(tables: list[TokenTable], general: TokenTable) -> None:
    weights = np.linspace(0.5, 4.0, 120, dtype=np.float32)
    items = TextItems([tables[0]], weights=weights, replay=Replay(general, 0.1), seed=0)
    asked = [5, 119, 120, 0, 64]
    batch = items.batch(asked, 0, 1.0)
    scaled = [*(weights / weights.mean()), 1.0]  # general text weighs 1, the mean of the clicks
    expected = []
    for sequence, length in zip(batch.packed.order.tolist(), batch.packed.cu_seqlens.diff().tolist(), strict=True):
        item = asked[sequence]
        second = tables[0][item].second if item < 120 else 1
        expected += [float(scaled[min(item, 120)])] * (length - second)
    assert batch.weights_N is not None and batch.weights_N.dtype == torch.float32
    assert batch.weights_N.tolist() == pytest.approx(expected, rel=1e-6)
    assert len(expected) == int(batch.predict_T.sum())


def test_steps_are_the_same_on_one_rank_or_two(tables: list[TokenTable], general: TokenTable) -> None:
    weights = np.linspace(0.5, 4.0, 120, dtype=np.float32)

    def shown(ranks: int, accumulation: int) -> tuple[list[list[list[int]]], list[float]]:
        """The examples of every step, and the sum of their weights."""
        examples: list[list[list[int]]] = [[] for _ in range(30)]
        totals = [0.0] * 30
        for rank in range(ranks):
            items = TextItems(tables, shares=[1, 1, 1], weights=weights, replay=Replay(general, 0.2), seed=1)
            plan = StepPlan(
                items, tokens_per_step=150, accumulation=accumulation, process_rank=rank, world_size=ranks, seed=0
            )
            for step, make in enumerate(islice(plan.steps(), 30)):
                for batch in make():
                    assert batch.weights_N is not None
                    totals[step] += batch.weight * float(batch.weights_N.sum())
                    examples[step] += unpack(batch) if batch.weight else []
        return [sorted(step) for step in examples], totals

    (one, one_total), (two, two_total) = shown(1, 1), shown(2, 3)
    assert one == two
    assert one_total == pytest.approx(two_total, rel=1e-5)
