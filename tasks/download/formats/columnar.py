"""Parquet: text columns as they are, row group by row group; damage costs the row groups it hits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

from tasks.download.formats.place import FilePlace
from tasks.download.formats.record import (
    INVALID_UTF8,
    NOT_TEXT,
    FieldChoice,
    ReadLimits,
    Record,
    batch_of_texts,
    batches_of,
    numbered_origins,
    rejected,
    text_record,
)

_BATCH_BYTES = 2 << 20
_MOST_ROWS = 1024
DAMAGED = "damaged Parquet"
_ERRORS = (pa.ArrowException, OSError, ValueError)


def read_parquet(
    stream: BinaryIO, place: FilePlace, fields: FieldChoice, limits: ReadLimits
) -> Iterator[pa.RecordBatch]:
    """One record a row; origin `file:row`, from 1."""
    try:
        file = pq.ParquetFile(stream)
    except _ERRORS as error:
        yield from batches_of([_damage(place.origin, error)])
        return
    names = file.schema_arrow.names
    missing = [name for name in fields.text_fields if name != "*" and name not in names]
    if missing:
        columns = ", ".join(names)[:500].encode("utf-8", "replace")
        defect = f"no column {', '.join(missing)}; set `text_fields`"
        yield from batches_of([rejected(b"columns: " + columns, place.origin, defect)])
        return
    chosen = None if "*" in fields.text_fields else list(dict.fromkeys(fields.text_fields))
    number = place.first_number
    stop = file.metadata.num_row_groups if place.stop is None else place.stop
    for group in range(place.start, stop):
        yield from _read_group(file, group, number, chosen, place.origin, fields, limits)
        number += file.metadata.row_group(group).num_rows


def _read_group(
    file: pq.ParquetFile,
    group: int,
    number: int,
    chosen: list[str] | None,
    origin: str,
    fields: FieldChoice,
    limits: ReadLimits,
) -> Iterator[pa.RecordBatch]:
    metadata = file.metadata.row_group(group)
    packed = sum(metadata.column(index).total_compressed_size for index in range(metadata.num_columns))
    unpacked = metadata.total_byte_size
    where = f"{origin}#row-group-{group}"
    if unpacked > limits.ratio_matters_bytes and unpacked > limits.unpacked_ratio * max(packed, 1):
        yield from batches_of([rejected(b"", where, "unpacks to over the ratio limit", unpacked / max(packed, 1))])
        return
    rows = max(1, min(_MOST_ROWS, _BATCH_BYTES * metadata.num_rows // max(unpacked, 1)))
    try:
        for batch in file.iter_batches(rows, [group], chosen, use_threads=False):
            yield from _batches(batch, number, origin, fields)
            number += batch.num_rows
    except _ERRORS as error:
        yield from batches_of([_damage(where, error)])


def _batches(batch: pa.RecordBatch, number: int, origin: str, fields: FieldChoice) -> Iterator[pa.RecordBatch]:
    texts = _text_column(batch, fields)
    if texts is not None:
        yield batch_of_texts(texts, numbered_origins(origin, number, len(texts)))
    else:
        yield from batches_of(_careful_records(batch, number, origin, fields))


def _text_column(batch: pa.RecordBatch, fields: FieldChoice) -> pa.Array | None:
    """The texts as one valid string column, or None when rows have to be looked at one by one."""
    if "*" in fields.text_fields:
        return None
    columns = []
    for name in fields.text_fields:
        column = batch.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if not _holds_text(column.type) or column.null_count:
            return None
        try:
            column = column.cast(pa.string())
            column.validate(full=True)  # a reader of Parquet takes invalid UTF-8 as it comes
        except pa.ArrowException:
            return None
        columns.append(column)
    return columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, "\n\n")


def _holds_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _careful_records(batch: pa.RecordBatch, number: int, origin: str, fields: FieldChoice) -> Iterator[Record]:
    for row in range(batch.num_rows):
        where = f"{origin}:{number + row}"
        try:
            value = {name: batch.column(name)[row].as_py() for name in batch.schema.names}
        except UnicodeDecodeError as error:
            yield rejected(error.object, where, INVALID_UTF8, error.start)
            continue
        except _ERRORS:
            yield rejected(b"", where, NOT_TEXT)
            continue
        yield text_record(value, where, fields.text_fields, b"")


def _damage(where: str, error: Exception) -> Record:
    return rejected(str(error).encode("utf-8", "replace"), where, DAMAGED)
