"""Child processes that leave nothing behind: started in a session of their own, watched, and killed as a tree.

Three facts shape this module. A shell's `command &` starts its children with SIGINT ignored, and Prefect's
worker turns SIGTERM into SIGINT, so a child must get SIGINT's default back. torchrun's ranks are leaders of
sessions of their own, so killing a process group misses them. Process ids are reused, so a process is known
by its id and its start time together.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from infra.errors import PipelineError

EVENT_PREFIX = "@@"
"""A line of a child's output that starts so is an event: the rest of the line is one JSON object."""

LAST_LINES_KEPT = 30
# The kernel rounds a start time to its clock tick, and psutil adds the boot time, which can drift.
SAME_START_TOLERANCE_SECONDS = 1.0
POLL_SECONDS = 1.0

_PR_SET_PDEATHSIG = 1
# Resolved before any fork: between fork and exec only calls that take no lock are safe.
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


class ChildFailed(PipelineError):
    """A child process ended with a non-zero exit code; a negative code is the signal that ended it."""

    def __init__(self, command: Sequence[str], exit_code: int, last_lines: Sequence[str]) -> None:
        ending = f"was ended by signal {-exit_code}" if exit_code < 0 else f"exited with code {exit_code}"
        tail = "\n".join(last_lines)
        super().__init__(
            f"`{' '.join(command[:4])}` {ending}. Its last lines:\n{tail}\n",
            "read the lines above; the run resumes from its last checkpoint when started again.",
        )
        self.exit_code = exit_code
        self.last_lines = list(last_lines)


class ChildStalled(PipelineError):
    """A child process wrote nothing for longer than it was allowed to."""

    def __init__(self, command: Sequence[str], stall_seconds: float, last_lines: Sequence[str]) -> None:
        tail = "\n".join(last_lines)
        super().__init__(
            f"`{' '.join(command[:4])}` wrote nothing for {stall_seconds:.0f} seconds and was killed. "
            f"Its last lines:\n{tail}\n",
            "look for a hang in the lines above, or allow a longer silence.",
        )
        self.last_lines = list(last_lines)


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that cannot be mistaken for a later one with the same id."""

    pid: int
    create_time: float

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The identity of a running process, or None when there is none with this id."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    def process(self) -> psutil.Process | None:
        """The process itself while it runs; None once it has ended, is a zombie, or its id was reused."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.create_time) > SAME_START_TOLERANCE_SECONDS:
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.NoSuchProcess:
            return None

    def is_alive(self) -> bool:
        return self.process() is not None

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def child_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with `changes`, and this interpreter's commands first on PATH.

    Calling `.venv/bin/python` without activating the environment leaves ninja, torchrun and deepspeed unfound.
    """
    environment = {**os.environ, **(changes or {})}
    scripts = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([scripts, environment.get("PATH", os.defpath)])
    return environment


def start_child(
    command: Sequence[str],
    *,
    log_path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    dies_with_parent: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a child in its own session, with its output appended to `log_path` or, without one, on a pipe.

    Call from a thread that outlives the child: the kernel's death signal follows the thread that forked.
    `environment` is the complete environment (see `child_environment`).

    Raises:
        FileNotFoundError: the command does not exist.
    """
    before_exec = _before_exec(os.getpid(), dies_with_parent)
    with contextlib.ExitStack() as stack:
        output: BinaryIO | int = subprocess.PIPE
        if log_path is not None:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            output = stack.enter_context(log_path.open("ab"))
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment) if environment is not None else child_environment(),
            cwd=cwd,
            start_new_session=True,
            preexec_fn=before_exec,
        )


def _before_exec(parent_pid: int, dies_with_parent: bool) -> Callable[[], None]:
    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if dies_with_parent and _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
            if os.getppid() != parent_pid:  # the parent died before the call above: nobody would tell us
                os._exit(1)

    return prepare


def stop_tree(pid: int, grace_seconds: float = 20.0) -> None:
    """End a process and all its descendants, whatever sessions they are in: SIGTERM, then SIGKILL.

    Descendants are listed before the first signal, because a dead parent's children can no longer be found.
    A process that is already gone is no error.
    """
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    stop_processes(tree, grace_seconds)


def stop_processes(processes: Iterable[psutil.Process], grace_seconds: float = 20.0) -> None:
    """SIGTERM to each process, then SIGKILL to those (and their new children) still alive after the grace."""
    remaining = _signal_all(list(processes), psutil.Process.terminate)
    _, remaining = psutil.wait_procs(remaining, timeout=grace_seconds)
    late_children = [child for process in remaining for child in _children_of(process)]
    remaining = _signal_all([*remaining, *late_children], psutil.Process.kill)
    psutil.wait_procs(remaining, timeout=grace_seconds)


def _signal_all(processes: list[psutil.Process], send: Callable[[psutil.Process], None]) -> list[psutil.Process]:
    reached = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            send(process)
            reached.append(process)
    return reached


def _children_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def processes_with_environment(name: str, value: str) -> list[psutil.Process]:
    """The processes of this user whose environment holds `name=value`, this process and its ancestors excepted."""
    own = psutil.Process()
    spared = {own.pid, *(parent.pid for parent in own.parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid in spared:
            continue
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def run_streaming(
    command: Sequence[str],
    on_line: Callable[[str], None],
    on_event: Callable[[dict[str, Any]], None] | None = None,
    stall_seconds: float | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    grace_seconds: float = 20.0,
    watch: Callable[[], None] | None = None,
    patience: Mapping[type[Exception], float] | None = None,
) -> None:
    """Run a child to its end, handing over its output line by line; its whole tree is gone when this returns.

    A line `@@{json}` goes to `on_event` as a dictionary, every other line to `on_line`. This thread wakes at
    least once a second, so that Prefect's cancellation and task timeouts, which arrive as signals or
    asynchronous exceptions, take effect. `stall_seconds` bounds the silence between two lines. `watch` is called
    about once a second; what it raises ends the child. A child that is ended gets SIGTERM and `grace_seconds`, or, for
    an error of a type in `patience`, so many seconds, until it is killed.

    Raises:
        ChildFailed: a non-zero exit code.
        ChildStalled: no line for `stall_seconds`.
    """
    child = start_child(command, environment=environment, cwd=cwd)
    last_lines: deque[str] = deque(maxlen=LAST_LINES_KEPT)
    try:
        _hand_over_lines(child, command, on_line, on_event, stall_seconds, last_lines, watch)
        exit_code = _wait_awake(child)
    except Exception as error:
        longer = [seconds for kind, seconds in (patience or {}).items() if isinstance(error, kind)]
        grace_seconds = max([grace_seconds, *longer])
        raise
    finally:
        _stop_what_is_left(child, grace_seconds)
    if exit_code != 0:
        raise ChildFailed(command, exit_code, last_lines)


def _hand_over_lines(
    child: subprocess.Popen[bytes],
    command: Sequence[str],
    on_line: Callable[[str], None],
    on_event: Callable[[dict[str, Any]], None] | None,
    stall_seconds: float | None,
    last_lines: deque[str],
    watch: Callable[[], None] | None,
) -> None:
    lines: queue.Queue[str | None] = queue.Queue(maxsize=10_000)
    threading.Thread(target=_read_lines, args=(child, lines), daemon=True).start()
    last_output = last_watch = time.monotonic()
    while True:
        if watch is not None and time.monotonic() - last_watch >= POLL_SECONDS:
            watch()
            last_watch = time.monotonic()
        try:
            line = lines.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if stall_seconds is not None and time.monotonic() - last_output > stall_seconds:
                raise ChildStalled(command, stall_seconds, last_lines) from None
            # A grandchild that outlives the child keeps the pipe open; the child's end is the end.
            if child.poll() is not None:
                return
            continue
        if line is None:
            return
        last_output = time.monotonic()
        event = _event_in(line)
        if event is not None and on_event is not None:
            on_event(event)
        elif event is None:
            last_lines.append(line)
            on_line(line)


def _read_lines(child: subprocess.Popen[bytes], lines: queue.Queue[str | None]) -> None:
    assert child.stdout is not None
    with contextlib.suppress(ValueError, OSError):  # closed under us once the child's tree was stopped
        for raw in child.stdout:
            lines.put(raw.decode("utf-8", errors="replace").rstrip("\r\n"))
    lines.put(None)


def _event_in(line: str) -> dict[str, Any] | None:
    """The event in a line; a line that only looks like one stays a log line."""
    if not line.startswith(EVENT_PREFIX):
        return None
    try:
        event = json.loads(line[len(EVENT_PREFIX) :])
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) else None


def _wait_awake(child: subprocess.Popen[bytes]) -> int:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=POLL_SECONDS)


def _stop_what_is_left(child: subprocess.Popen[bytes], grace_seconds: float) -> None:
    if child.poll() is None:
        stop_tree(child.pid, grace_seconds)
    else:
        # The child is gone, and with it the link to its descendants, except by the session they share.
        stop_processes(_session_members(child.pid), grace_seconds)
    child.wait()


def _session_members(session_id: int) -> list[psutil.Process]:
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if process.pid != session_id and os.getsid(process.pid) == session_id:
                members.append(process)
    return members
