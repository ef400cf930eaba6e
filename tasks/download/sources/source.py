"""What every source is: a typed description that can pin what this machine provides and yield records."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
from pydantic import BaseModel, ConfigDict, Field

from tasks.download.formats import FilePlace, Record, RecordBuilder


@dataclass(frozen=True)
class SourcePart:
    """A part of a source that is read by itself: some of its files, or everything (no places).

    What belongs to a part depends on the data alone, never on who reads it.
    """

    places: tuple[FilePlace, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes as stored, 0 where not known."""
        return sum(place.size_bytes for place in self.places)


class Source(BaseModel):
    """A place texts come from. Subclasses add their own fields and implement `pin` and `records`.

    One that consists of files is a `tasks.download.sources.file_source.FileSource` instead, whose parts are read in
    parallel and continued one by one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        description="short name in tables, file names and mixtures", pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60
    )
    uri: str = Field(description="where the texts are; the scheme decides the kind of source")
    licence: str = Field(default="unknown", description="licence noted with every document of this source")
    optional: bool = Field(default=False, description="go on without this source when it cannot be had, and record it")
    maximum_bytes: int | None = Field(default=None, gt=0, description="stop after this many bytes of UTF-8 text")
    pinned: str = Field(
        default="", description="digest of what this machine provides for the source; filled in by resolve_sources"
    )

    @abstractmethod
    def pin(self, cache_directory: Path) -> str:
        """A digest of what the source provides now; raises SourceError when it cannot be had.

        Whatever must be fetched to know is fetched into `cache_directory`. An empty string means
        that the uri itself is the identity.
        """

    @abstractmethod
    def records(self, cache_directory: Path) -> Iterator[Record]:
        """The source's records in a fixed order; raises SourceError naming the source."""

    def parts(self, cache_directory: Path, part_bytes: int) -> list[SourcePart]:
        """The source cut into parts of about `part_bytes` as stored, in order; one part where it cannot be cut."""
        return [SourcePart()]

    def batches(self, cache_directory: Path, part: SourcePart) -> Iterator[pa.RecordBatch]:
        """The records of one part as batches of `tasks.download.formats.record.RECORD_SCHEMA`."""
        builder = RecordBuilder()
        for record in self.records(cache_directory):
            builder.add(record, licence_of(record, self))
            if builder.is_full():
                yield from builder.take()
        yield from builder.take()


@dataclass(frozen=True)
class LicensedRecord(Record):
    """A record whose licence is known better than its source's."""

    licence: str = ""


def licence_of(record: Record, source: Source) -> str:
    """The licence noted with a document: the record's own where it has one, else its source's."""
    own = record.licence if isinstance(record, LicensedRecord) else ""
    return own or source.licence
