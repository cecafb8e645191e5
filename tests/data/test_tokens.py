"""Encoded pairs on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from disranker.data import tokens as module
from disranker.data.tokens import TokenTable, token_table, write_tokens
from disranker.schema import Pair
from disranker.text.encode import PairEncoder
from disranker.text.templates import get_template
from disranker.text.vocabulary import train_pair_tokenizer
from tests.tiny import PAIRS, encoder, pair_tokenizer


@pytest.fixture(params=[1, 4, 5, 8192], ids=lambda rows: f"{rows} rows a batch")
def rows_per_batch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "_ROWS_PER_BATCH", request.param)
    rows: int = request.param
    return rows


@pytest.mark.usefixtures("rows_per_batch")
@pytest.mark.parametrize("template", ["pair", "plain"])
def test_what_is_written_is_read(template: str, tmp_path: Path) -> None:
    pairs = [Pair(one.query, other.title, other.summary) for one in PAIRS[:2] for other in PAIRS][:10]
    text = encoder(template, max_tokens=12)
    expected = text.encode(pairs)
    assert write_tokens(tmp_path / "deep" / "a.arrow", text, iter(pairs)) == 10
    table = TokenTable(tmp_path / "deep" / "a.arrow")
    assert len(table) == 10
    for row in [*range(10), 9, 0]:
        assert table[row].ids.tolist() == expected[row].ids.tolist()
        assert table[row].ids.dtype == np.int32
        assert table[row].second == expected[row].second
    assert table.lengths.tolist() == [len(one.ids) for one in expected]
    assert table.lengths.dtype == np.int64
    assert 0 < table.num_truncated == sum(one.num_cut > 0 for one in expected) < 10


def test_a_table_of_nothing(tmp_path: Path) -> None:
    assert write_tokens(tmp_path / "a.arrow", encoder(), []) == 0
    table = TokenTable(tmp_path / "a.arrow")
    assert (len(table), table.lengths.tolist(), table.num_truncated) == (0, [], 0)


class Pairs:
    """Pairs that count how often they are asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Iterator[Pair]:
        self.calls += 1
        return iter(PAIRS)


def test_texts_are_encoded_once_and_by_the_main_process_alone(tmp_path: Path) -> None:
    pairs = Pairs()
    other_rank = token_table(tmp_path, encoder(), pairs, content="a", is_main=False)
    assert (pairs.calls, list(tmp_path.iterdir())) == (0, [])
    main = token_table(tmp_path, encoder(), pairs, content="a", is_main=True)
    assert len(main()) == len(other_rank()) == len(PAIRS)
    assert len(token_table(tmp_path, encoder(), pairs, content="a", is_main=True)()) == len(PAIRS)
    assert pairs.calls == 1


def test_whatever_the_ids_depend_on_is_in_the_name(tmp_path: Path) -> None:
    def name(text: PairEncoder, content: str = "a") -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        token_table(folder, text, Pairs(), content=content, is_main=True)
        (file,) = folder.iterdir()
        return file.name

    def with_tokenizer(tokenizer: object) -> PairEncoder:
        return PairEncoder(tokenizer, get_template("pair"), max_tokens=32, max_query_tokens=16)

    # One vocabulary, and yet other ids: here the case of letters is kept.
    keeps_case = train_pair_tokenizer([text for pair in PAIRS for text in pair], 120)
    keeps_case.backend_tokenizer.normalizer.lowercase = False
    assert keeps_case.get_vocab() == pair_tokenizer().get_vocab()

    first = name(encoder())
    others = [
        name(encoder(), content="b"),
        name(encoder("plain")),
        name(encoder("prompt-en")),
        name(encoder(max_tokens=31)),
        name(encoder(max_query_tokens=15)),
        name(with_tokenizer(keeps_case)),
        name(with_tokenizer(train_pair_tokenizer(["other words"], 60))),
    ]
    assert len({first, *others}) == 8
    # The truncation that the last call left in the tokenizer is not among it.
    encoder(max_tokens=9).encode(PAIRS)
    assert name(encoder()) == first


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_killed_half_way_it_leaves_no_file(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROWS_PER_BATCH", 2)

    def broken() -> Iterator[Pair]:
        yield from PAIRS[:5]
        raise error

    with pytest.raises(error):
        token_table(tmp_path, encoder(), broken, content="a", is_main=True)
    assert list(tmp_path.iterdir()) == []
    assert len(token_table(tmp_path, encoder(), Pairs(), content="a", is_main=True)()) == len(PAIRS)
