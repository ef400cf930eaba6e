"""What a format is taken apart into: records, kept as Arrow columns from the reader to the shard.

`RECORD_SCHEMA`: text; origin (where within the source); licence (null: the source's); defect (null: none) and
figure (the number that belongs to the defect: a byte position, a size, a count).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]
from pydantic import BaseModel, ConfigDict, Field

RECORD_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("origin", pa.string()),
        ("licence", pa.string()),
        ("defect", pa.string()),
        ("figure", pa.float64()),
    ]
)
EXCERPT_BYTES = 2_000
SURROGATES = "text with lone surrogates"
NOT_TEXT = "a text field is missing or not text"
INVALID_UTF8 = "invalid UTF-8"
_BATCH_BYTES = 1 << 20
_BATCH_ROWS = 8192


@dataclass(frozen=True)
class Record:
    """A text found at `origin` within its source; `defect` says why it cannot become a document."""

    text: str
    origin: str
    defect: str | None = None


@dataclass(frozen=True)
class DefectiveRecord(Record):
    """A record with a defect; `figure` is the number that belongs to it (a byte position, a size in bytes)."""

    figure: float = 0.0


class FieldChoice(BaseModel):
    """Which fields of structured records (JSONL, CSV, Parquet) make up a document's text."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text_fields: tuple[str, ...] = Field(
        default=("text",),
        min_length=1,
        description="fields whose texts are joined by a blank line, in order; `*` takes every text of the record",
    )
    distinct: bool = Field(
        default=False,
        description="yield each text once per file (question sets repeat their passage per question)",
    )


@dataclass(frozen=True)
class ReadLimits:
    """What a reader holds or unpacks at most; whatever lies beyond is skipped and counted as one defect."""

    line_bytes: int = 64 << 20
    document_bytes: int = 64 << 20
    #: Text packs 2 to 20 times; what unpacks to more than this ratio, once it is this large, is a bomb.
    unpacked_ratio: int = 300
    ratio_matters_bytes: int = 64 << 20
    unpacked_bytes: int = 1 << 40


class RecordBuilder:
    """Collects rows and hands them out as record batches of about a megabyte."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str | None, str | None, float]] = []
        self._bytes = 0

    def add(self, record: Record, licence: str | None = None) -> None:
        """Append one record; a text with lone surrogates, which has no UTF-8 form, becomes a defect."""
        text, defect = record.text, record.defect
        if not is_encodable(text):
            text, defect = text.encode("utf-8", "replace").decode(), defect or SURROGATES
        figure = record.figure if isinstance(record, DefectiveRecord) else 0.0
        origin = record.origin.encode("utf-8", "replace").decode()
        self._rows.append((text, origin, licence, defect, figure))
        self._bytes += len(text)

    def is_full(self) -> bool:
        """Whether it is time to `take`."""
        return self._bytes >= _BATCH_BYTES or len(self._rows) >= _BATCH_ROWS

    def take(self) -> Iterator[pa.RecordBatch]:
        """The batch collected so far, if any; the builder is empty afterwards."""
        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            self._rows, self._bytes = [], 0
            arrays = [pa.array(column, field.type) for column, field in zip(columns, RECORD_SCHEMA, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=RECORD_SCHEMA)


def batch_of_texts(texts: pa.Array, origins: pa.Array) -> pa.RecordBatch:
    """Records without defects from a string column and their origins."""
    nothing = pa.nulls(len(texts), pa.string())
    figures = pa.array(np.zeros(len(texts)))
    return pa.RecordBatch.from_arrays([texts, origins, nothing, nothing, figures], schema=RECORD_SCHEMA)


def numbered_origins(origin: str, first: int, count: int) -> pa.Array:
    """`origin:first`, `origin:first+1`, ... as a column."""
    numbers = pa.array(np.arange(first, first + count)).cast(pa.string())
    return pc.binary_join_element_wise(pa.scalar(origin), numbers, ":")


def batches_of(records: Iterable[Record]) -> Iterator[pa.RecordBatch]:
    """Records one by one as batches."""
    builder = RecordBuilder()
    for record in records:
        builder.add(record)
        if builder.is_full():
            yield from builder.take()
    yield from builder.take()


def records_of(batch: pa.RecordBatch) -> Iterator[Record]:
    """The rows of a batch as records."""
    columns = (batch.column(name).to_pylist() for name in ("text", "origin", "defect", "figure"))
    for text, origin, defect, figure in zip(*columns, strict=True):
        yield Record(text, origin) if defect is None else DefectiveRecord(text, origin, defect, figure)


def is_encodable(text: str) -> bool:
    """Whether the text has a UTF-8 form (lone surrogates have none)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def rejected(raw: bytes, origin: str, defect: str, figure: float = 0.0) -> DefectiveRecord:
    """A defective record with the beginning of what was found."""
    return DefectiveRecord(raw[:EXCERPT_BYTES].decode("utf-8", "replace"), origin, defect, figure)


def text_record(value: dict[str, Any], origin: str, text_fields: Sequence[str], raw: bytes) -> Record:
    """The chosen fields of a structured record joined to one text."""
    if "*" in text_fields:
        return Record("\n\n".join(every_text(value)), origin)
    parts = [value.get(name) for name in text_fields]
    if not all(isinstance(part, str) for part in parts):
        return rejected(raw, origin, NOT_TEXT)
    return Record("\n\n".join(str(part) for part in parts), origin)


def every_text(value: Any) -> list[str]:
    """Every string in nested lists and dictionaries, in order, however deep (no recursion)."""
    texts: list[str] = []
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, dict):
            pending.extend(reversed(item.values()))
        elif isinstance(item, list | tuple):
            pending.extend(reversed(item))
    return texts
