"""Whole objects of JSONL and Parquet files, for sources whose documents are made of several fields or lines.

A source of such files names where they lie by an inner uri: `chat+file://logs` reads local files, `chat+hf://ORG/NAME`
those of a Hub data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
from pydantic import Field

from infra.errors import SourceError
from tasks.download.formats import ReadLimits, format_of
from tasks.download.formats.compression import UnpackedStream
from tasks.download.formats.lines import LongLine, read_lines
from tasks.download.records import Record
from tasks.download.sources.hub_datasets import HubDataset
from tasks.download.sources.local_files import LocalFiles
from tasks.download.sources.source import Source

_EXCERPT_BYTES = 2_000
_FORMATS = (".jsonl", ".ndjson", ".json", ".parquet")


@dataclass(frozen=True)
class Row:
    """An object found at `origin`; `defect` is set, and `value` empty, where there is none."""

    origin: str
    value: dict[str, Any]
    defect: Record | None = None


class StructuredFiles(Source):
    """A source over the JSONL or Parquet files behind `KIND+file://PATH` or `KIND+hf://ORG/NAME[@REVISION]`."""

    include: tuple[str, ...] = Field(default=("*",), description="patterns of file paths below the uri to read")
    keep_files: bool = Field(default=True, description="hf://: keep fetched files; false: one file on disk at a time")

    def pin(self, cache_directory: Path) -> str:
        return self.inner().pin(cache_directory)

    def inner(self) -> LocalFiles | HubDataset:
        """The source of the files themselves."""
        uri = self.uri.partition("+")[2]
        shared = {"name": self.name, "uri": uri, "include": self.include, "pinned": self.pinned}
        if uri.startswith("hf://"):
            return HubDataset(**shared, licence=self.licence, keep_files=self.keep_files)
        if uri.startswith("file://"):
            return LocalFiles(**shared)
        raise SourceError(
            f"source '{self.name}': '{self.uri}' names no place that its files can be read from.",
            "use +file://PATH or +hf://ORG/NAME.",
        )

    def files(self, cache_directory: Path) -> Iterator[tuple[str, Path]]:
        """(path within the source, local path) of each file, in order; a Hub file is there until the next is asked."""
        source = self.inner()
        found = source.files(cache_directory) if isinstance(source, HubDataset) else _local(source)
        for origin, path in found:
            if format_of(origin)[0] in _FORMATS:
                yield origin, path


def _local(source: LocalFiles) -> Iterator[tuple[str, Path]]:
    for path in source._files():
        yield source._origin(path), path


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
