"""What every source is: a typed description that can pin what this machine provides and yield records."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tasks.download.records import Record


class Source(BaseModel):
    """A place texts come from. Subclasses add their own fields and implement `pin` and `records`."""

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


@dataclass(frozen=True)
class LicensedRecord(Record):
    """A record whose licence is known better than its source's."""

    licence: str = ""


def licence_of(record: Record, source: Source) -> str:
    """The licence noted with a document: the record's own where it has one, else its source's."""
    own = record.licence if isinstance(record, LicensedRecord) else ""
    return own or source.licence
