"""A place to harm, and machines that cannot shut code in."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psutil
import pytest

from tasks.evaluation.code_execution import sandbox_problem
from tests.tasks.evaluation.code_execution.outside import PRECIOUS, Outside

_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def sandboxed() -> None:
    """Skips where code cannot be shut in, and says why."""
    problem = sandbox_problem()
    if problem is not None:
        pytest.skip(f"no sandbox here: {problem}")


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    if sys.platform != "linux":
        pytest.skip("orphans are adopted on Linux only")
    directory = tmp_path / "outside"
    directory.mkdir()
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), None, None, None)
    victim = subprocess.Popen(["sleep", "600"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        children = {child.pid for child in psutil.Process().children(recursive=True)}
        place = Outside(directory, victim, listener, children)
        place.precious.write_text(PRECIOUS)
        place.precious.chmod(0o640)
        os.utime(place.precious, (0, 0))

        def note(number: int, _: FrameType | None) -> None:
            place.signals.append(number)

        handler_before = signal.signal(signal.SIGUSR1, note)
        yield place
        signal.signal(signal.SIGUSR1, handler_before)
    victim.kill()
    victim.wait()
    for process in place.left_over():
        process.kill()
        process.wait()
    prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(0), None, None, None)
