"""`https://` sources continue by range, verify, and fail clearly (against a loopback server)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.errors import SourceError
from tasks.download.sources.web import WebFile, download_file

CONTENT = b"".join(b'{"text": "line %d"}\n' % number for number in range(5000))


class RangeServer(ThreadingHTTPServer):
    """Serves CONTENT with range support; `cut` bytes and then a closed connection for the first answers."""

    cuts: list[int]
    ranges: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = CONTENT[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.wfile.write(body[:cut])
        if cut < len(body):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[RangeServer]:
    running = RangeServer(("127.0.0.1", 0), Handler)
    running.cuts, running.ranges = [], []
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def address(server: RangeServer, name: str = "data.jsonl") -> str:
    return f"http://127.0.0.1:{server.server_port}/{name}"


def test_an_interrupted_download_continues_where_it_stopped(server: RangeServer, tmp_path: Path) -> None:
    server.cuts = [1000, 30_000]
    download_file(address(server), tmp_path / "data.jsonl", "web")
    assert (tmp_path / "data.jsonl").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", "bytes=31000-"]
    assert not (tmp_path / "data.jsonl.part").exists()


def test_records_are_read_once_from_the_server(server: RangeServer, tmp_path: Path) -> None:
    source = WebFile(name="web", uri=address(server), sha256=hashlib.sha256(CONTENT).hexdigest())
    assert source.pin(tmp_path).startswith("sha256:")
    assert sum(1 for _ in source.records(tmp_path)) == 5000
    assert len(server.ranges) == 1


def test_a_wrong_checksum_is_refused_and_not_cached(server: RangeServer, tmp_path: Path) -> None:
    source = WebFile(name="web", uri=address(server), sha256="0" * 64)
    with pytest.raises(SourceError, match="does not have the SHA-256"):
        source.pin(tmp_path)
    assert not list(tmp_path.rglob("data.jsonl"))


def test_a_refusal_is_not_repeated(server: RangeServer, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'web'.*answered 404"):
        WebFile(name="web", uri=address(server, "missing.jsonl")).pin(tmp_path)


def test_no_server_at_all_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be downloaded"):
        WebFile(name="web", uri="http://127.0.0.1:9/x.jsonl").pin(tmp_path)
