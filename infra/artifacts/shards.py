"""Completion markers: which shards of an unfinished artifact are done, so that a restart continues.

A marker is written after its shard's files and holds their checksums. Shards are named by the
data they cover, never by the worker that made them: changing the worker count keeps them valid.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from infra.artifacts.manifest import FileEntry
from infra.storage.checksum import checksum_file
from infra.storage.interface import Storage

MARKER_DIRECTORY = ".shards"


class ShardMarkers:
    """Markers of one artifact under construction.

    `directory` is where the stage writes; `storage`/`prefix` is where finished shards are kept
    (the same place for local storage, the bucket for S3).
    """

    def __init__(self, directory: Path, storage: Storage, prefix: str) -> None:
        self._directory = directory
        self._storage = storage
        self._prefix = prefix

    def is_done(self, name: str) -> bool:
        """Whether the shard is finished and its files intact; a damaged shard counts as not done."""
        return self.statistics(name) is not None

    def statistics(self, name: str) -> dict[str, Any] | None:
        """The figures a finished, intact shard was closed with, else None."""
        try:
            marker = json.loads(self._storage.read(self._marker_key(name)))
            entries = [FileEntry.model_validate(entry) for entry in marker["files"]]
        except (FileNotFoundError, ValueError, KeyError):
            return None
        if not all(self._restore(entry) for entry in entries):
            return None
        statistics: dict[str, Any] = marker["statistics"]
        return statistics

    def finish(self, name: str, files: Iterable[Path], statistics: dict[str, Any] | None = None) -> None:
        """Declare a shard finished: `files` exist below the directory and will not change."""
        entries = []
        for path in files:
            relative = path.relative_to(self._directory).as_posix()
            entries.append(FileEntry(path=relative, size_bytes=path.stat().st_size, checksum=checksum_file(path)))
            self._storage.upload(path, f"{self._prefix}/{relative}")
        marker = {"files": [entry.model_dump() for entry in entries], "statistics": statistics or {}}
        self._storage.write(self._marker_key(name), json.dumps(marker).encode())

    def finished_names(self) -> list[str]:
        """Names of all shards that have a marker, sorted (markers only; files are not checked)."""
        prefix = f"{self._prefix}/{MARKER_DIRECTORY}/"
        return sorted(stored.key.removeprefix(prefix).removesuffix(".json") for stored in self._storage.list(prefix))

    def clear(self) -> None:
        """Remove all markers (the manifest takes over)."""
        for stored in list(self._storage.list(f"{self._prefix}/{MARKER_DIRECTORY}/")):
            self._storage.delete(stored.key)

    def _marker_key(self, name: str) -> str:
        return f"{self._prefix}/{MARKER_DIRECTORY}/{name}.json"

    def _restore(self, entry: FileEntry) -> bool:
        """Have the file on this machine, intact; fetch it from remote storage when it is not."""
        path = self._directory / entry.path
        if _intact(path, entry):
            return True
        if self._storage.local_path("") is not None:
            return False
        try:
            self._storage.download(f"{self._prefix}/{entry.path}", path)
        except FileNotFoundError:
            return False
        return _intact(path, entry)


def _intact(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.size_bytes and checksum_file(path) == entry.checksum
