"""The storage interface: what local disks and S3 buckets both do, and nothing more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from infra.errors import ConfigurationError, SourceError


class DamagedObject(SourceError):
    """A stored object whose content no longer matches the checksum it was stored with."""


@dataclass(frozen=True)
class StoredFile:
    """One stored object: its key below the storage's root, its size, and what changes with its content.

    version: an entity tag of the server's; empty where listing does not tell (local disks).
    """

    key: str
    size_bytes: int
    version: str = ""


class Storage(Protocol):
    """A flat key -> bytes store. Keys are relative, `/`-separated paths.

    Writes are atomic: a reader sees the old content or the new, never a part. `create` and
    `replace` are the two conditional writes that leases and manifests are built on.
    """

    def uri(self, key: str = "") -> str:
        """The full address of `key`, for people and for lineage."""

    def read(self, key: str) -> bytes:
        """Content of `key`; raises FileNotFoundError when it does not exist."""

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Content and an opaque version for `replace`; raises FileNotFoundError."""

    def write(self, key: str, data: bytes) -> None:
        """Create or overwrite `key`."""

    def create(self, key: str, data: bytes) -> bool:
        """Write `key` only when it does not exist; False when somebody else was first."""

    def replace(self, key: str, data: bytes, version: str) -> bool:
        """Overwrite `key` only when it is still at `version`; False when it changed."""

    def upload(self, path: Path, key: str) -> None:
        """Copy a local file to `key`."""

    def download(self, key: str, path: Path) -> None:
        """Copy `key` to a local file, atomically; raises FileNotFoundError."""

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Every object whose key starts with `prefix`, in key order."""

    def exists(self, key: str) -> bool:
        """Whether `key` exists."""

    def age_seconds(self, key: str) -> float:
        """Seconds since `key` was last written, by the storage's own clock; raises FileNotFoundError."""

    def delete(self, key: str) -> None:
        """Remove `key`; not an error when it is already gone."""

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove every one of `keys`, as `delete` does."""

    def discard_unfinished(self, prefix: str = "") -> int:
        """Remove what killed writers left below `prefix`, and return how many pieces there were.

        Only for whoever alone may write there: another's unfinished write would be lost.
        """

    def local_path(self, key: str) -> Path | None:
        """Where `key` is (or would be) on this machine's disk, or None for remote storage."""


def open_storage(uri: str) -> Storage:
    """Open `s3://bucket/prefix` or a local directory (created when missing).

    Raises ConfigurationError for any other scheme.
    """
    from infra.storage.local import LocalStorage

    if uri.startswith("s3://"):
        from infra.storage.s3 import S3Storage  # boto3 takes a third of a second to import

        return S3Storage.from_uri(uri)
    if "://" in uri and not uri.startswith("file://"):
        raise ConfigurationError(
            f"storage '{uri}' has an unknown scheme.", "use a local directory or s3://bucket/prefix."
        )
    return LocalStorage(Path(uri.removeprefix("file://")).expanduser().absolute())
