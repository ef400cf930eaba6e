"""Local files: `file://` or a plain path, one file or a directory of JSONL, CSV, Parquet and text."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import xxhash
from pydantic import Field

from infra.errors import SourceError
from infra.storage.checksum import checksum_file
from tasks.download.records import FieldChoice, Record, is_readable, read_file
from tasks.download.sources.source import Source


class LocalFiles(Source):
    """A file, or all files of a known format below a directory, in path order."""

    include: tuple[str, ...] = Field(default=("*",), description="patterns of file paths below the directory to read")
    fields: FieldChoice = Field(default=FieldChoice(), description="which fields of structured records hold the text")

    def pin(self, cache_directory: Path) -> str:
        digest = xxhash.xxh3_128()
        for path in self._files():
            digest.update(f"{self._origin(path)} {checksum_file(path)}\n".encode())
        return f"xxh3_128:{digest.hexdigest()}"

    def records(self, cache_directory: Path) -> Iterator[Record]:
        for path in self._files():
            yield from read_file(path, self._origin(path), self.fields)

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
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and is_readable(path.name)]
        chosen = [path for path in files if any(fnmatch(self._origin(path), pattern) for pattern in self.include)]
        if not chosen:
            raise SourceError(
                f"source '{self.name}': no readable file below '{root}' matches {list(self.include)}.",
                "correct `include`, or put .jsonl, .csv, .parquet or .txt files there.",
            )
        return chosen
