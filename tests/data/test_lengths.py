"""Lengths in one line."""

from __future__ import annotations

import numpy as np

from disranker.data.lengths import describe_lengths


def test_a_histogram_with_its_quantiles() -> None:
    lengths = np.repeat([8, 9, 11], [1, 8, 4])
    assert describe_lengths(lengths) == "8 ▁█ ▄ 11 tokens, median 9, 90% up to 11"


def test_many_lengths_share_bins() -> None:
    line = describe_lengths(np.arange(1, 161))
    assert line == f"1 {'█' * 16} 160 tokens, median 80, 90% up to 144"


def test_one_length_and_none() -> None:
    assert describe_lengths(np.array([5, 5])) == "5 █ 5 tokens, median 5, 90% up to 5"
    assert describe_lengths(np.zeros(0, dtype=np.int64)) == "no examples"
