"""`https://` sources: one file by address, continued by range after an interruption, verified by checksum."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import httpx
from pydantic import Field

from infra.errors import SourceError
from infra.storage.local import sync_directory
from tasks.download.records import FieldChoice, Record, read_file
from tasks.download.sources.source import Source

_ATTEMPTS = 5
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416


class WebFile(Source):
    """One JSONL, CSV, Parquet or text file behind an http(s) address (`http://` is for local servers)."""

    sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="the file's SHA-256, verified when given"
    )
    fields: FieldChoice = Field(default=FieldChoice(), description="which fields of structured records hold the text")

    def pin(self, cache_directory: Path) -> str:
        return f"sha256:{_file_sha256(self._fetch(cache_directory))}"

    def records(self, cache_directory: Path) -> Iterator[Record]:
        path = self._fetch(cache_directory)
        yield from read_file(path, PurePosixPath(urlsplit(self.uri).path).name, self.fields)

    def _fetch(self, cache_directory: Path) -> Path:
        name = PurePosixPath(urlsplit(self.uri).path).name or "index.txt"
        target = cache_directory / "web" / hashlib.sha256(self.uri.encode()).hexdigest()[:16] / name
        if not target.is_file():
            download_file(self.uri, target, self.name)
        if self.sha256 is not None and _file_sha256(target) != self.sha256:
            target.unlink()
            raise SourceError(
                f"source '{self.name}': '{self.uri}' does not have the SHA-256 {self.sha256}.",
                "check `sha256`, or run again if the download was damaged; the bad file was removed.",
            )
        return target


def download_file(address: str, target: Path, source_name: str) -> None:
    """Download to `target`, continuing a `.part` file left by an interrupted attempt.

    Raises SourceError after five attempts without success, or at once when the server refuses.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    problem = ""
    for attempt in range(_ATTEMPTS):
        try:
            _continue_download(address, part)
            part.replace(target)
            sync_directory(target.parent)
            return
        except httpx.HTTPStatusError as error:
            problem = f"the server answered {error.response.status_code}"
            if error.response.is_client_error:
                break
        except httpx.HTTPError as error:
            problem = str(error) or type(error).__name__
            if isinstance(error, httpx.ConnectError) and not part.exists():
                break  # no network: say so now
        time.sleep(min(0.2 * 2**attempt, 5.0))
    raise SourceError(
        f"source '{source_name}': '{address}' cannot be downloaded: {problem}.",
        "check the address and the network and run again (what arrived is kept), or mark the source `optional`.",
    )


def _continue_download(address: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    # Without a content encoding, positions in the answer are positions in the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with httpx.stream("GET", address, headers=headers, timeout=_TIMEOUT, follow_redirects=True) as response:
        if have and response.status_code == _RANGE_NOT_SATISFIABLE:
            part.unlink()  # the file changed on the server, or was complete already: start over
            raise httpx.TransportError("the kept part does not fit the server's file")
        response.raise_for_status()
        continued = response.status_code == _PARTIAL_CONTENT and _range_start(response) == have
        with part.open("ab" if continued else "wb") as stream:
            # Written as it arrives: a block gathered first would be lost with the connection.
            for block in response.iter_raw():
                stream.write(block)
    _check_length(response, part, have if continued else 0)


def _range_start(response: httpx.Response) -> int:
    """First byte position of `Content-Range: bytes 100-199/200`, or -1."""
    span = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return int(span) if span.isdigit() else -1


def _check_length(response: httpx.Response, part: Path, offset: int) -> None:
    announced = response.headers.get("content-length")
    if announced is not None and part.stat().st_size != offset + int(announced):
        raise httpx.TransportError("the connection ended early")


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
