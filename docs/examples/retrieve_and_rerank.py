"""Retrieve and rerank with an embedded engine: tantivy finds documents by BM25, an exported ranker puts them in order.

    pip install tantivy onnxruntime tokenizers pyarrow
    python docs/examples/retrieve_and_rerank.py --export demo/student-onnx --judged demo/world/judged.test.parquet

`disranker demo --out demo` makes both; any export and any judged file will do.  All documents of the judged file are
indexed together, title and summary joined as the ranker reads them.  Printed are one query as a user would see it,
and nDCG@10 of both orders over all queries.  The judged file says nothing of a query's documents that were found but
not judged, so these are left out of both orders.  The demo's student has only learnt from documents close to their
query, and may put one in front that is far off: train a ranker of your own on what your engine retrieves.  The script
needs nothing of disranker.  The index splits texts where blanks and signs are; Chinese wants a tokenizer of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet
import tantivy
from tokenizers import Tokenizer

RETRIEVED = 100
"""Documents that are retrieved, and then reranked."""
BATCH = 32
"""Pairs of one forward pass."""


class Engine:
    """A tantivy index in memory."""

    def __init__(self, documents: dict[str, str]) -> None:
        schema = tantivy.SchemaBuilder()
        schema.add_text_field("doc_id", stored=True, tokenizer_name="raw")
        schema.add_text_field("text", stored=True)
        self._index = tantivy.Index(schema.build())
        writer = self._index.writer()
        for doc_id, text in documents.items():
            writer.add_document(tantivy.Document(doc_id=doc_id, text=text))
        writer.commit()
        self._index.reload()

    def retrieve(self, query: str, count: int) -> list[tuple[str, str]]:
        """(doc_id, text) of the best documents by BM25."""
        # What users type is no query language: lenient parsing takes signs for what they are.
        parsed, _ = self._index.parse_query_lenient(query, ["text"])
        searcher = self._index.searcher()
        found = [searcher.doc(address) for _, address in searcher.search(parsed, count).hits]
        return [(document["doc_id"][0], document["text"][0]) for document in found]


class Reranker:
    """An exported ranker in onnxruntime."""

    def __init__(self, folder: Path) -> None:
        # Cuts a pair as in training by itself, and pads nothing.
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"))
        self._names = [node.name for node in self._session.get_inputs()]
        self._pad_id = json.loads((folder / "config.json").read_text("utf-8"))["pad_token_id"]

    def score(self, query: str, texts: list[str]) -> np.ndarray[Any, Any]:
        """A raw score for each text; higher is better."""
        encoded = self._tokenizer.encode_batch([(query, text) for text in texts])
        scores = np.empty(len(texts), dtype=np.float32)
        # Pairs of about the same length share a batch, so that little is padded.
        order = sorted(range(len(texts)), key=lambda at: len(encoded[at].ids))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            shape = (len(batch), max(len(encoded[at].ids) for at in batch))
            inputs = {name: np.zeros(shape, dtype=np.int64) for name in self._names}
            inputs["input_ids"][:] = self._pad_id
            for row, at in enumerate(batch):
                for name in self._names:
                    values = getattr(encoded[at], {"input_ids": "ids", "token_type_ids": "type_ids"}.get(name, name))
                    inputs[name][row, : len(values)] = values
            scores[batch] = self._session.run(["logits"], inputs)[0][:, 0]
        return scores

    def rerank(self, query: str, found: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The documents in the ranker's order; of equal ones the engine's comes first."""
        scores = self.score(query, [text for _, text in found])
        return [found[at] for at in np.argsort(-scores, kind="stable")]


def read_judged(file: Path) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    """Documents by id as the ranker reads them, queries by id, and the labels of each query's documents."""
    documents, queries, labels = {}, {}, {}
    for row in pyarrow.parquet.read_table(file).to_pylist():
        documents[row["doc_id"]] = f"{row['title']} {row['summary']}".strip()
        queries[row["query_id"]] = row["query"]
        labels.setdefault(row["query_id"], {})[row["doc_id"]] = row["label"]
    return documents, queries, labels


def ndcg(doc_ids: list[str], labels: dict[str, int], cut: int = 10) -> float:
    """The measure nDCG with linear gain, over the documents that have a label."""

    def gain(values: list[int]) -> float:
        return sum(value / math.log2(place + 2) for place, value in enumerate(values[:cut]))

    best = gain(sorted(labels.values(), reverse=True))
    return gain([labels[doc_id] for doc_id in doc_ids if doc_id in labels]) / best if best else 0.0


def main() -> None:
    """Index, retrieve, rerank, and say what it changed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--export", type=Path, default=Path("demo/student-onnx"), help="export folder")
    parser.add_argument("--judged", type=Path, default=Path("demo/world/judged.test.parquet"), help="judged pairs")
    parser.add_argument("--queries", type=int, default=100, help="queries of the judged file to ask")
    args = parser.parse_args()
    documents, queries, labels = read_judged(args.judged)
    engine, reranker = Engine(documents), Reranker(args.export)
    print(f"{len(documents):,} documents, {min(args.queries, len(queries)):,} queries")
    before, after, seconds, shown = [], [], 0.0, False
    for query_id, query in list(queries.items())[: args.queries]:
        found = engine.retrieve(query, RETRIEVED)
        began = time.perf_counter()
        ordered = reranker.rerank(query, found)
        seconds += time.perf_counter() - began
        if found and not shown:
            shown = True
            print(f"query: {query}")
            for place, (_, text) in enumerate(ordered[:5], 1):
                print(f"  {place}. {text[:100]}")
        before.append(ndcg([doc_id for doc_id, _ in found], labels[query_id]))
        after.append(ndcg([doc_id for doc_id, _ in ordered], labels[query_id]))
    print(f"nDCG@10: {np.mean(before):.3f} by BM25, {np.mean(after):.3f} reranked")
    print(f"reranking took {seconds / len(after) * 1000:.0f} ms a query")


if __name__ == "__main__":
    main()
