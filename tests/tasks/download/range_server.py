"""An HTTP server on loopback whose faults can be chosen, for transfers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class RangeServer(ThreadingHTTPServer):
    """Serves `content` at every path but /missing; what it does wrong is set before a test."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.tag: str | None = '"one"'
        self.last_modified: str | None = None
        self.has_ranges = True
        self.announces_length = True
        #: Answers to the next requests instead of content: (status, headers).
        self.refusals: list[tuple[int, dict[str, str]]] = []
        #: Bytes after which the next answers are cut off.
        self.cuts: list[int] = []
        self.block_bytes = 1 << 16
        self.pause_seconds = 0.0
        self.ranges: list[str | None] = []
        self.sent_bytes = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        if self.path.startswith("/missing"):
            self._refuse(404, {})
        elif server.refusals:
            self._refuse(*server.refusals.pop(0))
        else:
            self._answer(wanted)

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response_only(status)  # without a Date of our own
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, wanted: str | None) -> None:
        server, content = self.server, self.server.content
        condition = self.headers.get("If-Range")
        if condition is not None and condition not in (server.tag, server.last_modified):
            wanted = None
        start, stop = 0, len(content)
        is_part = wanted is not None and server.has_ranges
        if is_part:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else stop, stop)
            if start >= len(content):
                self._refuse(416, {"Content-Range": f"bytes */{len(content)}"})
                return
        self.send_response(206 if is_part else 200)
        if is_part:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        if server.tag is not None:
            self.send_header("ETag", server.tag)
        if server.last_modified is not None:
            self.send_header("Last-Modified", server.last_modified)
        if server.announces_length:
            self.send_header("Content-Length", str(stop - start))
        else:
            self.close_connection = True
        self.end_headers()
        self._send(content[start:stop])

    def _send(self, body: bytes) -> None:
        server = self.server
        cut = server.cuts.pop(0) if server.cuts and len(body) > 1 else len(body)
        try:
            for place in range(0, min(cut, len(body)), server.block_bytes):
                block = body[place : min(place + server.block_bytes, cut)]
                self.wfile.write(block)
                self.wfile.flush()
                server.sent_bytes += len(block)
                time.sleep(server.pause_seconds)
        except OSError:
            self.close_connection = True  # the client went away
        if cut < len(body):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@contextmanager
def serving(content: bytes) -> Iterator[RangeServer]:
    server = RangeServer(content)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def http_date(seconds: float) -> str:
    return formatdate(seconds, usegmt=True)
