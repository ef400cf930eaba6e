"""Children are streamed, watched and killed with all their descendants."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra.processes import (
    ChildFailed,
    ChildStalled,
    ProcessIdentity,
    processes_with_environment,
    run_streaming,
    start_child,
    stop_tree,
)

# A child whose own child is the leader of another session, as torchrun's ranks are, and ignores SIGTERM.
STUBBORN_TREE = """
import subprocess, sys, time
ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
code = ignore + "print('up', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def wait_until_gone(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_lines_and_events_arrive_in_order_and_apart() -> None:
    lines: list[str] = []
    events: list[dict[str, object]] = []
    code = """print("first"); print('@@{"step": 1, "loss": 0.5}'); print("@@not json"); print("zwölf")"""
    run_streaming(python(code), lines.append, events.append)
    assert lines == ["first", "@@not json", "zwölf"]
    assert events == [{"step": 1, "loss": 0.5}]


def test_a_failure_carries_the_exit_code_and_the_last_lines() -> None:
    with pytest.raises(ChildFailed) as caught:
        run_streaming(python("print('CUDA out of memory'); raise SystemExit(7)"), lambda line: None)
    assert caught.value.exit_code == 7
    assert "CUDA out of memory" in str(caught.value)


def test_a_death_by_signal_is_told_as_such() -> None:
    with pytest.raises(ChildFailed, match="signal 9"):
        run_streaming(python("import os; os.kill(os.getpid(), 9)"), lambda line: None)


def test_silence_is_a_stall_and_the_child_is_killed() -> None:
    pids: list[int] = []
    code = "import os, time; print(os.getpid()); time.sleep(600)"
    with pytest.raises(ChildStalled):
        run_streaming(python(code), lambda line: pids.append(int(line)), stall_seconds=0.5)
    assert wait_until_gone(pids[0])


def test_an_interruption_kills_the_whole_tree_across_sessions() -> None:
    pids: list[int] = []

    def cancel(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_streaming(python(STUBBORN_TREE), cancel, grace_seconds=0.5)
    assert wait_until_gone(pids[0])


def test_what_a_finished_child_left_running_in_its_session_is_stopped() -> None:
    pids: list[int] = []
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid)"
    run_streaming(python(code), lambda line: pids.append(int(line)), grace_seconds=2)
    assert wait_until_gone(pids[0])


def test_stop_tree_reaches_a_descendant_that_ignores_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = start_child(python(STUBBORN_TREE), log_path=log)
    while not log.read_text().strip():
        time.sleep(0.05)
    grandchild = int(log.read_text())
    stop_tree(child.pid, grace_seconds=0.5)
    child.wait(timeout=5)
    assert wait_until_gone(grandchild)


def test_stopping_what_is_gone_is_no_error() -> None:
    child = start_child(["true"])
    child.wait()
    stop_tree(child.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal of a parent is Linux's")
def test_a_child_dies_with_a_killed_parent() -> None:
    code = """
import time
from infra.processes import start_child
print(start_child(["sleep", "600"]).pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen(python(code), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child_pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert wait_until_gone(child_pid)


def test_a_child_gets_sigint_back_from_a_parent_that_ignores_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = start_child(["sleep", "600"])
    finally:
        signal.signal(signal.SIGINT, before)
    os.kill(child.pid, signal.SIGINT)
    assert child.wait(timeout=5) == -signal.SIGINT


def test_a_reused_process_id_is_another_process() -> None:
    own = ProcessIdentity.of(os.getpid())
    assert own is not None
    assert own.is_alive()
    assert not ProcessIdentity(own.pid, own.create_time - 100).is_alive()


def test_processes_are_found_by_a_mark_in_their_environment() -> None:
    mark = f"mark-{os.getpid()}"
    child = start_child(["sleep", "600"], environment={**os.environ, "SAM2_TEST_MARK": mark})
    try:
        found = processes_with_environment("SAM2_TEST_MARK", mark)
        assert [process.pid for process in found] == [child.pid]
    finally:
        stop_tree(child.pid)
        child.wait()


SLOW_TO_END = """
import signal, sys, time
def end(*_):
    time.sleep(1.5)
    print("saved", flush=True)
    open(sys.argv[1], "w").close()
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("raised", "saves"), [(KeyError, True), (ValueError, False)])
def test_a_child_gets_longer_to_end_for_the_errors_that_say_so(
    raised: type[Exception], saves: bool, tmp_path: Path
) -> None:
    def end(line: str) -> None:
        raise raised

    command = [*python(SLOW_TO_END), str(tmp_path / "saved")]
    with pytest.raises(raised):
        run_streaming(command, end, grace_seconds=0.2, patience={LookupError: 30.0})
    assert (tmp_path / "saved").exists() == saves
