"""safetensors files of fp32 tensors written as a stream: no second copy in memory, checksum on the way.

Format: 8 bytes with the header's length, a JSON header, the tensors' bytes one after another
(https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import xxhash
from torch import Tensor

from infra.storage.local import sync_directory

_BLOCK_BYTES = 16 << 20
_VALUE_BYTES = 4


def header(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None) -> bytes:
    """The file's beginning for fp32 tensors of these names and shapes, in this order."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, shape in shapes.items():
        stop = place + math.prod(shape) * _VALUE_BYTES
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, stop]}
        place = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors' bytes begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    values: Iterable[Tensor],
    metadata: Mapping[str, str] | None = None,
) -> tuple[str, int]:
    """Write a file and return its checksum and size; on disk (fsync) when this returns.

    values: the tensors' contents in the order of `shapes`, in pieces of any size, fp32 in main memory. The file
    is not atomic: what refers to it must be written after it. Raises OSError; nothing stays behind then.
    """
    try:
        with path.open("wb") as stream:
            written = _write(stream, header(shapes, metadata), values)
            stream.flush()
            os.fsync(stream.fileno())
        sync_directory(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return written


def _write(stream: BinaryIO, beginning: bytes, values: Iterable[Tensor]) -> tuple[str, int]:
    digest = xxhash.xxh3_128(beginning)
    stream.write(beginning)
    size = len(beginning)
    for piece in values:
        data = piece.detach().contiguous().view(-1).numpy().data.cast("B")
        for start in range(0, len(data), _BLOCK_BYTES):
            block = data[start : start + _BLOCK_BYTES]
            digest.update(block)
            stream.write(block)
        size += len(data)
    return f"xxh3_128:{digest.hexdigest()}", size
