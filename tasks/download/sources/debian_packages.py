"""`debian://PACKAGE`: the documentation that Debian packages carry; real text in bulk, in many languages.

Packages come through the user's own apt settings where apt is, else from a mirror over https, checked against the
SHA-256 of its index. Nothing is installed or unpacked to disk: texts are read from the archive. A package's licence
is what its machine-readable copyright file states (Debian's copyright format 1.0).
"""

from __future__ import annotations

import hashlib
import lzma
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
from pydantic import Field, field_validator, model_validator

from infra.errors import SourceError
from infra.storage.local import LocalStorage
from tasks.download.formats import DefectiveRecord, FilePlace, Record, RecordBuilder
from tasks.download.sources.debian_archive import MAXIMUM_MEMBER_BYTES, Member, package_members, unpack_gzip
from tasks.download.sources.documentation_text import cut_text, decode, kind_of, plain_text
from tasks.download.sources.source import LicensedRecord, Source, SourcePart, licence_of
from tasks.download.transfer import TransferSettings, fetch

SCHEME = "debian://"
APT_TIMEOUT_SECONDS = 600.0
MAXIMUM_INDEX_BYTES = 1 << 30
_REQUEST = re.compile(r"^([a-z0-9][a-z0-9+.-]+)(?:=([0-9][A-Za-z0-9.+:~-]*))?$")
_COPYRIGHT = re.compile(r"^usr/share/doc/[^/]+/copyright(\.gz)?$")
_LICENCES_NAMED = 4
_EXCERPT_BYTES = 400
_BINARY_SIGN_BYTES = 8192
_FIX_APT = "correct the name, run `apt-get update`, set `mirror`, or mark the source `optional`."


@dataclass(frozen=True)
class PackageRequest:
    """A package, and the version wanted if it must be one."""

    name: str
    version: str | None

    @classmethod
    def parse(cls, text: str) -> PackageRequest:
        match = _REQUEST.match(text)
        if match is None:
            raise ValueError(f"'{text}' does not name a Debian package; write PACKAGE or PACKAGE=VERSION")
        return cls(match.group(1), match.group(2))

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}={self.version}"

    def matches(self, deb: Path) -> bool:
        """Whether a file called NAME_VERSION_ARCHITECTURE.deb is this package."""
        name, _, rest = unquote(deb.name).partition("_")
        return name == self.name and (self.version is None or rest.rpartition("_")[0] == self.version)


class DebianPackages(Source):
    """Texts of one package (`debian://PACKAGE[=VERSION]`) or of several (`debian://` and `packages`)."""

    packages: tuple[str, ...] = Field(
        default=(), description="packages to read, in this order, as PACKAGE or PACKAGE=VERSION; with uri `debian://`"
    )
    mirror: str | None = Field(
        default=None,
        description="archive to fetch from (such as https://deb.debian.org/debian); empty: this machine's apt settings",
    )
    suite: str = Field(default="stable", pattern=r"^[a-z0-9][a-z0-9./-]*$", description="release, with `mirror`")
    component: str = Field(default="main", pattern=r"^[a-z0-9][a-z0-9-]*$", description="component, with `mirror`")
    architecture: str = Field(default="amd64", pattern=r"^[a-z0-9][a-z0-9-]*$", description="index, with `mirror`")
    include: tuple[str, ...] = Field(default=("*",), description="patterns of paths in the package to read")
    exclude: tuple[str, ...] = Field(
        default=("*/changelog*", "*/copyright", "*/NEWS.Debian*"),
        description="patterns of paths to leave out, after `include`",
    )

    @field_validator("mirror")
    @classmethod
    def _mirror_is_authenticated(cls, mirror: str | None) -> str | None:
        if mirror is None:
            return None
        address = urlsplit(mirror)
        is_local = address.scheme == "http" and address.hostname in ("127.0.0.1", "localhost", "::1")
        if not (address.scheme == "https" or is_local):
            raise ValueError("use an https:// mirror: over http nothing vouches for the index's checksums")
        return mirror.rstrip("/")

    @model_validator(mode="after")
    def _names_packages(self) -> DebianPackages:
        named = self.uri.removeprefix(SCHEME)
        if bool(named) == bool(self.packages):
            raise ValueError("write uri debian://PACKAGE, or uri debian:// and list `packages`")
        _ = self.requests
        return self

    @property
    def requests(self) -> list[PackageRequest]:
        """The packages wanted, in order."""
        return [PackageRequest.parse(text) for text in self.packages or (self.uri.removeprefix(SCHEME),)]

    def pin(self, cache_directory: Path) -> str:
        digest = hashlib.sha256()
        for deb in self.fetch(cache_directory):
            digest.update(f"{deb.name} {_sha256(deb)}\n".encode())
        return f"sha256:{digest.hexdigest()}"

    def records(self, cache_directory: Path) -> Iterator[Record]:
        self._check_pinned(cache_directory)
        for deb in self.fetch(cache_directory):
            yield from self.records_of(deb)

    def parts(self, cache_directory: Path, part_bytes: int) -> list[SourcePart]:
        """One package a part; a single part where a cap needs one order."""
        places = tuple(FilePlace(deb.name, size_bytes=deb.stat().st_size) for deb in self.fetch(cache_directory))
        return [SourcePart(places)] if self.maximum_bytes is not None else [SourcePart((place,)) for place in places]

    def batches(self, cache_directory: Path, part: SourcePart) -> Iterator[pa.RecordBatch]:
        self._check_pinned(cache_directory)
        debs = {deb.name: deb for deb in self.fetch(cache_directory)}
        builder = RecordBuilder()
        for place in part.places:
            for record in self.records_of(debs[place.origin]):
                builder.add(record, licence_of(record, self))
                if builder.is_full():
                    yield from builder.take()
        yield from builder.take()

    def records_of(self, deb: Path) -> Iterator[Record]:
        """Documents of one package file; their origin is PACKAGE_VERSION_ARCHITECTURE/path#part."""
        package = unquote(deb.stem)
        licence = _package_licence(deb)
        for member in package_members(deb):
            if kind_of(member.path) is not None and self._is_chosen(member.path):
                for record in member_records(member, f"{package}/{member.path}"):
                    yield record if record.defect else LicensedRecord(record.text, record.origin, None, licence or "")

    def fetch(self, cache_directory: Path) -> list[Path]:
        """The packages' files in the cache, in order, after fetching those that are not there."""
        folder = cache_directory / "debian" / (_place_of(self.mirror, self.suite) if self.mirror else "apt")
        missing = [request for request in self.requests if _cached(folder, request) is None]
        if missing:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as temporary:
                self._fetch_missing(missing, Path(temporary))
                for deb in sorted(Path(temporary).glob("*.deb")):
                    LocalStorage(folder).upload(deb, deb.name)
        return [self._present(folder, request) for request in self.requests]

    def _check_pinned(self, cache_directory: Path) -> None:
        if self.pinned and self.pin(cache_directory) != self.pinned:
            raise SourceError(
                f"source '{self.name}': the packages in '{cache_directory}' are not those that were resolved.",
                "run again, so that sources are resolved anew; name versions to keep them.",
            )

    def _fetch_missing(self, missing: list[PackageRequest], target: Path) -> None:
        if self.mirror is not None:
            _fetch_from_mirror(self, missing, target)
        elif shutil.which("apt-get") is not None:
            _fetch_with_apt(missing, target, self.name)
        else:
            raise SourceError(
                f"source '{self.name}': this machine has no apt-get to fetch {_listed(missing)} with.",
                "set `mirror` (such as https://deb.debian.org/debian), or mark the source `optional`.",
            )

    def _present(self, folder: Path, request: PackageRequest) -> Path:
        deb = _cached(folder, request)
        if deb is None:
            raise SourceError(f"source '{self.name}': no package file came for '{request}'.", _FIX_APT)
        return deb

    def _is_chosen(self, path: str) -> bool:
        return _matches(path, self.include) and not _matches(path, self.exclude)


def member_records(member: Member, origin: str) -> Iterator[Record]:
    """The documents of one file of a package; what cannot be read comes back with a defect."""
    kind = kind_of(member.path) or "text"
    data: bytes | None = member.data
    try:
        if data is not None and member.path.endswith((".gz", ".dz")):
            data = unpack_gzip(data)
        if data is None:
            yield DefectiveRecord("", origin, "file over the size limit", MAXIMUM_MEMBER_BYTES)
        elif b"\0" in data[:_BINARY_SIGN_BYTES]:
            yield DefectiveRecord("", origin, "binary data, not text", len(data))
        else:
            yield from _documents(plain_text(decode(data, member.path), kind), origin)
    except (EOFError, zlib.error):
        yield DefectiveRecord("", origin, "damaged gzip", member.size_bytes)
    except UnicodeDecodeError as error:
        excerpt = (data or b"")[:_EXCERPT_BYTES].decode("utf-8", "replace")
        yield DefectiveRecord(excerpt, origin, "undecodable text", error.start)


def stated_licences(copyright_text: str) -> str | None:
    """The licences a machine-readable copyright file states, joined by AND; None when it is free text.

    That of `Files: *` comes first; the packaging's own (`Files: debian/*`) does not count.
    """
    stanzas = [_fields(stanza) for stanza in re.split(r"\n[ \t]*\n", copyright_text.replace("\r\n", "\n"))]
    if not any("copyright-format" in fields.get("format", "") or "dep5" in fields.get("format", "").lower()
               for fields in stanzas[:1]):  # fmt: skip
        return None
    names: list[str] = []
    for fields in sorted(stanzas, key=lambda fields: fields.get("files", "").split() != ["*"]):
        files = fields.get("files", "").split()
        name = fields.get("license", "").strip().split("\n")[0].strip()
        if files and name and not all(pattern.startswith("debian/") for pattern in files) and name not in names:
            names.append(name)
    if not names:
        return None
    rest = len(names) - _LICENCES_NAMED
    return " AND ".join(names[:_LICENCES_NAMED]) + (f" AND {rest} more" if rest > 0 else "")


def _documents(text: str, origin: str) -> Iterator[Record]:
    if not text.strip():
        yield Record("", origin)  # the stage counts it as empty
    for number, part in enumerate(cut_text(text)):
        yield Record(part, origin if number == 0 else f"{origin}#{number}")


def _fields(stanza: str) -> dict[str, str]:
    """Fields of a control-file stanza, by lower-case name; continuation lines are kept."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.split("\n"):
        if line[:1] in (" ", "\t") and name:
            fields[name] += "\n" + line.strip()
        elif ":" in line and not line.startswith("#"):
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def _package_licence(deb: Path) -> str | None:
    for member in package_members(deb, _COPYRIGHT):
        data = member.data
        if data is not None and member.path.endswith(".gz"):
            try:
                data = unpack_gzip(data)
            except (EOFError, zlib.error):
                data = None
        return stated_licences(data.decode("utf-8", "replace")) if data is not None else None
    return None


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def _cached(folder: Path, request: PackageRequest) -> Path | None:
    found = [deb for deb in sorted(folder.glob("*.deb")) if request.matches(deb)]
    return found[0] if found else None


def _listed(requests: Iterable[PackageRequest]) -> str:
    return ", ".join(f"'{request}'" for request in requests)


def _place_of(mirror: str, suite: str) -> str:
    return hashlib.sha256(f"{mirror} {suite}".encode()).hexdigest()[:16]


def _fetch_with_apt(missing: list[PackageRequest], target: Path, source_name: str) -> None:
    command = ["apt-get", "download", "--quiet=2", "-o", "Acquire::Retries=3", "-o", "APT::Sandbox::User=root"]
    command += [str(request) for request in missing]
    problem = f"source '{source_name}': {_listed(missing)} cannot be fetched"
    try:
        subprocess.run(command, check=True, cwd=target, capture_output=True, text=True, timeout=APT_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"{problem} within {APT_TIMEOUT_SECONDS:.0f} seconds.", _FIX_APT) from error
    except (subprocess.CalledProcessError, OSError) as error:
        stderr = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        lines = [line.removeprefix("E: ") for line in stderr.splitlines() if line.startswith("E: ")]
        raise SourceError(f"{problem}: {(lines or [stderr.strip()])[0].rstrip('.')}.", _FIX_APT) from error


def _fetch_from_mirror(source: DebianPackages, missing: list[PackageRequest], target: Path) -> None:
    """Fetch and verify packages through the archive's index (Packages.xz)."""
    index = f"{source.mirror}/dists/{source.suite}/{source.component}/binary-{source.architecture}/Packages.xz"
    packed = target / "Packages.xz"
    fetch(index, packed, source.name, settings=TransferSettings(maximum_bytes=MAXIMUM_INDEX_BYTES))
    entries = _index_entries(packed, {request.name for request in missing}, index)
    for request in missing:
        entry = _chosen_entry(entries, request, source.name, index)
        version, architecture = entry["version"], entry["architecture"]
        deb = target / f"{entry['package']}_{quote(version, safe='+.~-')}_{architecture}.deb"
        address = f"{source.mirror}/{quote(entry['filename'])}"
        fetch(address, deb, source.name)
        if _sha256(deb) != entry["sha256"]:
            raise SourceError(
                f"source '{source.name}': '{address}' does not have the SHA-256 of the archive's index.",
                "run again; if it stays so, use another `mirror`.",
            )


def _index_entries(packed: Path, names: set[str], index: str) -> list[dict[str, str]]:
    """The stanzas of the packages called `names`, read as a stream."""
    entries: list[dict[str, str]] = []
    stanza: list[str] = []
    size = 0
    try:
        with lzma.open(packed, "rt", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                size += len(line)
                if size > MAXIMUM_INDEX_BYTES:
                    raise EOFError(f"it unpacks to more than {MAXIMUM_INDEX_BYTES} bytes")
                if line.strip():
                    stanza.append(line.rstrip("\n"))
                    continue
                entries += _wanted_entry(stanza, names)
                stanza = []
    except (lzma.LZMAError, EOFError) as error:
        raise SourceError(
            f"the index '{index}' cannot be read: {error}.", "run again, or use another mirror."
        ) from error
    return entries + _wanted_entry(stanza, names)


def _wanted_entry(stanza: list[str], names: set[str]) -> list[dict[str, str]]:
    if not stanza or stanza[0].removeprefix("Package:").strip() not in names:
        return []
    fields = _fields("\n".join(stanza))
    needed = ("package", "version", "architecture", "filename", "sha256")
    is_safe = all(re.fullmatch(r"[A-Za-z0-9.+:~_/%-]+", fields.get(name, "")) for name in needed)
    return [fields] if is_safe and "/" not in fields["package"] + fields["version"] + fields["architecture"] else []


def _chosen_entry(
    entries: list[dict[str, str]], request: PackageRequest, source_name: str, index: str
) -> dict[str, str]:
    found = [
        entry for entry in entries if entry["package"] == request.name and request.version in (None, entry["version"])
    ]
    if len({entry["version"] for entry in found}) == 1:
        return found[0]
    versions = ", ".join(sorted(entry["version"] for entry in entries if entry["package"] == request.name))
    raise SourceError(
        f"source '{source_name}': '{index}' has {'several versions' if found else 'nothing'} for '{request}'.",
        f"name one of the versions {versions}." if versions else "correct the package's name, `suite` or `component`.",
    )


def _sha256(path: Path) -> str:
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_of(path: Path, size: int, modified: int) -> str:
    """Every part of a source asks again; a file that did not change is read once a process."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
