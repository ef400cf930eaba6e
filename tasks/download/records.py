"""Records: what a source yields, and how the known file formats are taken apart into them."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import orjson
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
from pydantic import BaseModel, ConfigDict, Field

from infra.errors import ConfigurationError, SourceError

#: A text file longer than this is cut into documents at paragraph ends.
_TEXT_DOCUMENT_CHARACTERS = 400_000
_LONGEST_CSV_FIELD_CHARACTERS = 1 << 24
_UNREADABLE_EXCERPT_CHARACTERS = 2_000


@dataclass(frozen=True)
class Record:
    """A text found at `origin` within its source; `defect` says why it cannot become a document."""

    text: str
    origin: str
    defect: str | None = None


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


def read_file(path: Path, origin: str, fields: FieldChoice) -> Iterator[Record]:
    """Records of one local file, by its suffix; raises SourceError when it cannot be opened."""
    try:
        with path.open("rb") as stream:
            yield from read_stream(stream, origin, fields)
    except OSError as error:
        raise SourceError(
            f"source file '{path}' cannot be read: {error.strerror or error}.",
            "check that it exists and its permissions.",
        ) from error


def read_stream(stream: BinaryIO, origin: str, fields: FieldChoice) -> Iterator[Record]:
    """Records of an open file; `origin` is its name (the suffix decides the format)."""
    reader = _reader_of(origin)
    seen: set[str] = set()
    for record in reader(stream, origin, fields):
        if fields.distinct and record.defect is None:
            if record.text in seen:
                continue
            seen.add(record.text)
        yield record


def is_readable(name: str) -> bool:
    """Whether a file of this name has a known format."""
    return _format_suffix(name) in _READERS


def _reader_of(name: str) -> Callable[[BinaryIO, str, FieldChoice], Iterator[Record]]:
    suffix = _format_suffix(name)
    if suffix not in _READERS:
        raise ConfigurationError(
            f"source file '{name}' has an unknown format '{suffix}'.",
            f"use one of {', '.join(sorted(_READERS))}, or narrow the source's `include` pattern.",
        )
    reader = _READERS[suffix]
    if name.endswith(".gz"):
        return lambda stream, origin, fields: _read_gzip(reader, stream, origin, fields)
    if name.endswith(".zst"):
        return lambda stream, origin, fields: reader(_open_zstandard(stream), origin, fields)
    return reader


def _format_suffix(name: str) -> str:
    path = PurePosixPath(name.removesuffix(".gz").removesuffix(".zst"))
    return path.suffix.lower()


def _read_gzip(
    reader: Callable[[BinaryIO, str, FieldChoice], Iterator[Record]],
    stream: BinaryIO,
    origin: str,
    fields: FieldChoice,
) -> Iterator[Record]:
    try:
        with gzip.open(stream, "rb") as unpacked:
            yield from reader(unpacked, origin, fields)  # type: ignore[arg-type]
    except (EOFError, gzip.BadGzipFile) as error:
        yield Record("", origin, f"damaged gzip: {type(error).__name__}")


def _open_zstandard(stream: BinaryIO) -> BinaryIO:
    # pyarrow carries a zstd decoder, so no further package is needed.
    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd"))


def parse_json_line(line: bytes, origin: str, text_fields: Sequence[str]) -> Record:
    """One JSONL line as a record; malformed lines come back as a record with a defect."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _defective(line, origin, "malformed JSON line")
    if not isinstance(value, dict):
        return _defective(line, origin, "JSON line is not an object")
    return _record_of(value, origin, text_fields, line)


def _read_json_lines(stream: BinaryIO, origin: str, fields: FieldChoice) -> Iterator[Record]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield parse_json_line(line, f"{origin}:{number}", fields.text_fields)


def _read_csv(stream: BinaryIO, origin: str, fields: FieldChoice) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_CSV_FIELD_CHARACTERS)
    text = io.TextIOWrapper(stream, "utf-8", errors="replace", newline="")
    delimiter = "\t" if _format_suffix(origin) == ".tsv" else ","
    rows = csv.DictReader(text, delimiter=delimiter)
    number = 1
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record("", f"{origin}:{number}", f"malformed CSV row: {error}")
            continue
        yield _record_of(row, f"{origin}:{number}", fields.text_fields, repr(row).encode("utf-8", "replace"))


def _read_parquet(stream: BinaryIO, origin: str, fields: FieldChoice) -> Iterator[Record]:
    try:
        file = pq.ParquetFile(stream)
    except pa.ArrowException as error:
        raise SourceError(f"source file '{origin}' is not readable Parquet: {error}.", "replace the file.") from error
    everything = "*" in fields.text_fields
    missing = [name for name in fields.text_fields if name != "*" and name not in file.schema_arrow.names]
    if missing:
        raise SourceError(
            f"source file '{origin}' has no column {missing}.",
            f"set `text_fields` to some of {file.schema_arrow.names}.",
        )
    number = 0
    for batch in file.iter_batches(columns=None if everything else list(fields.text_fields)):
        for row in batch.to_pylist():
            number += 1
            yield _record_of(row, f"{origin}:{number}", fields.text_fields, b"")


def _read_text(stream: BinaryIO, origin: str, fields: FieldChoice) -> Iterator[Record]:
    data = stream.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        yield _defective(data, origin, f"undecodable byte at {error.start}")
        return
    for number, part in enumerate(_split_long_text(text)):
        yield Record(part, origin if number == 0 else f"{origin}#{number}")


def _split_long_text(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _TEXT_DOCUMENT_CHARACTERS:
        end = text.rfind("\n\n", start + 1, start + _TEXT_DOCUMENT_CHARACTERS)
        end = end if end > start else start + _TEXT_DOCUMENT_CHARACTERS
        yield text[start:end]
        start = end
    if text[start:].strip():
        yield text[start:]


def _record_of(value: dict[str, Any], origin: str, text_fields: Sequence[str], raw: bytes) -> Record:
    if "*" in text_fields:
        return Record("\n\n".join(_every_text(value)), origin)
    parts = [value.get(name) for name in text_fields]
    if not all(isinstance(part, str) for part in parts):
        return _defective(raw, origin, "a text field is missing or not text")
    return Record("\n\n".join(str(part) for part in parts), origin)


def _every_text(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _every_text(item)
    elif isinstance(value, list):
        for item in value:
            yield from _every_text(item)


def _defective(raw: bytes, origin: str, defect: str) -> Record:
    excerpt = raw[:_UNREADABLE_EXCERPT_CHARACTERS].decode("utf-8", "replace")
    return Record(excerpt, origin, defect)


_READERS: dict[str, Callable[[BinaryIO, str, FieldChoice], Iterator[Record]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
    ".md": _read_text,
    ".rst": _read_text,
    ".py": _read_text,
}
