"""Other layouts into the package's own Parquet files: the work of `disranker import SOURCE --out DIR`.

    beir:DIR         judged.SPLIT.parquet for every qrels/SPLIT.tsv, candidates for the runs
    trec:            the same from qrels=, run=, corpus=, queries=
    ir_datasets:ID   the same from a dataset of the ir_datasets package
    hf:NAME          a dataset of the datasets package whose columns are those of the records; hf:NAME:CONFIG picks one
    clicks:PATH      judged pairs from a click log: every clicked document is one of label 1
    PATH             CSV, JSONL or Parquet with the columns of the records

Runs give candidates.NAME.parquet each, in the order of their scores, and candidates.parquet with every pair of all of
them once.  Rows are grouped by query_id.  The first fault ends the import.

Rules: a query_id that is not among the queries is a fault.  A document that is not in the corpus, or has no text there,
is a fault unless `missing_documents="skip"`, and then the number of pairs left out is in the result.  A label below 0
(spam in some TREC tracks) is a fault unless `negative_labels="zero"`, which makes it 0.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from disranker.data.beir import Document, find_beir_files, parse_corpus, parse_queries
from disranker.data.check import recognise, recognise_columns
from disranker.data.clicked import judge_clicks
from disranker.data.collection import Collection, Files, Listing, write_collection
from disranker.data.faults import Fault, InputError, strict
from disranker.data.fields import parse_label
from disranker.data.readers import Paths, as_paths, parse_rows, read_record_rows, write_records
from disranker.data.rows import Row
from disranker.data.trec import Judged, Retrieved, parse_qrels, parse_run
from disranker.schema import Candidate, Click, Judgment

R = TypeVar("R", Judgment, Candidate)

_RECORD_TYPES: Mapping[str, type] = {"clicks": Click, "judged": Judgment, "candidates": Candidate}


def import_source(
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    qrels: Paths | None = None,
    run: Paths | None = None,
    corpus: str | os.PathLike[str] | None = None,
    queries: str | os.PathLike[str] | None = None,
    missing_documents: Literal["fault", "skip"] = "fault",
    negative_labels: Literal["fault", "zero"] = "fault",
) -> dict[str, Any]:
    """Import a source into `out_dir` and return what was written.

    `qrels`, `corpus` and `queries` belong to `trec:`; `run` to `trec:` and to `beir:`, where it joins the folder's own.
    The result is {"source", "out_dir", "files": {file name: its counts}}; counts are rows and, where there are such,
    queries and skipped_pairs.

    Raises:
        InputError: at the first fault of the data.
        ValueError: the source, or an argument that does not belong to it.
        ModuleNotFoundError: ir_datasets or datasets is not installed; the message has the pip line.
    """
    text = os.fspath(source)
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in ("beir", "trec", "ir_datasets", "hf", "clicks"):
        scheme = "file"
    given = {"qrels": qrels, "run": run, "corpus": corpus, "queries": queries}
    usable = {"trec": list(given), "beir": ["run"]}.get(scheme, [])
    wrong = [name for name, value in given.items() if value is not None and name not in usable]
    if missing_documents == "skip" and scheme in ("hf", "file", "clicks"):
        wrong.append("missing_documents")
    if wrong:
        raise ValueError(f"source {text!r} has no use for {', '.join(wrong)}; leave it out, or import with trec:")
    to_zero = negative_labels == "zero"
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    if scheme == "file":
        files = _import_file(Path(text), out, to_zero)
    elif scheme == "hf":
        files = _import_hf(rest, out, to_zero)
    elif scheme == "clicks":
        name = f"judged.{Path(rest).stem}.parquet"
        files = {name: _write_grouped(out / name, Judgment, judge_clicks(rest))}
    else:
        if scheme == "beir":
            collection = _open_beir(Path(rest), run, to_zero)
        elif scheme == "trec":
            collection = _open_trec(rest, qrels, run, corpus, queries, to_zero)
        else:
            collection = _open_ir_datasets(rest, to_zero)
        files = write_collection(collection, out, skip_missing=missing_documents == "skip")
    return {"source": text, "out_dir": str(out), "files": files}


def _open_beir(folder: Path, run: Paths | None, to_zero: bool) -> Collection:
    found = find_beir_files(folder)
    if found is None:
        what = "is no BEIR folder: corpus.jsonl or queries.jsonl is missing"
        raise InputError(Fault("path", str(folder), None, what, "check the path, or import with trec:"))
    runs = [*found.runs.values(), *(() if run is None else as_paths(run))]
    if not found.qrels and not runs:
        what = "has neither qrels/SPLIT.tsv nor a NAME.trec"
        raise InputError(Fault("empty", str(folder), None, what, "add judgments, or name a run"))
    return _open_files(list(found.qrels.values()), runs, found.corpus, found.queries, to_zero)


def _open_trec(
    rest: str,
    qrels: Paths | None,
    run: Paths | None,
    corpus: str | os.PathLike[str] | None,
    queries: str | os.PathLike[str] | None,
    to_zero: bool,
) -> Collection:
    if rest:
        raise ValueError(
            f"source 'trec:' stands alone, not with {rest!r}; name the files as qrels, run, corpus, queries"
        )
    if corpus is None or queries is None or (qrels is None and run is None):
        raise ValueError("source 'trec:' needs corpus, queries, and qrels or run or both; name them")
    return _open_files(
        [] if qrels is None else as_paths(qrels),
        [] if run is None else as_paths(run),
        Path(corpus),
        Path(queries),
        to_zero,
    )


def _open_files(qrels: list[Path], runs: list[Path], corpus: Path, queries: Path, to_zero: bool) -> Collection:
    texts = {item.query_id: item.query for item in strict(parse_queries(queries, set()))}

    def read_documents(wanted: set[str]) -> Iterator[Document]:
        # Only the wanted texts are kept; a corpus may be far larger than what was judged.
        return (document for document in strict(parse_corpus(corpus, set())) if document.doc_id in wanted)

    return Collection(
        [Listing(path.stem, path, list(strict(parse_qrels(path, negative_to_zero=to_zero)))) for path in qrels],
        [Listing(path.stem, path, list(strict(parse_run(path)))) for path in runs],
        texts,
        read_documents,
    )


def _open_ir_datasets(dataset_id: str, to_zero: bool) -> Collection:
    try:
        import ir_datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("ir_datasets: sources need the package: pip install ir_datasets") from error
    dataset = ir_datasets.load(dataset_id)
    origin, name = Path(f"ir_datasets:{dataset_id}"), dataset_id.rpartition("/")[2]
    queries = {str(query.query_id): query.default_text() for query in dataset.queries_iter()}

    def read_documents(wanted: set[str]) -> Iterator[Document]:
        for doc_id, document in dataset.docs_store().get_many(wanted).items():
            # default_text() would repeat the title, so the plain field goes first.
            summary = getattr(document, "text", None) or getattr(document, "body", None) or document.default_text()
            yield Document(0, str(doc_id), getattr(document, "title", None) or "", summary)

    def judge(line: int, qrel: Any) -> Judged:
        row = Row(str(origin), line, {"label": qrel.relevance})
        label = parse_label(row, "label", negative_to_zero=to_zero)
        return Judged(line, str(qrel.query_id), str(qrel.doc_id), label)

    qrels = [judge(line, qrel) for line, qrel in enumerate(dataset.qrels_iter(), 1)] if dataset.has_qrels() else []
    scored = enumerate(dataset.scoreddocs_iter(), 1) if dataset.has_scoreddocs() else ()
    run = [Retrieved(line, str(one.query_id), str(one.doc_id), float(one.score)) for line, one in scored]
    return Collection(
        [Listing(name, origin, qrels)] if qrels else [],
        [Listing(name, origin, run)] if run else [],
        queries,
        read_documents,
    )


def _import_file(path: Path, out: Path, to_zero: bool) -> Files:
    content = recognise(path)
    if isinstance(content, Fault):
        raise InputError(content)
    if content not in _RECORD_TYPES:
        what = f"holds {content}, not both the ids and the texts of pairs"
        raise InputError(
            Fault("columns", str(path), None, what, "import its folder with beir:, or the files with trec:")
        )
    return _write_rows(out, content, path.stem, read_record_rows(path, _RECORD_TYPES[content]), to_zero)


def _import_hf(name: str, out: Path, to_zero: bool) -> Files:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("hf: sources need the package datasets: pip install datasets") from error
    dataset_name, _, config = name.partition(":")
    try:
        splits = datasets.load_dataset(dataset_name, config or None, streaming=True)
    except (OSError, ValueError) as error:  # no such data set or configuration, no network, no right to read it
        what = f"cannot be opened: {error}"
        raise InputError(Fault("path", f"hf:{name}", None, what, "write hf:NAME or hf:NAME:CONFIGURATION")) from error
    files: Files = {}
    for split, rows in splits.items():
        origin = f"hf:{name}/{split}"
        columns = list(rows.features or next(iter(rows), {}))
        content = recognise_columns(columns)
        if content is None or content not in _RECORD_TYPES:
            what = f"has the columns {', '.join(map(repr, columns)) or 'none'}"
            raise InputError(
                Fault("columns", origin, None, what, "rename them to those of the records before the import")
            )
        located = (Row(origin, line, values) for line, values in enumerate(rows, start=1))
        files |= _write_rows(out, content, split, located, to_zero)
    return files


def _write_rows(out: Path, content: str, name: str, rows: Iterable[Row | Fault], to_zero: bool) -> Files:
    """Write rows as CONTENT.NAME.parquet; a name that starts with the content already is kept as it is."""
    file_name = f"{name}.parquet" if name.split(".")[0] == content else f"{content}.{name}.parquet"
    if content == "clicks":
        return {file_name: {"rows": write_records(out / file_name, Click, strict(parse_rows(rows, Click)))}}
    if content == "judged":
        judgments = strict(parse_rows(rows, Judgment, negative_to_zero=to_zero))
        return {file_name: _write_grouped(out / file_name, Judgment, judgments)}
    return {file_name: _write_grouped(out / file_name, Candidate, strict(parse_rows(rows, Candidate)))}


def _write_grouped(path: Path, record_type: type[R], records: Iterable[R]) -> dict[str, int]:
    """Write records with the rows of a query together, queries in the order in which they come first.

    Streaming where the rows are grouped already; otherwise the written file is loaded once as Arrow and reordered.
    """
    ordinals: dict[str, int] = {}
    order = array("q")

    def numbered() -> Iterator[R]:
        for record in records:
            order.append(ordinals.setdefault(record.query_id, len(ordinals)))
            yield record

    num_rows = write_records(path, record_type, numbered())
    ordinal_of_row = np.frombuffer(order, dtype=np.int64)
    if num_rows and (np.diff(ordinal_of_row) < 0).any():
        write_records(path, record_type, _reorder(path, record_type, np.argsort(ordinal_of_row, kind="stable")))
    return {"rows": num_rows, "queries": len(ordinals)}


def _reorder(path: Path, record_type: type[R], row_order: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[R]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    for start in range(0, len(row_order), 4096):
        for values in table.take(row_order[start : start + 4096]).to_pylist():
            yield record_type(**values)
