"""Judgments and scores of millions of documents: from Parquet or TREC files through Arrow to `Columns`.

    columns = join_tables(read_label_table("judged.parquet"), read_score_table("student.trec"))
    measured = measure_columns(columns, ["nDCG@10", "PNR"])

No Python object is made for a row, and texts beside the ids are not read.  For sets that fit into dictionaries the
readers of `disranker.data` name the line of every fault; here a fault names the query and the document.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from disranker.evaluation.columns import Columns, Ints, Rows, join_columns, refuse

_QRELS = ("query_id", "iteration", "doc_id", "label")
_RUN = ("query_id", "Q0", "doc_id", "position", "score", "tag")
_BEIR_HEADER = ["query-id", "corpus-id", "score"]
_SHARES = 64  # of the queries, at most 256
_NAMED_ROWS = 4  # one more than an error message lists

PathLike = str | os.PathLike[str]


class _ArrowDocIds:
    """doc_ids behind codes, some more than once; only the documents that are asked for are sorted."""

    def __init__(self, ids: pa.ChunkedArray) -> None:
        self._ids = ids

    def name(self, code: int) -> str:
        return str(self._ids[code].as_py())

    def sort_keys(self, codes: Ints) -> Ints:
        distinct, place = np.unique(codes, return_inverse=True)
        ids = pa.concat_arrays(self._ids.take(pa.array(distinct)).chunks)
        keys = np.empty(len(ids), dtype=np.int64)
        keys[pc.array_sort_indices(ids).to_numpy()] = np.arange(len(ids))
        return keys[place]


def join_tables(judged: pa.Table, scored: pa.Table) -> Columns:
    """The columns of `judged` (query_id, doc_id, label) and `scored` (query_id, doc_id, score); others are not read.

    One table that holds all four may be given twice.  Ids may have any type that prints one way (strings, whole
    numbers).

    Raises:
        ValueError: a column is missing, a value is null, or what `join_columns` refuses.
    """
    labels, scores = (_column(table, name) for table, name in ((judged, "label"), (scored, "score")))
    judged_ids, scored_ids = ([_column(table, name) for name in ("query_id", "doc_id")] for table in (judged, scored))
    for ids, values, name in ((judged_ids, labels, "label"), (scored_ids, scores, "score")):
        _refuse_nulls(ids, values, name)
    # Scores are mostly those of the judged rows themselves, in their order: then one set of codes serves both.
    same_rows = all(left.equals(right) for left, right in zip(judged_ids, scored_ids, strict=True))
    tables = [judged_ids] if same_rows else [judged_ids, scored_ids]
    query_ids, query_codes = _encode_queries([ids[0] for ids in tables])
    doc_ids, doc_codes = _encode_docs([ids[1] for ids in tables], query_codes)
    return join_columns(
        query_ids,
        _ArrowDocIds(doc_ids),
        Rows(query_codes[0], doc_codes[0], labels.to_numpy()),
        Rows(query_codes[-1], doc_codes[-1], scores.to_numpy()),
    )


def read_label_table(*paths: PathLike) -> pa.Table:
    """query_id, doc_id and label of judgments: Parquet files (`.parquet`), or qrels in TREC's or BEIR's columns.

    The columns of qrels are parted by one tab or one space.  Raises ValueError for files that hold something else.
    """
    return _read_all(paths, _QRELS, {"label": pa.int32()})


def read_score_table(*paths: PathLike) -> pa.Table:
    """query_id, doc_id and score of a run: Parquet files (`.parquet`), or a TREC run.

    The columns of a run are parted by one tab or one space.  Raises ValueError for files that hold something else.
    """
    return _read_all(paths, _RUN, {"score": pa.float64()})


def _read_all(paths: Sequence[PathLike], trec: Sequence[str], value: Mapping[str, pa.DataType]) -> pa.Table:
    tables = [_read(Path(path), trec, value) for path in paths]
    return pa.concat_tables(tables, promote_options="permissive")  # whole numbers of different widths


def _read(path: Path, trec: Sequence[str], value: Mapping[str, pa.DataType]) -> pa.Table:
    types = {"query_id": pa.string(), "doc_id": pa.string(), **value}
    try:
        table = pq.read_table(path, columns=[*types]) if path.suffix == ".parquet" else _read_text(path, trec, types)
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(f"{path}: {error}") from error
    for name in types:
        _column(table, name, f"{path}: ")
    return table.select([*types])


def _read_text(path: Path, trec: Sequence[str], types: Mapping[str, pa.DataType]) -> pa.Table:
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    delimiter = "\t" if "\t" in first else " "
    header = first.rstrip("\r\n").split(delimiter)
    is_beir = header == _BEIR_HEADER and "label" in types
    names = ["query_id", "doc_id", "label"] if is_beir else [*trec]
    if len(header) != len(names):
        raise ValueError(
            f"{path}: the first line has {len(header)} columns, not the {len(names)} of {' '.join(names)}; "
            "part them by one tab or one space"
        )
    return pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=int(is_beir)),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char=False),
        convert_options=pyarrow.csv.ConvertOptions(column_types=types, include_columns=[*types]),
    )


def _column(table: pa.Table, name: str, where: str = "") -> pa.ChunkedArray:
    if table.column_names.count(name) != 1:
        raise ValueError(f"{where}there must be one column {name!r}; the columns are {', '.join(table.column_names)}")
    return table.column(name)


def _refuse_nulls(ids: Sequence[pa.ChunkedArray], values: pa.ChunkedArray, name: str) -> None:
    for column, what in ((ids[0], "query_id"), (ids[1], "doc_id"), (values, name)):
        if column.null_count:
            rows = np.flatnonzero(column.is_null().to_numpy())[:_NAMED_ROWS].tolist()
            named = [f"row {row} (query_id {ids[0][row].as_py()!r}, doc_id {ids[1][row].as_py()!r})" for row in rows]
            refuse(named, f"rows have no {what}", column.null_count)


def _encode_queries(columns: Sequence[pa.ChunkedArray]) -> tuple[list[str], list[NDArray[np.int32]]]:
    """The distinct ids of several columns in the order of strings, and each column as codes into them."""
    with ThreadPoolExecutor(len(columns)) as pool:  # Arrow lets go of the interpreter's lock
        encoded = list(pool.map(lambda column: _encode([column.cast(pa.large_string())]), columns))
    ids = pa.concat_arrays([distinct for distinct, _ in encoded]).unique()
    ids = ids.take(pc.array_sort_indices(ids))
    codes_of = [pc.index_in(distinct, ids).to_numpy(zero_copy_only=False) for distinct, _ in encoded]
    return ids.to_pylist(), [places[codes] for places, (_, codes) in zip(codes_of, encoded, strict=True)]


def _encode_docs(
    columns: Sequence[pa.ChunkedArray], query_codes: Sequence[NDArray[np.int32]]
) -> tuple[pa.ChunkedArray, list[NDArray[np.int32]]]:
    """Documents as codes that are equal for equal ids of one query, and the id behind each code.

    Documents are told apart within shares of the queries: a hash table of all ids would fit into no cache.
    """
    grouped, orders, bounds = [], [], []
    for column, queries in zip(columns, query_codes, strict=True):
        shares = (queries % _SHARES).astype(np.uint8)
        order = np.argsort(shares, kind="stable")
        strings = (
            pa.concat_arrays(column.cast(pa.large_string()).chunks) if len(column) else pa.array([], pa.large_string())
        )
        grouped.append(strings.take(pa.array(order)))
        orders.append(order)
        bounds.append(np.concatenate([[0], np.cumsum(np.bincount(shares, minlength=_SHARES))]))

    def encode(share: int) -> tuple[pa.Array, NDArray[np.int32]]:
        return _encode(
            [rows.slice(at[share], at[share + 1] - at[share]) for rows, at in zip(grouped, bounds, strict=True)]
        )

    codes = [np.empty(len(column), dtype=np.int32) for column in columns]
    distinct: list[pa.Array] = []
    num_ids = 0
    with ThreadPoolExecutor() as pool:
        for share, (ids, of_share) in enumerate(pool.map(encode, range(_SHARES))):
            distinct.append(ids)
            of_share = of_share + np.int32(num_ids)
            for column_codes, order, at in zip(codes, orders, bounds, strict=True):
                here = order[at[share] : at[share + 1]]
                column_codes[here], of_share = of_share[: len(here)], of_share[len(here) :]
            num_ids += len(ids)
    return pa.chunked_array(distinct, pa.large_string()), codes


def _encode(chunks: Sequence[pa.Array | pa.ChunkedArray]) -> tuple[pa.Array, NDArray[np.int32]]:
    """The distinct strings, in the order of their first rows, and all rows as codes into them."""
    flat = [part for chunk in chunks for part in (chunk.chunks if isinstance(chunk, pa.ChunkedArray) else [chunk])]
    encoded = pa.chunked_array(flat, pa.large_string()).dictionary_encode()
    distinct = encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], pa.large_string())
    return distinct, np.concatenate([np.empty(0, np.int32), *(chunk.indices.to_numpy() for chunk in encoded.chunks)])
