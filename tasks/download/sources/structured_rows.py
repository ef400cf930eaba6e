"""Whole objects of JSONL and Parquet files, for sources whose documents are made of several fields or lines.

A source of such files names where they lie by an inner uri: `chat+file://logs` reads local files, `chat+hf://ORG/NAME`
those of a Hub data set, `events+s3://bucket/prefix` a bucket, `chat+https://host/file.jsonl` one file on the web.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
from pydantic import Field

from infra.errors import SourceError
from tasks.download.formats import FilePlace, ReadLimits, Record, RecordBuilder, format_of
from tasks.download.formats.compression import UnpackedStream
from tasks.download.formats.lines import LongLine, read_lines
from tasks.download.sources.buckets import BucketFiles
from tasks.download.sources.file_source import FileSource
from tasks.download.sources.hub_datasets import HubDataset
from tasks.download.sources.local_files import LocalFiles
from tasks.download.sources.source import Source, SourcePart, licence_of
from tasks.download.sources.web import WebFile

_EXCERPT_BYTES = 2_000
_FORMATS = (".jsonl", ".ndjson", ".json", ".parquet")
#: Kinds of sources whose files can be read as rows, by the beginning of their uri.
INNER_KINDS: dict[str, type[FileSource]] = {
    "file://": LocalFiles,
    "hf://": HubDataset,
    "s3://": BucketFiles,  # type: ignore[dict-item, unused-ignore]
    "https://": WebFile,  # type: ignore[dict-item, unused-ignore]
    "http://": WebFile,  # type: ignore[dict-item, unused-ignore]
}


@dataclass(frozen=True)
class Row:
    """An object found at `origin`; `defect` is set, and `value` empty, where there is none."""

    origin: str
    value: dict[str, Any]
    defect: Record | None = None


class StructuredFiles(Source):
    """A source over the JSONL or Parquet files behind `KIND+INNER_URI`; files are read in parallel."""

    include: tuple[str, ...] = Field(default=("*",), description="patterns of file paths below the uri to read")
    keep_files: bool = Field(default=True, description="hf://: keep fetched files; false: one file on disk at a time")

    def pin(self, cache_directory: Path) -> str:
        return self.inner().pin(cache_directory)

    @abstractmethod
    def file_records(self, path: Path, origin: str) -> Iterator[Record]:
        """The documents of one file; `origin` is its name within the source."""

    def inner(self) -> FileSource:
        """The source of the files themselves; raises SourceError where there is no such kind."""
        uri = self.uri.partition("+")[2]
        kind = next((kind for beginning, kind in INNER_KINDS.items() if uri.startswith(beginning)), None)
        if kind is None:
            raise SourceError(
                f"source '{self.name}': '{self.uri}' names no place that its files can be read from.",
                f"use + and one of {', '.join(INNER_KINDS)}.",
            )
        known = {"name": self.name, "uri": uri, "licence": self.licence, "pinned": self.pinned}
        choices = {"include": self.include, "keep_files": self.keep_files}
        return kind(**known, **{name: value for name, value in choices.items() if name in kind.model_fields})

    def parts(self, cache_directory: Path, part_bytes: int) -> list[SourcePart]:
        places = self._places(cache_directory)
        if self.maximum_bytes is not None:
            return [SourcePart(tuple(places))]
        return [SourcePart((place,)) for place in places]

    def batches(self, cache_directory: Path, part: SourcePart) -> Iterator[pa.RecordBatch]:
        builder = RecordBuilder()
        for record in self._records_at(cache_directory, part.places):
            builder.add(record, licence_of(record, self))
            if builder.is_full():
                yield from builder.take()
        yield from builder.take()

    def records(self, cache_directory: Path) -> Iterator[Record]:
        yield from self._records_at(cache_directory, self._places(cache_directory))

    def _places(self, cache_directory: Path) -> list[FilePlace]:
        return [place for place in self.inner().places(cache_directory) if format_of(place.origin)[0] in _FORMATS]

    def _records_at(self, cache_directory: Path, places: Iterable[FilePlace]) -> Iterator[Record]:
        source = self.inner()
        for place in places:
            path = source.local_path(cache_directory, place.origin)
            try:
                yield from self.file_records(path, place.origin)
            finally:
                if isinstance(source, HubDataset):
                    source.release(path)


def rows_of(path: Path, origin: str, limits: ReadLimits | None = None) -> Iterator[Row]:
    """Every row of a file in order; what is no JSON object comes as a defect. Lines are bounded by `limits`."""
    suffix, packing = format_of(origin)
    bounds = limits or ReadLimits()
    if suffix == ".parquet":
        yield from _parquet_rows(path, origin)
        return
    with path.open("rb") as stream:
        if not packing:
            yield from _json_rows(stream, origin, bounds)
            return
        unpacked = UnpackedStream(stream, packing, bounds)
        yield from _json_rows(cast(BinaryIO, unpacked), origin, bounds)
        if unpacked.defect is not None:
            yield Row(origin, {}, Record("", origin, unpacked.defect))


def _json_rows(stream: BinaryIO, origin: str, limits: ReadLimits) -> Iterator[Row]:
    for block in read_lines(stream, limits.line_bytes):
        if isinstance(block, LongLine):
            yield Row(f"{origin}:{block.number}", {}, block.record(origin))
            continue
        for number, line in enumerate(block.lines, start=block.number):
            if line.strip():
                yield _json_row(line, f"{origin}:{number}")


def _json_row(line: bytes, origin: str) -> Row:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return Row(origin, {}, _rejected(line, origin, "malformed JSON line"))
    if not isinstance(value, dict):
        return Row(origin, {}, _rejected(line, origin, "JSON line is not an object"))
    return Row(origin, value)


def _parquet_rows(path: Path, origin: str) -> Iterator[Row]:
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
            for value in batch.to_pylist():
                number += 1
                yield Row(f"{origin}:{number}", value)
    except (pa.ArrowException, OSError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield Row(origin, {}, Record(problem, origin, "damaged Parquet file"))


def _rejected(line: bytes, origin: str, defect: str) -> Record:
    return Record(line[:_EXCERPT_BYTES].decode("utf-8", "replace"), origin, defect)
