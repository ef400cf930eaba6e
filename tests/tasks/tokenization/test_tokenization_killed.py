"""Killed with its workers running, at moments that differ from run to run: the shards are an undisturbed run's."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

CHILD = Path(__file__).with_name("tokenizing_child.py")
KILLS = 6


def start(directory: Path, root: Path, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), str(directory), str(root), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def checksum_of(child: subprocess.Popen[str]) -> str:
    output, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    return output.strip().splitlines()[-1]


def progress(root: Path) -> int:
    """Files and markers that are there: a clock that runs as fast as the stage does."""
    return sum(1 for path in root.rglob("*") if path.is_file())


@pytest.mark.slow
def test_kills_change_no_byte_and_leave_no_worker(tmp_path: Path) -> None:
    seed = random.randrange(10**9)
    generator = random.Random(seed)
    expected = checksum_of(start(tmp_path, tmp_path / "undisturbed", 1))
    files = progress(tmp_path / "undisturbed")
    root = tmp_path / "disturbed"
    root.mkdir()
    killed = 0
    for kill in range(KILLS):
        # Each kill waits for a further part of the work, then for a random moment within it.
        due = int(files * 1.5 * (kill + generator.random()) / KILLS)
        child = start(tmp_path, root, 2)
        workers: list[psutil.Process] = []
        while child.poll() is None and progress(root) < due:
            time.sleep(0.002)
        if child.poll() is None:
            workers = psutil.Process(child.pid).children(recursive=True)
            killed += _kill(child, workers, "worker" if kill % 2 else "parent")
        child.communicate(timeout=120)
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive, f"seed {seed}"
    assert killed >= KILLS // 3, f"seed {seed}: only {killed} kills met a running stage"
    assert checksum_of(start(tmp_path, root, 2)) == expected, f"seed {seed}"


def _kill(child: subprocess.Popen[str], workers: list[psutil.Process], victim: str) -> int:
    """Kill the parent, or one of its encoding workers when there is one yet."""
    spawned = [worker for worker in workers if "spawn_main" in " ".join(_command_line(worker))]
    if victim == "parent" or not spawned:
        child.send_signal(signal.SIGKILL)
        return 1
    try:
        spawned[0].kill()
    except psutil.NoSuchProcess:
        return 0
    return 1


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
