"""A loopback HTTP proxy in front of an object store that does to requests what networks and busy servers do.

The proxy speaks real TCP: a cut connection is a reset socket, a slow body arrives slowly, a lost answer is a
request that the server has carried out. Each `Fault` picks its requests by method and by a part of the address,
and strikes on chosen occurrences, so that a test's faults are the same every time.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

_BLOCK_BYTES = 64 << 10
_HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class Fault:
    """What happens to which requests; usually one of the actions is set.

    status, code: answer so without asking the server (S3's error document with that code).
    method, contains, also_contains: which requests; `strikes` says which of them, counted from 0.
    cut_request_after: read so many bytes of the request's body, then reset the connection; the server sees nothing.
    lose_answer: have the server carry the request out, then reset the connection instead of answering.
    cut_response_after: send so many bytes of the answer's body, then reset the connection.
    truncate_to: pass a well-formed answer on with only so many bytes of its body.
    flip_byte: invert one byte of the answer's body.
    bytes_per_second: pass the answer's body on at this rate.
    repeat_page: answer a listing with the page before it.
    set_header: replace one header of the answer before passing it on.
    before, after: called before the request is passed on, and once it has been carried out (a race or a death, at
    its worst moment).
    """

    method: str = ""
    contains: str = ""
    also_contains: str = ""
    strikes: Callable[[int], bool] = lambda occurrence: occurrence == 0
    status: int = 0
    code: str = ""
    cut_request_after: int | None = None
    lose_answer: bool = False
    cut_response_after: int | None = None
    truncate_to: int | None = None
    flip_byte: int | None = None
    bytes_per_second: float | None = None
    repeat_page: bool = False
    set_header: tuple[str, str] | None = None
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    seen: int = 0
    struck: int = 0

    def takes(self, method: str, address: str) -> bool:
        """Whether this request is one of those to strike; counts the ones that match."""
        if self.method not in ("", method) or self.contains not in address or self.also_contains not in address:
            return False
        self.seen += 1
        if not self.strikes(self.seen - 1):
            return False
        self.struck += 1
        return True


def first(count: int) -> Callable[[int], bool]:
    """Strike the first `count` matching requests."""
    return lambda occurrence: occurrence < count


def every(period: int, offset: int = 0) -> Callable[[int], bool]:
    """Strike one matching request in `period`."""
    return lambda occurrence: occurrence % period == offset


def always(_: int) -> bool:
    """Strike every matching request."""
    return True


@dataclass
class FaultProxy:
    """The proxy; `endpoint` stands in for the server's."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _last_page: bytes = b""
    _server: ThreadingHTTPServer | None = None

    def __enter__(self) -> FaultProxy:
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, fault: Fault) -> Fault:
        """Put a fault in force and hand it back, for its counts."""
        with self._lock:
            self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """End all faults and forget the requests."""
        with self._lock:
            self.faults.clear()
            self.requests.clear()

    def fault_for(self, method: str, address: str) -> Fault | None:
        """The first fault that strikes this request; every matching fault counts it."""
        with self._lock:
            self.requests.append((method, address))
            striking = [fault for fault in self.faults if fault.takes(method, address)]
        return striking[0] if striking else None

    def page_before(self, page: bytes) -> bytes:
        """The listing page that was passed on last, `page` taking its place."""
        with self._lock:
            before, self._last_page = self._last_page, page
        return before or page


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up on purpose here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 120
    proxy: ClassVar[FaultProxy]

    def _serve(self) -> None:
        fault = self.proxy.fault_for(self.command, self.path)
        if fault is not None and fault.cut_request_after is not None:
            self.rfile.read(min(fault.cut_request_after, self._body_bytes()))
            if fault.before is not None:
                fault.before()
            return self._reset()
        body = self.rfile.read(self._body_bytes())
        if fault is not None and fault.status:
            headers = [("Content-Type", "application/xml"), *([fault.set_header] if fault.set_header else [])]
            return self._answer(fault.status, headers, _error_document(fault.code))
        if fault is not None and fault.before is not None:
            fault.before()
        status, headers, answer = self._ask(body)
        if fault is None:
            return self._answer(status, headers, answer)
        if fault.after is not None:
            fault.after()
        return self._answer_faulty(fault, status, headers, answer)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815

    def _body_bytes(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        address = urlsplit(self.proxy.upstream)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=120)
        with contextlib.closing(connection):
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "expect"}:
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()

    def _answer_faulty(self, fault: Fault, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        if fault.lose_answer:
            return self._reset()
        if fault.truncate_to is not None:
            body = body[: fault.truncate_to]
        if fault.flip_byte is not None:
            body = body[: fault.flip_byte] + bytes([body[fault.flip_byte] ^ 0xFF]) + body[fault.flip_byte + 1 :]
        if fault.repeat_page:
            body = self.proxy.page_before(body)
        if fault.set_header is not None:
            changed, value = fault.set_header
            headers = [(name, value if name.lower() == changed.lower() else old) for name, old in headers]
        cut = fault.cut_response_after
        return self._answer(status, headers, body, cut=cut, rate=fault.bytes_per_second)

    def _answer(
        self,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        cut: int | None = None,
        rate: float | None = None,
    ) -> None:
        if status == 200 and b"<ListBucketResult" in body[:400]:
            self.proxy.page_before(body)
        # send_response_only: the server's own Date and Server headers are passed on.
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() not in _HOP_HEADERS:
                self.send_header(name, value)
            elif name.lower() == "content-length" and self.command == "HEAD":
                length = value
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        for block in _blocks(body if cut is None else body[:cut]):
            self.wfile.write(block)
            if rate:
                self.wfile.flush()
                time.sleep(len(block) / rate)
        self.wfile.flush()
        if cut is not None:
            self._reset()

    def _reset(self) -> None:
        """Close with RST: the peer sees a broken connection, not an orderly end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Requests are kept in `FaultProxy.requests`."""


def _blocks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _BLOCK_BYTES):
        yield body[start : start + _BLOCK_BYTES]


def _error_document(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected</Message></Error>'.encode()
