"""Plain text, Markdown, reStructuredText, source code: a file is a document, a long one is cut at paragraphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from tasks.download.formats.lines import BYTE_ORDER_MARK
from tasks.download.formats.place import FilePlace
from tasks.download.formats.record import INVALID_UTF8, FieldChoice, ReadLimits, Record, batches_of, rejected

#: A text longer than this is cut into documents at paragraph ends.
DOCUMENT_CHARACTERS = 400_000
_STRETCH_BYTES = 16 << 20
_READ_BYTES = 1 << 20


def read_text(stream: BinaryIO, place: FilePlace, fields: FieldChoice, limits: ReadLimits) -> Iterator[pa.RecordBatch]:
    """Origin `file`, and `file#1`, `file#2` for further parts of a long one.

    Read in stretches of at most 16 MiB (that end at a line feed where there is one); a stretch with
    invalid UTF-8 is set aside as one defect, with the byte's position in the file.
    """
    yield from batches_of(_documents(stream, place.origin, min(_STRETCH_BYTES, limits.document_bytes)))


def _documents(stream: BinaryIO, origin: str, stretch_bytes: int) -> Iterator[Record]:
    number = position = 0
    for data in _stretches(stream, stretch_bytes):
        try:
            text = (data.removeprefix(BYTE_ORDER_MARK) if position == 0 else data).decode("utf-8")
        except UnicodeDecodeError as error:
            yield rejected(data, _part(origin, number), INVALID_UTF8, position + error.start)
            number += 1
        else:
            for part in split_long_text(text):
                yield Record(part, _part(origin, number))
                number += 1
        position += len(data)
    if number == 0:
        yield Record("", origin)  # an empty file is an empty document, and counted as one


def _part(origin: str, number: int) -> str:
    return origin if number == 0 else f"{origin}#{number}"


def _stretches(stream: BinaryIO, stretch_bytes: int) -> Iterator[bytes]:
    held = b""
    while True:
        pieces, size = [held], len(held)
        while size < stretch_bytes and (block := stream.read(_READ_BYTES)):
            pieces.append(block)
            size += len(block)
        data = b"".join(pieces)
        if size < stretch_bytes:
            if data:
                yield data
            return
        cut = data.rfind(b"\n") + 1 or _character_end(data)
        yield data[:cut]
        held = data[cut:]


def _character_end(data: bytes) -> int:
    """Where the last whole UTF-8 character ends."""
    for back in range(1, min(4, len(data)) + 1):
        if data[-back] & 0xC0 != 0x80:
            whole = back >= (1 if data[-back] < 0x80 else 2 if data[-back] < 0xE0 else 3 if data[-back] < 0xF0 else 4)
            return len(data) if whole or back == len(data) else len(data) - back
    return len(data)


def split_long_text(text: str) -> Iterator[str]:
    """The text in parts of at most DOCUMENT_CHARACTERS, at paragraph ends where there are any."""
    start = 0
    while len(text) - start > DOCUMENT_CHARACTERS:
        end = text.rfind("\n\n", start + 1, start + DOCUMENT_CHARACTERS)
        end = end if end > start else start + DOCUMENT_CHARACTERS
        yield text[start:end]
        start = end
    if text[start:].strip():
        yield text[start:]
