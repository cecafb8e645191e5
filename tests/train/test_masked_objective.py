"""Which tokens are hidden, and that nothing but (seed, epoch, row) decides it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from disranker import dist
from disranker.data.tokens import TokenTable, write_tokens
from disranker.models.masked import MaskedLanguageModel
from disranker.schema import Pair
from disranker.train.masked import MaskedItems, MaskedObjective, Masker, masked_likelihood
from tests.tiny import FAMILIES, PAIRS, encoder, pair_tokenizer, spread

TOKENIZER = pair_tokenizer()
CLS, SEP, MASK, UNK = TOKENIZER.convert_tokens_to_ids(["[CLS]", "[SEP]", "[MASK]", "[UNK]"])
ORDINARY = [at for at in range(len(TOKENIZER)) if at not in TOKENIZER.all_special_ids]


def row_of(length: int) -> np.ndarray:
    """[CLS] length ordinary tokens [SEP]"""
    inner = np.random.default_rng(length).choice(ORDINARY, length)
    return np.array([CLS, *inner, SEP])


@pytest.mark.parametrize(("length", "share", "expected"), [(20, 0.15, 3), (100, 0.15, 15), (2, 0.15, 1), (10, 0.4, 4)])
def test_how_many_tokens_are_hidden(length: int, share: float, expected: int) -> None:
    seen, at = Masker(TOKENIZER, share=share, seed=0).hide(row_of(length), 0, 0)
    assert len(at) == len(set(at.tolist())) == expected
    assert np.array_equal(np.delete(seen, at), np.delete(row_of(length), at))


def test_what_becomes_of_them() -> None:
    """80% the mask, 10% a random ordinary token, 10% as they were; within four standard deviations."""
    masker, ids = Masker(TOKENIZER, share=0.5, seed=1), row_of(400)
    masked, same, other, drawn = 0, 0, 0, set()
    for row in range(50):
        seen, at = masker.hide(ids, 0, row)
        masked += int((seen[at] == MASK).sum())
        same += int((seen[at] == ids[at]).sum())
        others = seen[at][(seen[at] != MASK) & (seen[at] != ids[at])]
        other += len(others)
        drawn |= set(others.tolist())
    total = masked + same + other
    assert total == 50 * 200

    def near(count: int, share: float) -> bool:
        return abs(count - share * total) < 4 * math.sqrt(share * (1 - share) * total)

    # A random token may be the one that stood there.
    assert near(masked, 0.8) and near(same, 0.1 + 0.1 / len(ORDINARY)) and near(other, 0.1 - 0.1 / len(ORDINARY))
    assert drawn == set(ORDINARY)


def test_special_and_unknown_tokens_are_never_hidden() -> None:
    ids = np.array([CLS, ORDINARY[0], UNK, ORDINARY[1], SEP, ORDINARY[2], SEP])
    hidden = {int(one) for row in range(60) for one in Masker(TOKENIZER, share=0.9, seed=0).hide(ids, 0, row)[1]}
    assert hidden == {1, 3, 5}
    bare = np.array([CLS, UNK, SEP])
    seen, at = Masker(TOKENIZER, share=0.9, seed=0).hide(bare, 0, 0)
    assert len(at) == 0 and np.array_equal(seen, bare)


def test_seed_epoch_and_row_decide() -> None:
    ids = row_of(60)

    def drawn(seed: int, epoch: int, row: int) -> list[list[int]]:
        seen, at = Masker(TOKENIZER, share=0.3, seed=seed).hide(ids, epoch, row)
        return [seen.tolist(), at.tolist()]

    assert drawn(0, 0, 0) == drawn(0, 0, 0)
    assert len({str(drawn(*key)) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}) == 4


@pytest.fixture
def items(tmp_path: Path) -> MaskedItems:
    write_tokens(tmp_path / "t.arrow", encoder(), [*PAIRS, Pair("", "warm boots", "for winter")])
    return MaskedItems(TokenTable(tmp_path / "t.arrow"), Masker(TOKENIZER, share=0.3, seed=0))


@pytest.fixture
def model() -> MaskedLanguageModel:
    torch.manual_seed(0)
    changed = {"vocab_size": len(TOKENIZER), "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    stock = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**{**FAMILIES["bert"], **changed}))
    return MaskedLanguageModel(spread(stock)).eval()


def test_batches_do_not_change_what_is_hidden(items: MaskedItems, model: MaskedLanguageModel) -> None:
    """A row is hidden alike and loses alike, alone or among others, in any order."""
    objective = MaskedObjective()
    together = items.batch([5, 0, 6, 2], 3, 1.0)
    alone = [items.batch([row], 3, 1.0) for row in (0, 2, 5, 6)]
    assert objective.count(together) == sum(objective.count(batch) for batch in alone) > 4
    assert together.packed.num_tokens == sum(batch.packed.num_tokens for batch in alone)
    with torch.inference_mode():
        loss = objective.loss(model, together, 0)["loss"]
        parts = [objective.loss(model, batch, 0)["loss"] for batch in alone]
    torch.testing.assert_close(loss, torch.stack(parts).sum(), rtol=0, atol=1e-4)
    other = items.batch([5, 0, 6, 2], 4, 1.0)
    assert not torch.equal(together.masked_T, other.masked_T)


def test_targets_are_the_tokens_that_stood_there(items: MaskedItems) -> None:
    batch = items.batch([0, 1, 2], 0, 1.0)
    unmasked = MaskedItems(items.table, Masker(TOKENIZER, share=1e-9, seed=0)).batch([0, 1, 2], 0, 1.0)
    plain = unmasked.packed.input_ids[0].clone()
    plain[unmasked.masked_T] = unmasked.targets_N
    assert torch.equal(batch.targets_N, plain[batch.masked_T])
    assert torch.equal(batch.packed.input_ids[0][~batch.masked_T], plain[~batch.masked_T])


def test_a_stand_in_counts_nothing(items: MaskedItems, model: MaskedLanguageModel) -> None:
    batch = items.batch([0], 0, 0.0)
    assert MaskedObjective().count(batch) == 0.0
    assert MaskedObjective().loss(model, batch, 0)["loss"].item() == 0.0


def test_rows_of_unknown_words_alone_are_refused(tmp_path: Path) -> None:
    write_tokens(tmp_path / "t.arrow", encoder(), [Pair("", "Ωδ", "")])
    items = MaskedItems(TokenTable(tmp_path / "t.arrow"), Masker(TOKENIZER, share=0.3, seed=0))
    with pytest.raises(ValueError, match="have no token to hide: all of theirs are unknown to the tokenizer"):
        items.batch([0], 0, 1.0)


def test_perplexity(items: MaskedItems, model: MaskedLanguageModel, tmp_path: Path) -> None:
    dist.initialize()
    evaluations = [masked_likelihood(model, items, tokens) for tokens in (10_000, 20)]
    whole, cut = (evaluate() for evaluate in evaluations if evaluate is not None)
    batch = items.batch(list(range(7)), 0, 1.0)
    with torch.inference_mode():
        losses_N = model(batch.packed, batch.masked_T, batch.targets_N)
    assert whole["log_likelihood"] == pytest.approx(-float(losses_N.mean()), abs=1e-5)
    assert whole["perplexity"] == pytest.approx(math.exp(-whole["log_likelihood"]))
    assert cut == pytest.approx(whole, rel=1e-5)
    assert next(iter(whole)) == "log_likelihood"  # the larger, the better: by it the best weights are kept
    write_tokens(tmp_path / "none.arrow", encoder(), [])
    nothing = MaskedItems(TokenTable(tmp_path / "none.arrow"), Masker(TOKENIZER, share=0.3, seed=0))
    assert masked_likelihood(model, nothing, 20) is None
