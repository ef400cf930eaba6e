"""`s3://bucket/prefix` sources, through the same storage layer as the artifacts."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from pathlib import Path

from pydantic import Field

from infra.errors import SourceError
from infra.storage.interface import StoredFile, open_storage
from tasks.download.formats import FilePlace, is_readable
from tasks.download.sources.file_source import FileSource


class BucketFiles(FileSource):
    """All objects of a known format below a prefix, in key order; credentials come from the environment.

    Objects are fetched by whoever reads them, in ranged requests that run in parallel and are retried.
    """

    include: tuple[str, ...] = Field(default=("*",), description="patterns of object keys below the prefix to read")

    def pin(self, cache_directory: Path) -> str:
        listing = "\n".join(f"{stored.key} {stored.size_bytes} {stored.version}" for stored in self._objects())
        return f"listing:{hashlib.sha256(listing.encode()).hexdigest()}"

    def places(self, cache_directory: Path) -> list[FilePlace]:
        return [FilePlace(stored.key, size_bytes=stored.size_bytes) for stored in self._objects()]

    def local_path(self, cache_directory: Path, origin: str) -> Path:
        """The object's copy in the cache, kept below the listing's digest: another listing is fetched anew."""
        version = hashlib.sha256(f"{self.uri} {self.pinned}".encode()).hexdigest()[:16]
        local = cache_directory / "buckets" / version / origin
        if not local.is_file():
            try:
                open_storage(self.uri).download(origin, local)
            except FileNotFoundError as error:
                raise SourceError(
                    f"source '{self.name}': object '{origin}' below '{self.uri}' is gone.",
                    "run again: what is there now is listed anew.",
                ) from error
        return local

    def _objects(self) -> list[StoredFile]:
        found = [
            stored
            for stored in open_storage(self.uri).list()
            if is_readable(stored.key)
            and any(fnmatch(stored.key, pattern) for pattern in self.include)
            and ".." not in stored.key.split("/")  # keys are any text; paths in the cache are not
        ]
        if not found:
            raise SourceError(
                f"source '{self.name}': no readable object below '{self.uri}' matches {list(self.include)}.",
                "correct `uri` or `include`.",
            )
        return found
