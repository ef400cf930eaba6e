"""`https://` sources: one file by address, continued by range after an interruption, verified by checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pydantic import Field

from infra.artifacts import run_argument
from infra.errors import SourceError
from tasks.download.formats import FilePlace
from tasks.download.sources.file_source import FileSource, cut_file
from tasks.download.transfer import TransferSettings, fetch

_LONGEST_NAME = 150


class WebFile(FileSource):
    """One file of a known format behind an http(s) address (`http://` is for local servers)."""

    sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="the file's SHA-256, verified when given"
    )
    maximum_download_bytes: int | None = Field(default=None, gt=0, description="refuse a file larger than this")
    most_bytes_per_second: float | None = run_argument(
        None, "fetch no faster than this (all connections together)", gt=0
    )

    def pin(self, cache_directory: Path) -> str:
        return f"sha256:{_file_sha256(self._fetched(cache_directory))}"

    def places(self, cache_directory: Path) -> list[FilePlace]:
        path = self._fetched(cache_directory)
        return [FilePlace(path.name, size_bytes=path.stat().st_size)]

    def local_path(self, cache_directory: Path, origin: str) -> Path:
        target = self._target(cache_directory)
        return target if target.is_file() else self._fetched(cache_directory)

    def cut(self, cache_directory: Path, place: FilePlace, part_bytes: int) -> Iterable[FilePlace]:
        return cut_file(self._fetched(cache_directory), place, part_bytes)

    def _fetched(self, cache_directory: Path) -> Path:
        target = self._target(cache_directory)
        if target.is_file():
            self._check_cached(target)
        else:
            settings = TransferSettings(
                maximum_bytes=self.maximum_download_bytes, most_bytes_per_second=self.most_bytes_per_second
            )
            fetch(self.uri, target, self.name, sha256=self.sha256, settings=settings)
        return target

    def _target(self, cache_directory: Path) -> Path:
        name = PurePosixPath(urlsplit(self.uri).path).name[-_LONGEST_NAME:]
        name = "index.html" if name in ("", ".", "..") else name
        return cache_directory / "web" / hashlib.sha256(self.uri.encode()).hexdigest()[:16] / name

    def _check_cached(self, target: Path) -> None:
        if self.sha256 is not None and _file_sha256(target) != self.sha256:
            target.unlink()
            raise SourceError(
                f"source '{self.name}': '{self.uri}' does not have the SHA-256 {self.sha256}.",
                "check `sha256`, or run again if the download was damaged; the bad file was removed.",
            )


def download_file(address: str, target: Path, source_name: str) -> None:
    """Fetch a file with the settings that suit most servers; see `tasks.download.transfer.fetch`."""
    fetch(address, target, source_name)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
