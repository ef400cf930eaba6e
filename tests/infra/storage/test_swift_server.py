"""The object store under test leaves nothing behind, however its session ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.swift_server import why_not

ROOT = Path(__file__).parents[3]
SESSION = """
import sys, time
from pathlib import Path
from tests.support.swift_server import SwiftServer
print(SwiftServer.start(Path(sys.argv[1])).process.pid, flush=True)
time.sleep(600)
"""


def test_the_servers_die_with_a_killed_session(tmp_path: Path) -> None:
    reason = why_not(tmp_path)
    if reason is not None:
        pytest.skip(f"OpenStack Swift cannot run here: {reason}")
    session = subprocess.Popen(
        [sys.executable, "-c", SESSION, str(tmp_path)],
        stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert session.stdout is not None
    launcher = psutil.Process(int(session.stdout.readline()))
    servers = launcher.children(recursive=True)
    assert len(servers) >= 4
    session.send_signal(signal.SIGKILL)
    session.wait()
    deadline = time.monotonic() + 20
    while any(_runs(process) for process in [launcher, *servers]):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_file_system_without_extended_attributes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    assert "keeps no user extended attributes (Operation not supported)" in str(why_not(tmp_path))
