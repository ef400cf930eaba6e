"""Storage on a local or mounted directory."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from infra.errors import StorageFull
from infra.storage.checksum import checksum_bytes
from infra.storage.interface import StoredFile

#: What a write fails with when there is no space, or none for this user.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_TEMPORARY_PREFIX = ".tmp-"


def _read_umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


#: Read once, at import: it can only be read by setting it, which another thread must not see.
_UMASK = _read_umask()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` when the block ends without an exception.

    The content is on disk (fsync) before the name is: after a power cut the file is whole or
    absent. Raises StorageFull when the disk is full; the temporary file never stays behind.
    """
    with explained_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY_PREFIX, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                os.fchmod(stream.fileno(), 0o666 & ~_UMASK)  # mkstemp's files are private
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(path)
            sync_directory(path.parent)
        finally:
            Path(temporary).unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make a rename in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained_write_errors(path: Path) -> Iterator[None]:
    """Turn 'no space left' into StorageFull naming the place; any other error passes as it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise StorageFull(
            f"no space left while writing '{path}'.",
            "free space there, or set SAM2_HOME (or artifact_root) to a larger disk, and run again: "
            "finished shards are kept.",
        ) from error


class LocalStorage:
    """Storage below one directory; conditional writes are guarded by flock on a side file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with explained_write_errors(root):
            root.mkdir(parents=True, exist_ok=True)

    def uri(self, key: str = "") -> str:
        return str(self.root / key)

    def local_path(self, key: str) -> Path:
        return self.root / key

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        data = self.read(key)
        return data, checksum_bytes(data)

    def write(self, key: str, data: bytes) -> None:
        with atomic_file(self.root / key) as stream:
            stream.write(data)

    def create(self, key: str, data: bytes) -> bool:
        with self._guard(key):
            if (self.root / key).exists():
                return False
            self.write(key, data)
            return True

    def replace(self, key: str, data: bytes, version: str) -> bool:
        with self._guard(key):
            path = self.root / key
            if not path.exists() or checksum_bytes(path.read_bytes()) != version:
                return False
            self.write(key, data)
            return True

    def upload(self, path: Path, key: str) -> None:
        target = self.root / key
        if path.absolute() == target.absolute():
            return
        with path.open("rb") as source, atomic_file(target) as stream:
            shutil.copyfileobj(source, stream, 1 << 20)

    def download(self, key: str, path: Path) -> None:
        source = self.root / key
        if not source.exists():
            raise FileNotFoundError(source)
        if path.absolute() != source.absolute():
            with source.open("rb") as stream, atomic_file(path) as target:
                shutil.copyfileobj(stream, target, 1 << 20)

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        # Walk only the directory that the prefix names, not the whole store.
        start = self.root / prefix.rpartition("/")[0]
        paths = (path for path in start.rglob("*") if path.is_file()) if start.is_dir() else iter(())
        # Sorted as keys, not as paths: "a-b" comes before "a/b" in S3's order.
        for key, path in sorted((path.relative_to(self.root).as_posix(), path) for path in paths):
            if key.startswith(prefix) and not path.name.startswith(_TEMPORARY_PREFIX):
                yield StoredFile(key, path.stat().st_size)

    def exists(self, key: str) -> bool:
        return (self.root / key).is_file()

    def age_seconds(self, key: str) -> float:
        return time.time() - (self.root / key).stat().st_mtime

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def delete_many(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.delete(key)

    def discard_unfinished(self, prefix: str = "") -> int:
        left = [path for path in (self.root / prefix).rglob(f"{_TEMPORARY_PREFIX}*") if path.is_file()]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    @contextmanager
    def _guard(self, key: str) -> Iterator[None]:
        lock_path = self.root / ".locks" / f"{checksum_bytes(key.encode()).partition(':')[2]}"
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        with lock_path.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
