"""CSV and TSV, by Python's csv module, fed with lines of bounded length."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from tasks.download.formats.lines import LongLine, read_lines
from tasks.download.formats.place import FilePlace
from tasks.download.formats.record import (
    INVALID_UTF8,
    NOT_TEXT,
    FieldChoice,
    ReadLimits,
    Record,
    RecordBuilder,
    is_encodable,
    rejected,
)


def read_delimited(
    stream: BinaryIO, place: FilePlace, fields: FieldChoice, limits: ReadLimits
) -> Iterator[pa.RecordBatch]:
    """One record a row below the header; origin `file:row`, the header being row 1."""
    csv.field_size_limit(limits.line_bytes)
    delimiter = "\t" if ".tsv" in place.origin.lower().rpartition("/")[2] else ","
    lines = _Lines(stream, limits)
    builder = RecordBuilder()
    header: list[str] | None = None
    number = 0
    rows = csv.reader(lines, delimiter=delimiter)
    while True:
        number += 1
        lines.begin_row()
        try:
            row = next(rows)
        except StopIteration:
            break
        except (csv.Error, _RowTooLong) as error:
            builder.add(rejected(b"", f"{place.origin}:{number}", f"malformed CSV row: {error}", lines.row_position))
            rows = csv.reader(lines, delimiter=delimiter)
            continue
        if header is None:
            header = row
            missing = [name for name in fields.text_fields if name != "*" and name not in header]
            if missing:
                builder.add(_no_column(place.origin, missing, header))
                break
            continue
        if row:
            builder.add(_row_record(row, header, f"{place.origin}:{number}", fields, lines.row_position))
        for long_line in lines.take_long_lines():
            builder.add(long_line.record(place.origin))
        if builder.is_full():
            yield from builder.take()
    for long_line in lines.take_long_lines():
        builder.add(long_line.record(place.origin))
    yield from builder.take()


def _no_column(origin: str, missing: list[str], header: list[str]) -> Record:
    columns = ", ".join(header)[:500].encode("utf-8", "replace")
    return rejected(b"columns: " + columns, origin, f"no column {', '.join(missing)}; set `text_fields`")


def _row_record(row: list[str], header: list[str], origin: str, fields: FieldChoice, position: int) -> Record:
    if "*" in fields.text_fields:
        text = "\n\n".join(row)
    else:
        value = dict(zip(header, row, strict=False))
        if any(name not in value for name in fields.text_fields):
            return rejected(",".join(row).encode("utf-8", "replace"), origin, NOT_TEXT, position)
        text = "\n\n".join(value[name] for name in fields.text_fields)
    if is_encodable(text):
        return Record(text, origin)
    return rejected(text.encode("utf-8", "surrogateescape"), origin, INVALID_UTF8, position)


class _RowTooLong(Exception):
    """A row over many lines went over the limit (an unclosed quote takes in all that follows)."""


class _Lines:
    """Decoded lines for csv.reader; undecodable bytes are kept as surrogates until the row is known."""

    def __init__(self, stream: BinaryIO, limits: ReadLimits) -> None:
        self._limit = limits.line_bytes
        self._lines = self._decoded(stream)
        self._long_lines: list[LongLine] = []
        self._row_bytes = 0
        self._position = 0
        self.row_position = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._row_bytes += len(line)
        if self._row_bytes > self._limit:
            raise _RowTooLong(f"over {self._limit} bytes")
        return line

    def begin_row(self) -> None:
        self._row_bytes = 0
        self.row_position = self._position

    def take_long_lines(self) -> list[LongLine]:
        taken, self._long_lines = self._long_lines, []
        return taken

    def _decoded(self, stream: BinaryIO) -> Iterator[str]:
        for block in read_lines(stream, self._limit):
            if isinstance(block, LongLine):
                self._long_lines.append(block)
                continue
            self._position = block.position
            for line in block.lines:
                self._position += len(line) + 1
                yield line.decode("utf-8", "surrogateescape") + "\n"
