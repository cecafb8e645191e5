"""The two tokenizers of a click log, for models that are built from scratch; how one is trained is in `text`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from disranker.data.readers import read_clicks
from disranker.text.vocabulary import train_pair_tokenizer, train_prompt_tokenizer

# A frequent piece shows within so many clicks; the texts are held in memory.
_MAX_CLICKS = 10_000


def write_tokenizers(clicks: Path, out: Path, vocab_size: int) -> None:
    """Train a tokenizer for decoders (`OUT/decoder`) and one for encoders (`OUT/encoder`) on the first clicks."""
    train_prompt_tokenizer(_clicked_texts(clicks), vocab_size).save_pretrained(out / "decoder")
    train_pair_tokenizer(_clicked_texts(clicks), vocab_size).save_pretrained(out / "encoder")


def _clicked_texts(clicks: Path) -> Iterator[str]:
    for click in islice(read_clicks(clicks), _MAX_CLICKS):
        yield from (click.query, click.title, click.summary)
