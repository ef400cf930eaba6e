"""Completion markers: which shards of an unfinished artifact are done, so that a restart continues.

A marker is written after its shard's files and holds their checksums. Shards are named by the
data they cover, never by the worker that made them: changing the worker count keeps them valid.
With remote storage finished shards are uploaded while the stage computes the next ones, and those of an
earlier attempt are fetched in parallel: any machine can continue with an empty directory.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from infra.artifacts.manifest import FileEntry
from infra.storage.checksum import checksum_file
from infra.storage.interface import DamagedObject, Storage

MARKER_DIRECTORY = ".shards"
#: Directories a stage may keep for itself while it works; never part of the artifact.
SCRATCH_DIRECTORY = ".scratch"

_UPLOAD_THREADS = 3
#: Finished shards that wait for their upload; further ones wait in `finish`, so that the disk does not fill.
_WAITING_SHARDS = 8
_FETCH_THREADS = 8


class ShardMarkers:
    """Markers of one artifact under construction.

    `directory` is where the stage writes; `storage`/`prefix` is where finished shards are kept
    (the same place for local storage, the bucket for S3).
    """

    def __init__(self, directory: Path, storage: Storage, prefix: str) -> None:
        self._directory = directory
        self._storage = storage
        self._prefix = prefix
        self._uploads = _Uploads() if storage.local_path("") is None else None
        self._stored: dict[str, FileEntry] = {}
        self._finished: dict[str, dict[str, Any]] = {}
        self._fetched: dict[str, dict[str, Any] | None] = {}
        self._fetched_groups: set[str] = set()

    def is_done(self, name: str) -> bool:
        """Whether the shard is finished and its files intact; a damaged shard counts as not done."""
        return self.statistics(name) is not None

    def statistics(self, name: str) -> dict[str, Any] | None:
        """The figures a finished, intact shard was closed with, else None."""
        if self._uploads is None:
            return self._restored(name)
        if name in self._finished:
            marker = self._finished[name]
            return marker["statistics"] if self._restore_files(_entries(marker)) else None
        group = name.rpartition("/")[0]
        if group not in self._fetched_groups:
            self._fetched_groups.add(group)
            self._fetch(group)
        return self._fetched.get(name)

    def finish(self, name: str, files: Iterable[Path], statistics: dict[str, Any] | None = None) -> None:
        """Declare a shard finished: `files` exist below the directory and will not change.

        With remote storage this returns before they are uploaded, and raises what an earlier upload raised.
        A scratch file that the stage removes before its upload is taken to be needed no longer.
        """
        entries = []
        for path in files:
            relative = path.relative_to(self._directory).as_posix()
            entries.append(FileEntry(path=relative, size_bytes=path.stat().st_size, checksum=checksum_file(path)))
        marker = {"files": [entry.model_dump() for entry in entries], "statistics": statistics or {}}
        if self._uploads is None:
            self._storage.write(self._marker_key(name), json.dumps(marker).encode())
            return
        self._finished[name] = json.loads(json.dumps(marker))  # as a restart would read it
        self._uploads.submit(self._upload, name, entries, json.dumps(marker).encode())

    def stored(self) -> Mapping[str, FileEntry]:
        """Files, by path, that are in remote storage with this content; complete after `flush`."""
        return self._stored

    def flush(self) -> None:
        """Wait for the uploads; raises what the first failed one raised."""
        if self._uploads is not None:
            self._uploads.flush()

    def close(self, *, keep: bool) -> None:
        """End the uploads: with `keep` those that wait are carried out, so that a restart finds them."""
        if self._uploads is not None:
            self._uploads.close(keep=keep)

    def finished_names(self) -> list[str]:
        """Names of all shards that have a marker, sorted (markers only; files are not checked)."""
        return sorted(self._listed(""))

    def clear(self) -> None:
        """Remove all markers (the manifest takes over)."""
        prefix = f"{self._prefix}/{MARKER_DIRECTORY}/"
        self._storage.delete_many([stored.key for stored in self._storage.list(prefix)])

    def _marker_key(self, name: str) -> str:
        return f"{self._prefix}/{MARKER_DIRECTORY}/{name}.json"

    def _listed(self, group: str) -> list[str]:
        prefix = f"{self._prefix}/{MARKER_DIRECTORY}/"
        start = f"{prefix}{group}/" if group else prefix
        return [stored.key.removeprefix(prefix).removesuffix(".json") for stored in self._storage.list(start)]

    def _upload(self, name: str, entries: list[FileEntry], marker: bytes) -> None:
        try:
            for entry in entries:
                self._storage.upload(self._directory / entry.path, f"{self._prefix}/{entry.path}")
                self._stored[entry.path] = entry
        except FileNotFoundError:
            if entry.path.partition("/")[0] == SCRATCH_DIRECTORY:
                return
            raise
        self._storage.write(self._marker_key(name), marker)

    def _fetch(self, group: str) -> None:
        """Restore all finished shards of a group at once: one by one, requests would take longer than the work."""
        names = [name for name in self._listed(group) if name.rpartition("/")[0] == group]
        with ThreadPoolExecutor(_FETCH_THREADS, thread_name_prefix="fetch shards") as pool:
            self._fetched.update(zip(names, pool.map(self._restored, names), strict=True))

    def _restored(self, name: str) -> dict[str, Any] | None:
        try:
            marker = json.loads(self._storage.read(self._marker_key(name)))
            entries, statistics = _entries(marker), marker["statistics"]
        except (FileNotFoundError, DamagedObject, ValueError, KeyError, TypeError):
            return None
        if not self._restore_files(entries):
            return None
        return dict(statistics)

    def _restore_files(self, entries: list[FileEntry]) -> bool:
        return all(self._restore(entry) for entry in entries)

    def _restore(self, entry: FileEntry) -> bool:
        """Have the file on this machine, intact; fetch it from remote storage when it is not."""
        path = self._directory / entry.path
        if not _intact(path, entry):
            if self._uploads is None:
                return False
            try:
                self._storage.download(f"{self._prefix}/{entry.path}", path)
            except (FileNotFoundError, DamagedObject):
                return False
            if not _intact(path, entry):
                return False
        self._stored[entry.path] = entry
        return True


class _Uploads:
    """A few threads that upload in the background. The first error stops what waits and is raised by the next call."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_UPLOAD_THREADS, thread_name_prefix="upload shards")
        self._room = threading.Semaphore(_WAITING_SHARDS)
        self._running: set[Future[None]] = set()
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def submit(self, work: Any, *arguments: Any) -> None:
        self._room.acquire()
        with self._lock:
            if self._error is not None:
                self._room.release()
                raise self._error
            future = self._pool.submit(work, *arguments)
            self._running.add(future)
        future.add_done_callback(self._done)

    def flush(self) -> None:
        while True:
            with self._lock:
                future = next(iter(self._running), None)
            if future is None:
                break
            future.exception()
            self._forget(future)
        if self._error is not None:
            raise self._error

    def close(self, *, keep: bool) -> None:
        self._pool.shutdown(wait=True, cancel_futures=not keep or self._error is not None)

    def _done(self, future: Future[None]) -> None:
        self._room.release()
        self._forget(future)

    def _forget(self, future: Future[None]) -> None:
        with self._lock:
            self._running.discard(future)
            if not future.cancelled() and self._error is None:
                self._error = future.exception()


def _entries(marker: dict[str, Any]) -> list[FileEntry]:
    return [FileEntry.model_validate(entry) for entry in marker["files"]]


def _intact(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.size_bytes and checksum_file(path) == entry.checksum
