"""Where in its source a reader works: a file, or a part of one that can be read by itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FilePlace:
    """A file of a source, or the part `start` to `stop` of it.

    origin: the file's name within the source. For line formats `start` and `stop` are byte positions at
    line ends, for Parquet indexes of row groups; `stop` None is the end. first_number: of the part's
    first line or row. size_bytes: of the part as stored, for progress. checksum: of the part's bytes as
    planned, where known: a file that changes before it is read is noticed.
    """

    origin: str
    start: int = 0
    stop: int | None = None
    first_number: int = 1
    size_bytes: int = 0
    checksum: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether this is the file from beginning to end."""
        return self.start == 0 and self.stop is None
