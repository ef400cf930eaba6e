"""Packed streams read with bounds: damage and bombs end the stream early and say so, they never raise.

gzip, bzip2 and xz by Python's own modules (members one after another, as these tools write them), zstd
by the decoder that pyarrow carries.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from tasks.download.formats.record import ReadLimits

_READ_BYTES = 256 << 10
_CHUNK_BYTES = 1 << 20
_XZ_MEMORY_BYTES = 256 << 20
_DAMAGE = (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, pa.ArrowException)


class _Decoder(Protocol):
    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Inflater:
    """zlib with the interface of bz2 and lzma."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


class UnpackedStream:
    """The unpacked bytes of a stream; once it ends, `defect` tells whether it ended as it should."""

    def __init__(self, stream: BinaryIO, packing: str, limits: ReadLimits) -> None:
        self._packed = _CountedStream(stream)
        self._chunks = _UNPACKERS[packing](self._packed)
        self._packing = packing
        self._limits = limits
        self._buffer = b""
        self._place = 0
        self._position = 0
        self.unpacked_bytes = 0
        self.defect: str | None = None

    @property
    def packed_bytes(self) -> int:
        """How much of the packed stream was read."""
        return self._packed.total_bytes

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes (possibly fewer); nothing at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK_BYTES), b""))
        while self._place >= len(self._buffer):
            if self.defect is not None:
                return b""
            self._buffer, self._place = self._next_chunk(), 0
            if not self._buffer:
                return b""
        taken = self._buffer[self._place : self._place + size]
        self._place += len(taken)
        self._position += len(taken)
        return taken

    def tell(self) -> int:
        """Position in the unpacked bytes."""
        return self._position

    def _next_chunk(self) -> bytes:
        try:
            chunk = next((chunk for chunk in self._chunks if chunk), b"")
        except _DAMAGE as error:
            reason = "it is cut off" if isinstance(error, EOFError) or "Truncated" in str(error) else "bad data"
            self.defect = f"damaged {self._packing}: {reason}"
            return b""
        self.unpacked_bytes += len(chunk)
        self.defect = self._bomb()
        return b"" if self.defect is not None else chunk

    def _bomb(self) -> str | None:
        limits = self._limits
        ratio = self.unpacked_bytes / max(self.packed_bytes, 1)
        if self.unpacked_bytes > limits.ratio_matters_bytes and ratio > limits.unpacked_ratio:
            return f"{self._packing} unpacks to over the ratio limit"
        return (
            f"{self._packing} unpacks to over the size limit" if self.unpacked_bytes > limits.unpacked_bytes else None
        )


class _CountedStream:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.total_bytes = 0
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.total_bytes += len(data)
        return data

    def close(self) -> None:
        """The stream belongs to the caller."""


def _members(new_decoder: Callable[[], Any]) -> Callable[[_CountedStream], Iterator[bytes]]:
    def unpack(stream: _CountedStream) -> Iterator[bytes]:
        packed = stream.read(_READ_BYTES)
        while packed:
            decoder: _Decoder = new_decoder()
            while not decoder.eof:
                if not packed and decoder.needs_input:
                    packed = stream.read(_READ_BYTES)
                    if not packed:
                        raise EOFError
                yield decoder.decompress(packed, _CHUNK_BYTES)
                packed = b""
            packed = decoder.unused_data or stream.read(_READ_BYTES)
            while packed and not packed.strip(b"\0"):  # tapes and block devices pad with zeros
                packed = stream.read(_READ_BYTES)
            packed = packed.lstrip(b"\0")

    return unpack


def _unpack_zstandard(stream: _CountedStream) -> Iterator[bytes]:
    unpacked = pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")
    while chunk := unpacked.read(64 << 10):
        yield chunk


_UNPACKERS: dict[str, Callable[[_CountedStream], Iterator[bytes]]] = {
    "gzip": _members(_Inflater),
    "bzip2": _members(bz2.BZ2Decompressor),
    "xz": _members(lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES)),
    "zstd": _unpack_zstandard,
}
#: File suffix -> packing.
PACKINGS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}
