"""Transfers against a real server on loopback that cuts, refuses, changes, stalls and lies."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.errors import SourceError
from tasks.download.progress import Throughput
from tasks.download.transfer import TransferSettings, fetch
from tests.tasks.download.range_server import RangeServer, http_date, serving

CONTENT = random.Random(1).randbytes(300_000)
QUICK = TransferSettings(range_bytes=50_000, back_off_seconds=0.01, attempts=4, read_timeout_seconds=5.0)


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with serving(CONTENT) as running:
        yield running


def fetched(server: RangeServer, folder: Path, settings: TransferSettings = QUICK, **more: object) -> bytes:
    fetch(f"{server.address}/data.bin", folder / "data.bin", "web", settings=settings, **more)  # type: ignore[arg-type]
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == ["data.bin"]
    return (folder / "data.bin").read_bytes()


def test_a_large_file_comes_in_ranges(server: RangeServer, tmp_path: Path) -> None:
    seen: list[Throughput] = []
    assert fetched(server, tmp_path, observer=seen.append, sha256=hashlib.sha256(CONTENT).hexdigest()) == CONTENT
    assert server.ranges[0] == "bytes=0-0"
    assert sorted(server.ranges[1:]) == sorted(f"bytes={n * 50_000}-{n * 50_000 + 49_999}" for n in range(6))
    assert (seen[-1].done_bytes, seen[-1].total_bytes, seen[-1].eta_seconds) == (300_000, 300_000, 0.0)
    assert "0.3 of 0.3 MB" in seen[-1].describe()


def test_cut_connections_continue_at_the_byte(server: RangeServer, tmp_path: Path) -> None:
    server.cuts = [10_000, 1, 49_999, 0, 20_000]
    assert fetched(server, tmp_path, replace(QUICK, connections=1)) == CONTENT
    assert "bytes=10000-49999" in server.ranges
    assert "bytes=10001-49999" in server.ranges


def test_no_more_than_the_missing_ranges_are_fetched_after_a_failure(server: RangeServer, tmp_path: Path) -> None:
    server.cuts = [50_000, 50_000, 0, 0, 0, 0]
    with pytest.raises(SourceError, match=r"'web'.*cannot be downloaded.*run again \(what arrived is kept\)"):
        fetched(server, tmp_path, replace(QUICK, connections=1))
    server.ranges.clear()
    assert fetched(server, tmp_path, replace(QUICK, connections=1)) == CONTENT
    assert server.ranges == [f"bytes={n * 50_000}-{n * 50_000 + 49_999}" for n in range(2, 6)]


def test_retry_after_is_honoured_by_the_servers_clock(server: RangeServer, tmp_path: Path) -> None:
    # The date lies forty years back for us; for the server it is one second away.
    server.refusals = [
        (503, {"Retry-After": "1"}),
        (429, {"Retry-After": http_date(500_000_001.0), "Date": http_date(500_000_000.0)}),
    ]
    started = time.monotonic()
    assert fetched(server, tmp_path) == CONTENT
    assert time.monotonic() - started >= 1.9


def test_a_server_that_stays_down_is_given_up(server: RangeServer, tmp_path: Path) -> None:
    server.refusals = [(503, {})] * 50
    with pytest.raises(SourceError, match="the server answered 503"):
        fetched(server, tmp_path)
    assert len(server.ranges) == QUICK.attempts


def test_a_file_that_changes_between_attempts_is_begun_anew(server: RangeServer, tmp_path: Path) -> None:
    server.cuts = [50_000, 0, 0, 0, 0]
    with pytest.raises(SourceError):
        fetched(server, tmp_path, replace(QUICK, connections=1))
    server.content, server.tag = CONTENT[::-1], '"two"'
    assert fetched(server, tmp_path) == CONTENT[::-1]


def test_a_file_that_became_shorter_is_begun_anew(server: RangeServer, tmp_path: Path) -> None:
    server.cuts = [50_000, 0, 0, 0, 0]
    with pytest.raises(SourceError):
        fetched(server, tmp_path, replace(QUICK, connections=1))
    server.content = CONTENT[:40_000]  # under the same tag: the range beyond the end tells
    assert fetched(server, tmp_path) == CONTENT[:40_000]


@pytest.mark.parametrize("fault", ["no ranges", "no validator", "weak tag", "no length"])
def test_servers_that_can_do_less_are_read_in_one_go(server: RangeServer, tmp_path: Path, fault: str) -> None:
    server.has_ranges = fault != "no ranges"
    server.tag = {"no validator": None, "weak tag": 'W/"x"'}.get(fault, '"one"')
    server.announces_length = fault != "no length"
    assert fetched(server, tmp_path) == CONTENT


def test_a_whole_file_that_is_cut_off_is_asked_for_again(server: RangeServer, tmp_path: Path) -> None:
    server.has_ranges = False
    server.cuts = [1000, 200_000]
    assert fetched(server, tmp_path) == CONTENT
    assert len(server.ranges) == 3


def test_the_date_of_the_last_change_validates_too(server: RangeServer, tmp_path: Path) -> None:
    server.tag, server.last_modified = None, http_date(1e9)
    assert fetched(server, tmp_path) == CONTENT
    assert len(server.ranges) == 7


def test_an_empty_file_is_a_file(server: RangeServer, tmp_path: Path) -> None:
    server.content = b""
    assert fetched(server, tmp_path) == b""


def test_a_slow_connection_is_closed_and_opened_anew(server: RangeServer, tmp_path: Path) -> None:
    server.block_bytes, server.pause_seconds = 100, 0.05
    settings = replace(QUICK, connections=1, slowest_bytes_per_second=1e6, slow_window_seconds=0.2, attempts=2)

    def recover(throughput: Throughput) -> None:
        if len(server.ranges) > 2:  # the first range is being asked for again
            server.block_bytes, server.pause_seconds = 1 << 16, 0.0

    assert fetched(server, tmp_path, settings, observer=recover) == CONTENT
    assert len(server.ranges) > 7


def test_too_large_a_file_is_refused_before_it_fills_the_disk(server: RangeServer, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="larger than the 1000 bytes allowed"):
        fetched(server, tmp_path, replace(QUICK, maximum_bytes=1000))
    server.has_ranges = server.announces_length = False
    with pytest.raises(SourceError, match="larger than the 100000 bytes allowed"):
        fetched(server, tmp_path, replace(QUICK, maximum_bytes=100_000))
    assert not list(tmp_path.glob("data*"))


def test_a_rate_limit_holds(server: RangeServer, tmp_path: Path) -> None:
    started = time.monotonic()
    assert fetched(server, tmp_path, replace(QUICK, most_bytes_per_second=300_000.0)) == CONTENT
    assert time.monotonic() - started >= 0.7


def test_an_observer_can_stop_a_transfer_that_continues_later(server: RangeServer, tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    def cancel(throughput: Throughput) -> None:
        if throughput.done_bytes:
            raise Cancelled

    server.block_bytes, server.pause_seconds = 5_000, 0.05
    with pytest.raises(Cancelled):
        fetched(server, tmp_path, observer=cancel)
    server.block_bytes, server.pause_seconds = 1 << 16, 0.0
    assert fetched(server, tmp_path) == CONTENT


def test_a_wrong_checksum_leaves_nothing_behind(server: RangeServer, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'web'.*does not have the SHA-256 0000"):
        fetched(server, tmp_path, sha256="0" * 64)
    assert not list(tmp_path.glob("data*"))


def test_a_killed_transfer_continues_with_the_ranges_it_lacks(server: RangeServer, tmp_path: Path) -> None:
    server.block_bytes, server.pause_seconds = 5_000, 0.01
    script = (
        "import sys; from pathlib import Path; from tasks.download.transfer import *;"
        "fetch(sys.argv[1], Path(sys.argv[2]), 'web', settings=TransferSettings(range_bytes=20_000, connections=2))"
    )
    target = tmp_path / "data.bin"
    command = [sys.executable, "-c", script, f"{server.address}/data.bin", str(target)]
    for threshold in (60_000, 140_000):
        child = subprocess.Popen(command, cwd=Path(__file__).parents[3])
        deadline = time.monotonic() + 30
        while server.sent_bytes < threshold and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert not target.exists()
    server.pause_seconds = 0.0
    fetch(f"{server.address}/data.bin", target, "web", settings=QUICK)
    assert target.read_bytes() == CONTENT
    assert server.sent_bytes < 2 * len(CONTENT)
