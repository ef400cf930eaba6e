"""The files of a model directory: their names, and how a complete one gets its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import xxhash

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
#: Of weights in several files (Hugging Face's layout): which tensor is where.
INDEX_FILE = WEIGHTS_FILE + ".index.json"
_BLOCK_BYTES = 4 << 20


def damaged_file(directory: Path, checksums: Mapping[str, str]) -> str | None:
    """The first file that is missing or not what its checksum (`xxh3_128:...`, as manifests write it) says, or None."""
    for name, checksum in checksums.items():
        path = directory / name
        if not path.is_file() or f"xxh3_128:{_digest(path)}" != checksum:
            return name
    return None


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def publish(temporary: Path, final: Path) -> None:
    """Give a complete file its name, durably: a crash leaves the old file or the new one, never half of one."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    descriptor = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
