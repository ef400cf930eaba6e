"""`https://` sources continue by range, verify, and fail clearly (against a loopback server)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import SourceError
from tasks.download.sources.web import WebFile
from tests.tasks.download.range_server import RangeServer, serving

CONTENT = b"".join(b'{"text": "line %d"}\n' % number for number in range(5000))


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with serving(CONTENT) as running:
        yield running


def address(server: RangeServer, name: str = "data.jsonl") -> str:
    return f"{server.address}/{name}"


def test_records_are_read_once_from_the_server(server: RangeServer, tmp_path: Path) -> None:
    source = WebFile(name="web", uri=address(server), sha256=hashlib.sha256(CONTENT).hexdigest())
    assert source.pin(tmp_path).startswith("sha256:")
    assert sum(1 for _ in source.records(tmp_path)) == 5000
    assert len(server.ranges) == 2  # the first byte, to learn of the rest; the rest


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
