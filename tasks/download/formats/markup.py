"""HTML files: all of their text, by the linear converter of the documentation sources (no recursion)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from tasks.download.formats.place import FilePlace
from tasks.download.formats.plain_text import split_long_text
from tasks.download.formats.record import INVALID_UTF8, FieldChoice, ReadLimits, Record, batches_of, rejected


def read_markup(
    stream: BinaryIO, place: FilePlace, fields: FieldChoice, limits: ReadLimits
) -> Iterator[pa.RecordBatch]:
    """One record a page (a very long one is cut at paragraphs: `file#1`, ...)."""
    yield from batches_of(_documents(read_bounded(stream, limits.document_bytes + 1), place.origin, limits))


def read_bounded(stream: BinaryIO, most_bytes: int) -> bytes:
    """Up to `most_bytes` of a stream that may return fewer than asked for."""
    pieces, size = [], 0
    while size < most_bytes and (block := stream.read(min(1 << 20, most_bytes - size))):
        pieces.append(block)
        size += len(block)
    return b"".join(pieces)


def _documents(data: bytes, origin: str, limits: ReadLimits) -> Iterator[Record]:
    from tasks.download.sources.documentation_text import decode, markup_to_text

    if len(data) > limits.document_bytes:
        yield rejected(data, origin, "page over the size limit", limits.document_bytes)
        return
    try:
        text = markup_to_text(decode(data, origin))
    except UnicodeDecodeError as error:
        yield rejected(data, origin, INVALID_UTF8, error.start)
        return
    parts = list(split_long_text(text)) or [""]
    for number, part in enumerate(parts):
        yield Record(part, origin if number == 0 else f"{origin}#{number}")
