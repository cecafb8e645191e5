"""Looking at the dev set while training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from disranker.data.readers import write_records
from disranker.data.text_items import TextItems
from disranker.data.tokens import TokenTable, write_tokens
from disranker.evaluation.measures import measure_run
from disranker.models.language import LanguageModel
from disranker.models.ranker import Ranker
from disranker.models.scorer import Scorer
from disranker.schema import Judgment, Pair
from disranker.text.token_bytes import token_bytes
from disranker.train.dev import dev_evaluation, dev_likelihood
from tests import tiny

ENCODER = tiny.encoder("pair")
BYTES = token_bytes(tiny.prompt_tokenizer())


@pytest.fixture
def ranker() -> Ranker:
    return Ranker(tiny.classifier("bert", vocab_size=len(ENCODER.tokenizer)).train())


def judged(path: Path) -> tuple[Path, list[Judgment]]:
    """Three queries with four judged documents each."""
    texts = [pair.title or pair.summary for pair in tiny.PAIRS]
    rows = [
        Judgment(f"q{query}", f"d{doc}", tiny.PAIRS[query].query + f" {query}", texts[(query + doc) % 6], "", doc % 3)
        for query in range(3)
        for doc in range(4)
    ]
    write_records(path, Judgment, rows)
    return path, rows


def test_without_a_dev_set_there_is_no_evaluation(ranker: Ranker) -> None:
    assert dev_evaluation(ranker, ENCODER, [], "nDCG@10") is None


@pytest.mark.parametrize("measure", ["nDCG@10", "nDCG@2", "PNR"])
def test_the_dev_measure_is_that_of_the_scorer(ranker: Ranker, tmp_path: Path, measure: str) -> None:
    path, rows = judged(tmp_path / "dev.parquet")
    evaluate = dev_evaluation(ranker.eval(), ENCODER, [path], measure)
    assert evaluate is not None
    scores = Scorer(ranker, ENCODER).score([row.pair for row in rows])
    labels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for row, score in zip(rows, scores, strict=True):
        labels.setdefault(row.query_id, {})[row.doc_id] = row.label
        run.setdefault(row.query_id, {})[row.doc_id] = float(score)
    assert evaluate() == measure_run(labels, run, [measure]).aggregate


def test_the_dev_measure_is_that_of_the_weights_at_the_call(ranker: Ranker, tmp_path: Path) -> None:
    path, _ = judged(tmp_path / "dev.parquet")
    evaluate = dev_evaluation(ranker.eval(), ENCODER, [path], "PNR")
    assert evaluate is not None
    before = evaluate()["PNR"]
    with torch.no_grad():
        ranker.stock.classifier.weight.neg_()
        ranker.stock.classifier.bias.neg_()
    # concordant and discordant pairs change places
    assert evaluate()["PNR"] == pytest.approx(1.0 / before) and before not in (1.0, 0.0, float("inf"))


def test_an_unknown_measure_is_refused_before_training(ranker: Ranker, tmp_path: Path) -> None:
    path, _ = judged(tmp_path / "dev.parquet")
    with pytest.raises(ValueError, match="unknown measure 'nDGC@10'"):
        dev_evaluation(ranker, ENCODER, [path], "nDGC@10")


# --- likelihood ---


@pytest.fixture
def texts(tmp_path: Path) -> Iterator[tuple[LanguageModel, TextItems]]:
    encoder = tiny.encoder("plain")
    write_tokens(tmp_path / "t.arrow", encoder, [*tiny.PAIRS, Pair("q", "", "a bike")])
    table = TokenTable(tmp_path / "t.arrow")
    model = LanguageModel(tiny.causal_model("llama", vocab_size=len(encoder.tokenizer)))
    yield model, TextItems([table])


@pytest.mark.parametrize("tokens_per_batch", [1, 40, 10_000])
def test_likelihood_is_a_mean_over_tokens_whatever_the_batches(
    texts: tuple[LanguageModel, TextItems], tokens_per_batch: int
) -> None:
    model, items = texts
    evaluate = dev_likelihood(model, {"": items, "general": items}, BYTES, tokens_per_batch=tokens_per_batch)
    assert evaluate is not None
    found = evaluate()
    # by hand: every text alone through the stock model, from the logits
    total, count, num_bytes = 0.0, 0, 0
    for row in range(7):
        packed = items.batch([row], 0, 1.0).packed
        with torch.no_grad():
            hidden_TH = model.stock.base_model(packed.input_ids, packed=packed).last_hidden_state[0]
            logits_TV = model.stock.lm_head(hidden_TH).log_softmax(dim=-1)
        for at in range(1, packed.num_tokens):
            if packed.token_type_ids[0, at]:
                total += float(logits_TV[at - 1, packed.input_ids[0, at]])
                num_bytes += int(BYTES[packed.input_ids[0, at]])
                count += 1
    perplexity, bits = math.exp(-total / count), -total / math.log(2) / num_bytes
    expected = {
        "log_likelihood": total / count,
        "perplexity": perplexity,
        "bits_per_byte": bits,
        "general_perplexity": perplexity,
        "general_bits_per_byte": bits,
    }
    assert found == pytest.approx(expected, rel=1e-5)
    assert next(iter(found)) == "log_likelihood"  # the first one decides
    assert total / count < -1.0


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_share_the_batches_and_run_as_many(
    texts: tuple[LanguageModel, TextItems], num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, items = texts
    sums: list[list[float]] = []
    passes: list[int] = []

    def keep(values: list[float]) -> list[float]:
        sums.append(values)
        return values

    monkeypatch.setattr("disranker.dist.sum_over_ranks", keep)
    model.register_forward_hook(lambda *_: passes.append(len(sums)))
    for world_size, rank in [(1, 0), *((num_ranks, rank) for rank in range(num_ranks))]:
        monkeypatch.setattr("disranker.dist.world_size", partial(int, world_size))
        monkeypatch.setattr("disranker.dist.process_rank", partial(int, rank))
        evaluate = dev_likelihood(model, {"": items}, BYTES, tokens_per_batch=1)
        assert evaluate is not None
        evaluate()
    assert np.sum(sums[1:], axis=0) == pytest.approx(sums[0], rel=1e-6)
    assert np.bincount(passes).tolist() == [7] + [math.ceil(7 / num_ranks)] * num_ranks


def test_likelihood_makes_no_graph(texts: tuple[LanguageModel, TextItems]) -> None:
    model, items = texts
    evaluate = dev_likelihood(model, {"query": items}, BYTES, tokens_per_batch=100)
    assert evaluate is not None
    assert list(evaluate()) == ["query_log_likelihood", "query_perplexity", "query_bits_per_byte"]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_held_out_text_there_is_no_likelihood(texts: tuple[LanguageModel, TextItems]) -> None:
    assert dev_likelihood(texts[0], {}, BYTES, tokens_per_batch=100) is None


def test_a_likelihood_beyond_all_numbers_has_a_perplexity_still(
    texts: tuple[LanguageModel, TextItems], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, items = texts
    monkeypatch.setattr(model, "forward", lambda packed, predict_T: torch.full((int(predict_T.sum()),), 1e6))
    evaluate = dev_likelihood(model, {"": items}, BYTES, tokens_per_batch=100)
    assert evaluate is not None and 0.0 < evaluate()["perplexity"] < float("inf")
