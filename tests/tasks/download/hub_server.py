"""A small Hugging Face Hub on loopback: revisions, paged listings, redirects to another host, ranges and faults."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
REPOSITORY = "org/texts"


@dataclass
class Hub:
    """What the server holds, what it does wrong, and what it was asked."""

    files: dict[str, bytes]
    large: set[str]
    token: str = ""
    licence: object = "odc-by"
    faults: list[int | str] = field(default_factory=list)
    """Answers of the file host before it behaves: a status, or `cut` for half of the rest."""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    endpoint: str = ""
    files_host: str = ""

    def entry(self, path: str) -> dict[str, object]:
        data = self.files[path]
        git = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": git}
        if path in self.large:
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def asked_for(self, beginning: str) -> list[dict[str, str]]:
        return [headers for method, path, headers in self.requests if method == "GET" and path.startswith(beginning)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""

    def _answer(self, with_body: bool) -> None:
        address = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, address.path, headers))
        if address.path.startswith("/blobs/"):
            self._blob(unquote(address.path.removeprefix("/blobs/")), with_body)
        elif self.hub.token and headers.get("authorization") != f"Bearer {self.hub.token}":
            self._send(401, b'{"error": "Invalid credentials"}', with_body=with_body)
        elif address.path.startswith(f"/api/datasets/{REPOSITORY}/revision/"):
            self._info(address.path.rpartition("/")[2])
        elif address.path.startswith(f"/api/datasets/{REPOSITORY}/tree/{COMMIT}"):
            self._tree(parse_qs(address.query))
        elif address.path.startswith(f"/datasets/{REPOSITORY}/resolve/{COMMIT}/"):
            self._resolve(unquote(address.path.partition(f"{COMMIT}/")[2]), with_body)
        else:
            self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}, with_body)

    def _info(self, revision: str) -> None:
        if revision not in ("main", "v1", COMMIT):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        self._json({"id": REPOSITORY, "sha": COMMIT, "cardData": {"license": self.hub.licence}, "tags": []})

    def _tree(self, query: dict[str, list[str]]) -> None:
        """Two entries a page."""
        first = int(query.get("cursor", ["0"])[0])
        names = sorted(self.hub.files)
        entries = [self.hub.entry(name) for name in names[first : first + 2]]
        following = f"{self.hub.endpoint}/api/datasets/{REPOSITORY}/tree/{COMMIT}?recursive=true&cursor={first + 2}"
        more = {"Link": f'<{following}>; rel="next"'} if first + 2 < len(names) else {}
        self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json", **more})

    def _resolve(self, path: str, with_body: bool) -> None:
        if path not in self.hub.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
            return
        entry = self.hub.entry(path)
        headers = {"X-Repo-Commit": COMMIT}
        if path not in self.hub.large:
            self._send(200, self.hub.files[path], headers | {"ETag": f'"{entry["oid"]}"'}, with_body)
            return
        sha256 = hashlib.sha256(self.hub.files[path]).hexdigest()
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(entry["size"])}
        self._send(302, b"", headers | {"Location": f"{self.hub.files_host}/blobs/{path}"}, with_body)

    def _blob(self, path: str, with_body: bool) -> None:
        data = self.hub.files[path]
        fault = self.hub.faults.pop(0) if self.hub.faults and with_body else None
        if isinstance(fault, int):
            self._send(fault, b"", {"Retry-After": "0"} if fault == 429 else {})
            return
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        body = data[start:]
        span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if wanted else {}
        cut = len(body) // 2 if fault == "cut" else None
        self._send(206 if wanted else 200, body, {"ETag": '"blob"', "Accept-Ranges": "bytes"} | span, with_body, cut)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        with_body: bool = True,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


@contextmanager
def running_hub(files: dict[str, bytes], large: set[str]) -> Iterator[Hub]:
    """The Hub and, on another port, the host its large files lie on."""
    hub = Hub(files, large)
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    hub.endpoint, hub.files_host = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    # Another host name, so that credentials must not follow the redirect.
    hub.files_host = hub.files_host.replace("127.0.0.1", "localhost")
    yield hub
    for server in servers:
        server.shutdown()
        server.server_close()
