"""The files inside a .deb, read in memory without installing or unpacking anything (deb(5), ar(5)).

A package is material from outside: links, devices and names that lead out of the archive are not followed, no
member is read beyond a bound, and the archive as a whole may not unpack to more than a bound.
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from infra.errors import SourceError

MAXIMUM_MEMBER_BYTES = 64 << 20
MAXIMUM_UNPACKED_BYTES = 16 << 30
_MAGIC = b"!<arch>\n"
_HEADER_BYTES = 60
_TAR_EXTENSION_BYTES = 1 << 20
_TAR_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_DAMAGE = (EOFError, OSError, lzma.LZMAError, zlib.error, tarfile.TarError, pa.ArrowException)


@dataclass(frozen=True)
class Member:
    """A regular file of the archive; `data` is None when it holds more than MAXIMUM_MEMBER_BYTES."""

    path: str
    size_bytes: int
    data: bytes | None


def package_members(deb: Path, is_wanted: re.Pattern[str] | None = None) -> Iterator[Member]:
    """The regular files of a package whose path matches, in the archive's order.

    Paths are relative, as in `usr/share/doc/git/README`. Raises SourceError when the package is damaged or unpacks to
    more than MAXIMUM_UNPACKED_BYTES.
    """
    try:
        with deb.open("rb") as stream, _data_archive(stream) as unpacked:
            yield from _tar_members(cast(BinaryIO, _Limited(unpacked, MAXIMUM_UNPACKED_BYTES)), is_wanted)
    except _DAMAGE as error:
        raise SourceError(
            f"Debian package '{deb}' cannot be read: {error or type(error).__name__}.",
            "delete it and run again, so that it is fetched anew.",
        ) from error


def unpack_gzip(data: bytes, maximum_bytes: int = MAXIMUM_MEMBER_BYTES) -> bytes | None:
    """The content of a gzip file (several members too), or None when it holds more than `maximum_bytes`.

    Raises zlib.error or EOFError when it is damaged.
    """
    parts: list[bytes] = []
    size = 0
    while data:
        unpacker = zlib.decompressobj(wbits=31)
        part = unpacker.decompress(data, maximum_bytes - size + 1)
        size += len(part)
        if size > maximum_bytes:
            return None
        if not unpacker.eof:
            raise EOFError("the gzip file ends early")
        parts.append(part)
        data = unpacker.unused_data.lstrip(b"\0")  # gzip allows zeros after the last member
    return b"".join(parts)


def _data_archive(stream: BinaryIO) -> BinaryIO:
    """The unpacked data.tar within the ar archive; raises OSError when there is none."""
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise OSError("it is not an ar archive")
    while header := stream.read(_HEADER_BYTES):
        size_field = header[48:58].strip()
        if len(header) < _HEADER_BYTES or header[58:60] != b"`\n" or not size_field.isdigit():
            raise OSError("a member header of the ar archive is damaged")
        name, size = header[:16].decode("latin-1").rstrip().rstrip("/"), int(size_field)
        if name.startswith("data.tar"):
            return _unpacked(name, cast(BinaryIO, _Window(stream, size)))
        stream.seek(size + size % 2, io.SEEK_CUR)
    raise OSError("it holds no data.tar")


def _unpacked(name: str, stream: BinaryIO) -> BinaryIO:
    compression = name.removeprefix("data.tar").removeprefix(".")
    if compression in ("xz", "lzma"):
        return cast(BinaryIO, lzma.open(stream))
    if compression in ("zst", "gz", "bz2"):
        codec = {"zst": "zstd", "gz": "gzip", "bz2": "bz2"}[compression]
        return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(stream, "r"), codec))
    if compression:
        raise OSError(f"its compression '{compression}' is unknown")
    return stream


def _tar_members(stream: BinaryIO, is_wanted: re.Pattern[str] | None) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_BoundedHeader, bufsize=1 << 18) as archive:
        for entry in archive:
            archive.members = []  # type: ignore[attr-defined]  # every header seen, of no use in a stream
            path = _inner_path(entry.name)
            if not entry.isreg() or path is None or (is_wanted is not None and not is_wanted.search(path)):
                continue
            content = archive.extractfile(entry) if entry.size <= MAXIMUM_MEMBER_BYTES else None
            yield Member(path, entry.size, content.read() if content is not None else None)


def _inner_path(name: str) -> str | None:
    """`./usr/share/x` as `usr/share/x`; None for a name that leads out of the archive."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts:
        return None
    return "/".join(parts)


class _BoundedHeader(tarfile.TarInfo):
    """Refuses extension headers (long names, pax) of a size that would only serve to fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _BoundedHeader:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _TAR_EXTENSIONS and header.size > _TAR_EXTENSION_BYTES:
            raise OSError(f"a tar extension header of {header.size} bytes")
        return header


class _Window(io.RawIOBase):
    """The next `size` bytes of a stream, as a stream of their own."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._left = stream, size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


class _Limited(io.RawIOBase):
    """A stream that refuses to give more than `limit` bytes."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream, self._left, self._limit = stream, limit, limit

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = bytes(self._stream.read(size))
        self._left -= len(data)
        if self._left < 0:
            raise OSError(f"it unpacks to more than {self._limit} bytes")
        return data
