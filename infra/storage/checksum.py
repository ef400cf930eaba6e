"""Checksums of files: XXH3-128, 10 GB/s a core, so that verifying everything on every reuse stays cheap.

They detect corruption and truncation, not tampering; what must resist tampering (an installed
wheel, say) is pinned by SHA-256 where it enters.
"""

from __future__ import annotations

import os
from pathlib import Path

import xxhash

_BLOCK_BYTES = 4 << 20


def checksum_bytes(data: bytes) -> str:
    """Return `xxh3_128:<hex>` of `data`."""
    return f"xxh3_128:{xxhash.xxh3_128_hexdigest(data)}"


def checksum_file(path: Path) -> str:
    """Return `xxh3_128:<hex>` of a file's content; raises OSError when it cannot be read."""
    with path.open("rb") as stream:
        return checksum_descriptor(stream.fileno())


def checksum_descriptor(descriptor: int) -> str:
    """The same of an open file, from its beginning; its position stays where it is."""
    digest = xxhash.xxh3_128()
    offset = 0
    while block := os.pread(descriptor, _BLOCK_BYTES, offset):
        digest.update(block)
        offset += len(block)
    return f"xxh3_128:{digest.hexdigest()}"
