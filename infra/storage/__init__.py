"""Local and S3 storage behind one small interface.

Public surface: `Storage` (the interface), `LocalStorage`, `S3Storage`, `open_storage`, `StoredFile`,
`checksum_bytes`, `checksum_file`.
"""

from infra.storage.checksum import checksum_bytes, checksum_file
from infra.storage.interface import Storage, StoredFile, open_storage
from infra.storage.local import LocalStorage
from infra.storage.s3 import S3Storage

__all__ = [
    "LocalStorage",
    "S3Storage",
    "Storage",
    "StoredFile",
    "checksum_bytes",
    "checksum_file",
    "open_storage",
]
