"""JSON lines (`.jsonl`, `.ndjson`): orjson a line, texts straight into an Arrow column a block of lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import orjson
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from tasks.download.formats.lines import LineBlock, LongLine, read_lines
from tasks.download.formats.place import FilePlace
from tasks.download.formats.record import (
    INVALID_UTF8,
    FieldChoice,
    ReadLimits,
    Record,
    RecordBuilder,
    batch_of_texts,
    numbered_origins,
    rejected,
    text_record,
)


def read_json_lines(
    stream: BinaryIO, place: FilePlace, fields: FieldChoice, limits: ReadLimits
) -> Iterator[pa.RecordBatch]:
    """One record a line that is not blank; origin `file:line`."""
    for block in read_lines(stream, limits.line_bytes, place.first_number, place.start):
        if isinstance(block, LongLine):
            builder = RecordBuilder()
            builder.add(block.record(place.origin))
            yield from builder.take()
            continue
        batch = _plain_batch(block, place.origin, fields.text_fields)
        if batch is not None:
            yield batch
        else:
            yield from _careful_batches(block, place.origin, fields.text_fields)


def parse_json_line(line: bytes, origin: str, text_fields: Sequence[str], position: int = 0) -> Record:
    """One line as a record; a malformed one comes back with its defect. `position`: of the line in its file."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _unreadable_line(line, origin, position)
    if not isinstance(value, dict):
        return rejected(line, origin, "JSON line is not an object")
    return text_record(value, origin, text_fields, line)


def _unreadable_line(line: bytes, origin: str, position: int) -> Record:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return rejected(line, origin, INVALID_UTF8, position + error.start)
    return rejected(line, origin, "malformed JSON line", position)


def _plain_batch(block: LineBlock, origin: str, text_fields: Sequence[str]) -> pa.RecordBatch | None:
    """The block's records when every line is an object with its text; None sends the block the careful way."""
    if "*" in text_fields:
        return None
    loads = orjson.loads
    try:
        if len(text_fields) == 1:
            name = text_fields[0]
            texts = [loads(line)[name] for line in block.lines]
        else:
            values = [loads(line) for line in block.lines]
            texts = ["\n\n".join([value[name] for name in text_fields]) for value in values]
        column = pa.array(texts, pa.string())
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError, pa.ArrowException, UnicodeEncodeError):
        return None
    if column.null_count:
        return None
    return batch_of_texts(column, numbered_origins(origin, block.number, len(column)))


def _careful_batches(block: LineBlock, origin: str, text_fields: Sequence[str]) -> Iterator[pa.RecordBatch]:
    builder = RecordBuilder()
    position = block.position
    for number, line in enumerate(block.lines, start=block.number):
        if line.strip():
            builder.add(parse_json_line(line, f"{origin}:{number}", text_fields, position))
            if builder.is_full():
                yield from builder.take()
        position += len(line) + 1
    yield from builder.take()
