"""`s3://bucket/prefix` sources, through the same storage layer as the artifacts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from pydantic import Field

from infra.errors import SourceError
from infra.storage.interface import StoredFile, open_storage
from tasks.download.records import FieldChoice, Record, is_readable, read_file
from tasks.download.sources.source import Source


class BucketFiles(Source):
    """All objects of a known format below a prefix, in key order; credentials come from the environment."""

    include: tuple[str, ...] = Field(default=("*",), description="patterns of object keys below the prefix to read")
    fields: FieldChoice = Field(default=FieldChoice(), description="which fields of structured records hold the text")

    def pin(self, cache_directory: Path) -> str:
        listing = "\n".join(f"{stored.key} {stored.size_bytes}" for stored in self._objects())
        return f"listing:{hashlib.sha256(listing.encode()).hexdigest()}"

    def records(self, cache_directory: Path) -> Iterator[Record]:
        storage = open_storage(self.uri)
        folder = cache_directory / "buckets" / hashlib.sha256(self.uri.encode()).hexdigest()[:16]
        for stored in self._objects():
            local = folder / stored.key
            if not (local.is_file() and local.stat().st_size == stored.size_bytes):
                storage.download(stored.key, local)
            yield from read_file(local, stored.key, self.fields)

    def _objects(self) -> list[StoredFile]:
        found = [
            stored
            for stored in open_storage(self.uri).list()
            if is_readable(stored.key) and any(fnmatch(stored.key, pattern) for pattern in self.include)
        ]
        if not found:
            raise SourceError(
                f"source '{self.name}': no readable object below '{self.uri}' matches {list(self.include)}.",
                "correct `uri` or `include`.",
            )
        return found
