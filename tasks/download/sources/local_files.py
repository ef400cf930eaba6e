"""Local files: `file://` or a plain path, one file or a directory of any of the known formats."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import xxhash
from pydantic import Field

from infra.errors import SourceError
from infra.storage.checksum import checksum_file
from tasks.download.formats import FilePlace, is_readable
from tasks.download.sources.file_source import FileSource, cut_file


class LocalFiles(FileSource):
    """A file, or all files of a known format below a directory, in path order.

    Links are followed; a directory that is met again (a loop of links) is entered once.
    """

    include: tuple[str, ...] = Field(default=("*",), description="patterns of file paths below the directory to read")

    def pin(self, cache_directory: Path) -> str:
        digest = xxhash.xxh3_128()
        for path in self._files():
            digest.update(f"{self._origin(path)} {checksum_file(path)}\n".encode("utf-8", "surrogateescape"))
        return f"xxh3_128:{digest.hexdigest()}"

    def places(self, cache_directory: Path) -> list[FilePlace]:
        return [FilePlace(self._origin(path), size_bytes=path.stat().st_size) for path in self._files()]

    def local_path(self, cache_directory: Path, origin: str) -> Path:
        root = self._root()
        return root if root.is_file() else root / origin

    def cut(self, cache_directory: Path, place: FilePlace, part_bytes: int) -> Iterable[FilePlace]:
        return cut_file(self.local_path(cache_directory, place.origin), place, part_bytes)

    def _root(self) -> Path:
        return Path(self.uri.removeprefix("file://")).expanduser()

    def _origin(self, path: Path) -> str:
        root = self._root()
        return path.relative_to(root).as_posix() if path != root else path.name

    def _files(self) -> list[Path]:
        root = self._root()
        if root.is_file():
            return [root]
        if not root.is_dir():
            raise SourceError(
                f"source '{self.name}': '{root}' does not exist.",
                "correct its `uri`, or mark the source `optional`.",
            )
        files = sorted(path for path in _walk(root) if is_readable(path.name))
        chosen = [path for path in files if any(fnmatch(self._origin(path), pattern) for pattern in self.include)]
        if not chosen:
            raise SourceError(
                f"source '{self.name}': no readable file below '{root}' matches {list(self.include)}.",
                "correct `include`, or put .jsonl, .csv, .parquet, .warc, .html or .txt files there.",
            )
        return chosen


def _walk(root: Path) -> Iterator[Path]:
    """Regular files below `root`, links followed. The first way to a directory, in path order, is the one taken."""
    visited: set[tuple[int, int]] = set()
    for directory, subdirectories, names in os.walk(root, followlinks=True):
        status = os.stat(directory)  # noqa: PTH116 - os.walk speaks strings
        identity = (status.st_dev, status.st_ino)
        subdirectories.sort()
        if identity in visited:
            subdirectories.clear()
            continue
        visited.add(identity)
        for name in names:
            path = Path(directory, name)
            if path.is_file():  # not for a dangling link, a link to itself, a pipe, a device
                yield path
