"""How long the examples of a run are, in one line of its plan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BARS = "▁▂▃▄▅▆▇█"
_NUM_BINS = 16


def describe_lengths(lengths: NDArray[np.int64]) -> str:
    """A histogram of [N] lengths in tokens with its quantiles; a blank is a bin without an example."""
    if len(lengths) == 0:
        return "no examples"
    low, high = int(lengths.min()), int(lengths.max())
    counts, _ = np.histogram(lengths, bins=min(_NUM_BINS, high - low + 1), range=(low, high + 1))
    bars = "".join(_BARS[int(np.ceil(count / counts.max() * len(_BARS))) - 1] if count else " " for count in counts)
    median, most = np.quantile(lengths, [0.5, 0.9])
    return f"{low} {bars} {high} tokens, median {median:.0f}, 90% up to {most:.0f}"
