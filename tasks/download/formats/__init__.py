"""File formats: one module a format, each a function from an open file to record batches.

Every reader obeys the same rules. Memory is bounded whatever the file holds. What cannot become a
document is a row with a `defect`, in its place, and never an exception; so one damaged file or line
costs nothing but itself. To add a format, write `read_...(stream, place, fields, limits)` and list its
suffix in `READERS`.

Public surface: `read_file`, `read_stream`, `is_readable`, `Record`, `FieldChoice`, `FilePlace`, `ReadLimits`,
`RecordBuilder`, `records_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import xxhash

from infra.errors import ConfigurationError, SourceError
from tasks.download.formats.columnar import read_parquet
from tasks.download.formats.compression import PACKINGS, UnpackedStream
from tasks.download.formats.delimited import read_delimited
from tasks.download.formats.json_lines import parse_json_line, read_json_lines
from tasks.download.formats.markup import read_markup
from tasks.download.formats.place import FilePlace
from tasks.download.formats.plain_text import read_text
from tasks.download.formats.record import (
    DefectiveRecord,
    FieldChoice,
    ReadLimits,
    Record,
    RecordBuilder,
    batches_of,
    records_of,
    rejected,
)

Reader = Callable[[BinaryIO, FilePlace, FieldChoice, ReadLimits], Iterator[pa.RecordBatch]]


def _read_web_archive(
    stream: BinaryIO, place: FilePlace, fields: FieldChoice, limits: ReadLimits
) -> Iterator[pa.RecordBatch]:
    from tasks.download.formats.web_archive import read_web_archive

    return read_web_archive(stream, place, fields, limits)


READERS: dict[str, Reader] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".parquet": read_parquet,
    ".html": read_markup,
    ".htm": read_markup,
    ".xhtml": read_markup,
    ".warc": _read_web_archive,
    ".txt": read_text,
    ".md": read_text,
    ".rst": read_text,
    ".py": read_text,
}
#: Formats whose files can be cut at line ends, and those that are read at any place and cannot be packed.
LINE_FORMATS = {".jsonl", ".ndjson"}
RANDOM_ACCESS_FORMATS = {".parquet"}


def is_readable(name: str) -> bool:
    """Whether a file of this name has a known format."""
    suffix, packing = format_of(name)
    return suffix in READERS and not (packing and suffix in RANDOM_ACCESS_FORMATS)


def format_of(name: str) -> tuple[str, str]:
    """Format suffix and packing (`gzip`, ..., or nothing) by a file's name."""
    path = PurePosixPath(name)
    packing = PACKINGS.get(path.suffix.lower(), "")
    return PurePosixPath(path.stem if packing else path.name).suffix.lower(), packing


def read_file(path: Path, origin: str, fields: FieldChoice) -> Iterator[Record]:
    """Records of one local file, by its suffix; raises SourceError when it cannot be opened."""
    for batch in read_batches(path, FilePlace(origin), fields):
        yield from records_of(batch)


def read_stream(
    stream: BinaryIO, origin: str, fields: FieldChoice, limits: ReadLimits | None = None
) -> Iterator[Record]:
    """Records of an open file; `origin` is its name (the suffix decides the format)."""
    for batch in read_stream_batches(stream, FilePlace(origin), fields, limits or ReadLimits()):
        yield from records_of(batch)


def read_batches(
    path: Path, place: FilePlace, fields: FieldChoice, limits: ReadLimits | None = None
) -> Iterator[pa.RecordBatch]:
    """Record batches of a local file or of a part of it; raises SourceError when it cannot be opened."""
    try:
        with path.open("rb") as stream:
            yield from read_stream_batches(stream, place, fields, limits or ReadLimits())
    except OSError as error:
        raise SourceError(
            f"source file '{path}' cannot be read: {error.strerror or error}.",
            "check that it exists and its permissions.",
        ) from error


def read_stream_batches(
    stream: BinaryIO, place: FilePlace, fields: FieldChoice, limits: ReadLimits
) -> Iterator[pa.RecordBatch]:
    """Record batches of an open file; raises ConfigurationError for a format that is not known."""
    suffix, packing = format_of(place.origin)
    if not is_readable(place.origin):
        packed = " packed" if packing else ""
        raise ConfigurationError(
            f"source file '{place.origin}' has an unknown format '{suffix}'{packed}.",
            f"use one of {', '.join(sorted(READERS))}, or narrow the source's `include` pattern.",
        )
    batches = _unpacked_batches(stream, place, fields, limits, READERS[suffix], packing)
    yield from _distinct(batches) if fields.distinct else batches


def _unpacked_batches(
    stream: BinaryIO, place: FilePlace, fields: FieldChoice, limits: ReadLimits, reader: Reader, packing: str
) -> Iterator[pa.RecordBatch]:
    if not packing:
        yield from reader(_part_of(stream, place, reader), place, fields, limits)
        return
    unpacked = UnpackedStream(stream, packing, limits)
    yield from reader(cast(BinaryIO, unpacked), place, fields, limits)
    if unpacked.defect is not None:
        yield from batches_of([rejected(b"", place.origin, unpacked.defect, unpacked.unpacked_bytes)])


def _part_of(stream: BinaryIO, place: FilePlace, reader: Reader) -> BinaryIO:
    """The part of a line format's file that the place names."""
    if place.is_whole or reader is not read_json_lines:
        return stream
    stream.seek(place.start)
    return stream if place.stop is None else cast(BinaryIO, _BoundedStream(stream, place.stop - place.start))


class _BoundedStream:
    def __init__(self, stream: BinaryIO, size_bytes: int) -> None:
        self._stream = stream
        self._left = size_bytes

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


def _distinct(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Without the texts that came before (a 128-bit hash a text is kept); defects pass."""
    seen: set[bytes] = set()
    for batch in batches:
        keep = np.ones(batch.num_rows, np.bool_)
        defective = batch.column("defect").is_valid().to_numpy(zero_copy_only=False)
        for row, text in enumerate(batch.column("text").to_pylist()):
            digest = xxhash.xxh3_128_digest(text.encode())
            if not defective[row]:
                keep[row] = digest not in seen
                seen.add(digest)
        yield batch.filter(pa.array(keep))


__all__ = [
    "LINE_FORMATS",
    "RANDOM_ACCESS_FORMATS",
    "DefectiveRecord",
    "FieldChoice",
    "FilePlace",
    "ReadLimits",
    "Record",
    "RecordBuilder",
    "format_of",
    "is_readable",
    "parse_json_line",
    "read_batches",
    "read_file",
    "read_stream",
    "read_stream_batches",
    "records_of",
]
