"""Debian packages made in memory, for the tests."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from pathlib import Path

import pyarrow as pa

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: sample

Files: lib/*
Copyright: someone
License: BSD-3-clause
 text

Files: *
Copyright: someone else
License: GFDL-1.3+

Files: debian/*
License: Expat
"""


def tar_of(files: dict[str, bytes], extra: list[tarfile.TarInfo] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in extra or []:
            archive.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def ar_of(members: list[tuple[str, bytes]]) -> bytes:
    parts = [b"!<arch>\n"]
    for name, data in members:
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n"
        parts += [header.encode(), data, b"\n" * (len(data) % 2)]
    return b"".join(parts)


def deb_of(tar: bytes, compression: str = "xz") -> bytes:
    packed = {
        "xz": lambda: lzma.compress(tar),
        "gz": lambda: gzip.compress(tar),
        "zst": lambda: pa.compress(tar, codec="zstd", asbytes=True),
        "": lambda: tar,
    }[compression]()
    name = f"data.tar.{compression}".rstrip(".")
    return ar_of([("debian-binary", b"2.0\n"), ("control.tar.gz", gzip.compress(b"")), (name, packed)])


def write_deb(
    folder: Path, files: dict[str, bytes], name: str = "sample_1.0-1_all.deb", compression: str = "xz"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(deb_of(tar_of(files)))
    return path
