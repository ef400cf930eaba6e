"""JSON over HTTP: a busy server is asked again, a refusal is passed on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from infra.stack import web


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[int]]]:
    """Answers with the statuses of the list in turn, 200 when it is empty."""
    monkeypatch.setattr(web, "_PAUSES_SECONDS", (0.01, 0.01))
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(statuses.pop(0) if statuses else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"detail": "as asked"}).encode())

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}/", statuses
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_a_busy_server_is_asked_again(server: tuple[str, list[int]]) -> None:
    url, statuses = server
    statuses += [503, 503]
    assert web.request_json("POST", url, {"x": 1}) == {"detail": "as asked"}


def test_a_server_that_stays_busy_is_reported(server: tuple[str, list[int]]) -> None:
    url, statuses = server
    statuses += [503, 503, 503]
    with pytest.raises(web.ServerRefused, match="503"):
        web.request_json("POST", url, {})


def test_a_refusal_is_not_repeated(server: tuple[str, list[int]]) -> None:
    url, statuses = server
    statuses += [409, 200]
    with pytest.raises(web.ServerRefused, match="as asked"):
        web.request_json("POST", url, {})
    assert statuses == [200]
