"""The tokenizers that `disranker world` makes on request."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from disranker.cli import main
from disranker.data.readers import read_candidates


def test_a_world_with_tokenizers_and_fewer_candidates(tmp_path: Path) -> None:
    sizes = ["--judged_train", "1", "--judged_dev", "1", "--judged_test", "1", "--candidate_queries", "3"]
    docs = ["--docs_per_query", "6", "--candidate_docs", "2"]
    tokenizers = ["--tokenizers", str(tmp_path / "tokenizers"), "--vocab_size", "400"]
    assert main(["world", "--out", str(tmp_path / "world"), "--rows", "60", *sizes, *docs, *tokenizers]) == 0
    assert sum(1 for _ in read_candidates(tmp_path / "world" / "candidates.parquet")) == 3 * 2
    decoder, encoder = (
        AutoTokenizer.from_pretrained(tmp_path / "tokenizers" / name) for name in ("decoder", "encoder")
    )
    assert 300 < len(decoder) <= 400 and 100 < len(encoder) <= 400
    assert encoder.cls_token == "[CLS]" and decoder.pad_token != decoder.eos_token
    assert "[UNK]" not in encoder.tokenize("cheap laptop")
