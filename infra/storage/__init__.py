"""Local and S3 storage behind one small interface.

Public surface: `Storage` (the interface), `LocalStorage`, `S3Storage`, `open_storage`, `StoredFile`, `DamagedObject`,
`checksum_bytes`, `checksum_file`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra.storage.checksum import checksum_bytes, checksum_file
from infra.storage.interface import DamagedObject, Storage, StoredFile, open_storage
from infra.storage.local import LocalStorage

if TYPE_CHECKING:
    from infra.storage.s3 import S3Storage

__all__ = [
    "DamagedObject",
    "LocalStorage",
    "S3Storage",
    "Storage",
    "StoredFile",
    "checksum_bytes",
    "checksum_file",
    "open_storage",
]


def __getattr__(name: str) -> Any:
    # boto3 takes a third of a second to import, and most programs store locally.
    if name == "S3Storage":
        from infra.storage.s3 import S3Storage

        return S3Storage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
