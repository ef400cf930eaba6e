"""Sources that consist of files: cut into parts that are read in parallel and continued one by one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import xxhash
from pydantic import Field

from infra.errors import SourceError
from tasks.download.formats import (
    LINE_FORMATS,
    RANDOM_ACCESS_FORMATS,
    FieldChoice,
    FilePlace,
    Record,
    format_of,
    read_batches,
    records_of,
)
from tasks.download.sources.source import Source, SourcePart

_BLOCK_BYTES = 1 << 20
_LINE_FEED = 10


class FileSource(Source):
    """A source made of files. Subclasses implement `pin`, `places` and `local_path`."""

    fields: FieldChoice = Field(default=FieldChoice(), description="which fields of structured records hold the text")

    @abstractmethod
    def places(self, cache_directory: Path) -> list[FilePlace]:
        """The source's whole files with their sizes, in reading order; raises SourceError when there are none."""

    @abstractmethod
    def local_path(self, cache_directory: Path, origin: str) -> Path:
        """Where the file is on this machine, fetched if need be."""

    def cut(self, cache_directory: Path, place: FilePlace, part_bytes: int) -> Iterable[FilePlace]:
        """A large file in parts; whole where it is not on this machine yet."""
        return [place]

    def parts(self, cache_directory: Path, part_bytes: int) -> list[SourcePart]:
        """Files, and stretches of large ones, gathered to parts; a single part where a cap needs one order."""
        places = self.places(cache_directory)
        if self.maximum_bytes is not None:
            return [SourcePart(tuple(places))]
        whole_texts = self.fields.distinct  # a text comes once a file: the file is read in one go
        pieces = [
            piece
            for place in places
            for piece in ([place] if whole_texts else self.cut(cache_directory, place, part_bytes))
        ]
        return [SourcePart(tuple(group)) for group in _gathered(pieces, part_bytes)]

    def batches(self, cache_directory: Path, part: SourcePart) -> Iterator[pa.RecordBatch]:
        for place in part.places:
            path = self.local_path(cache_directory, place.origin)
            yield from read_batches(path, place, self.fields)
            self._check_unchanged(path, place)

    def records(self, cache_directory: Path) -> Iterator[Record]:
        for place in self.places(cache_directory):
            for batch in read_batches(self.local_path(cache_directory, place.origin), place, self.fields):
                yield from records_of(batch)

    def _check_unchanged(self, path: Path, place: FilePlace) -> None:
        """The bytes are what they were when the work was planned (clocks and modification times prove nothing)."""
        if place.checksum and checksum_of_part(path, place) != place.checksum:
            raise SourceError(
                f"source '{self.name}': '{path}' changed while it was read.",
                "run again when nothing writes to it; it is then a new version of the source.",
            )


def cut_file(path: Path, place: FilePlace, part_bytes: int) -> Iterator[FilePlace]:
    """A local file in parts of about `part_bytes`: JSON lines at line ends, Parquet at row groups, others whole.

    Every part carries the checksum of its bytes.
    """
    suffix, packing = format_of(place.origin)
    if packing or suffix not in LINE_FORMATS | RANDOM_ACCESS_FORMATS:
        pieces: Iterable[FilePlace] = [place]
    elif suffix in RANDOM_ACCESS_FORMATS:
        pieces = _row_groups(path, place, part_bytes)
    else:
        yield from _line_stretches(path, place, part_bytes)
        return
    for piece in pieces:
        yield FilePlace(
            piece.origin, piece.start, piece.stop, piece.first_number, piece.size_bytes, checksum_of_part(path, piece)
        )


def checksum_of_part(path: Path, place: FilePlace) -> str:
    """XXH3-128 of the bytes that reading `place` looks at, without the footer for row groups of Parquet."""
    start, stop = place.start, place.stop
    if format_of(place.origin)[0] in RANDOM_ACCESS_FORMATS and not place.is_whole:
        try:
            start, stop = _group_bytes(pq.read_metadata(path), place.start, place.stop)
        except (pa.ArrowException, OSError):
            return "unreadable"
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        stream.seek(start)
        left = stop - start if stop is not None else None
        while block := stream.read(_BLOCK_BYTES if left is None else min(_BLOCK_BYTES, left)):
            digest.update(block)
            left = None if left is None else left - len(block)
    return digest.hexdigest()


def _line_stretches(path: Path, place: FilePlace, part_bytes: int) -> Iterator[FilePlace]:
    """One pass over the file: stretches that end at the first line feed after `part_bytes`."""
    with path.open("rb") as stream:
        start = position = 0
        number = first_number = 1
        digest = xxhash.xxh3_128()
        while block := stream.read(_BLOCK_BYTES):
            while block:
                room = start + part_bytes - position
                end = block.find(b"\n", max(room - 1, 0)) + 1
                piece = block[:end] if end else block
                digest.update(piece)
                position += len(piece)
                number += int(np.count_nonzero(np.frombuffer(piece, np.uint8) == _LINE_FEED))
                block = block[len(piece) :]
                if end:
                    yield FilePlace(place.origin, start, position, first_number, position - start, digest.hexdigest())
                    start, first_number, digest = position, number, xxhash.xxh3_128()
        if position > start or position == 0:
            yield FilePlace(place.origin, start, position, first_number, position - start, digest.hexdigest())


def _row_groups(path: Path, place: FilePlace, part_bytes: int) -> Iterator[FilePlace]:
    """Consecutive row groups; a file whose footer cannot be read stays whole, for the reader to name."""
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        yield place
        return
    start, rows_before, rows, size = 0, 0, 0, 0
    for group in range(metadata.num_row_groups):
        first, last = _group_bytes(metadata, group, group + 1)
        size, rows = size + last - first, rows + metadata.row_group(group).num_rows
        if size >= part_bytes or group == metadata.num_row_groups - 1:
            yield FilePlace(place.origin, start, group + 1, rows_before + 1, size)
            start, rows_before, rows, size = group + 1, rows_before + rows, 0, 0


def _group_bytes(metadata: pq.FileMetaData, start: int, stop: int | None) -> tuple[int, int]:
    """First byte and end of row groups `start` to `stop`."""
    first, last = 1 << 62, 0
    for group in range(start, metadata.num_row_groups if stop is None else stop):
        found = metadata.row_group(group)
        for index in range(found.num_columns):
            column = found.column(index)
            dictionary = column.dictionary_page_offset
            begin = column.data_page_offset if dictionary is None else min(dictionary, column.data_page_offset)
            first, last = min(first, begin), max(last, begin + column.total_compressed_size)
    return min(first, last), last


def _gathered(pieces: Iterable[FilePlace], part_bytes: int) -> Iterator[list[FilePlace]]:
    group: list[FilePlace] = []
    size = 0
    for piece in pieces:
        if group and size + piece.size_bytes > part_bytes:
            yield group
            group, size = [], 0
        group.append(piece)
        size += piece.size_bytes
    if group:
        yield group
