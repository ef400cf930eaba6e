"""Runs programs that a model wrote, each in a process of its own that can compute and nothing else.

Each program gets a fresh interpreter with only the standard library, an empty directory, an empty environment, and no
file of ours open. Before it is read as code, the process gives up its privileges, takes its resource limits and a
filter of system calls (`system_calls`), and where the kernel has Landlock confines what it can read to what
Python needs (`landlock`). The processes cannot fork, so there is never more to end than the one.

A program passes when it runs past its last statement and ends with status 0. The first is told by a random token
that the wrapper keeps in a local variable and writes to a pipe afterwards: `sys.exit(0)`, `os._exit(0)`, a
caught exception or anything printed do not pass. It does not protect from a program written against this very wrapper,
which can find the variable by walking the interpreter's frames; nor from one that makes its own tests pass, say by
returning an object that equals everything. Such a program deceives the score and nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import secrets
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import PipelineError
from tasks.evaluation.code_execution import landlock
from tasks.evaluation.code_execution.config import DETAIL_CHARACTERS, Limits, Outcome, Verdict
from tasks.evaluation.code_execution.seccomp import filter_program
from tasks.evaluation.code_execution.system_calls import MACHINES

_WRAPPER = Path(__file__).with_name("confined_start.py")
#: Only the standard library, no byte code written, UTF-8 whatever the locale; the same order of sets every time.
_INTERPRETER_OPTIONS = ("-s", "-S", "-P", "-B", "-X", "utf8")
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
_PIDFD_OPEN = 434
_READY = b"ready\n"
_START_SECONDS = 60.0
_REPORT_BYTES = 8192
_KEPT_OUTPUT_BYTES = 4096
_NOT_SAFE = "Generated code cannot be run safely here"
_FIX = "evaluate without HumanEval, or on Linux (x86_64 or aarch64, 5.3 or newer) where seccomp filters are allowed."
_PROBE = """
import decimal, hashlib, random
try:
    open("probe", "w")
except PermissionError:
    pass
else:
    raise RuntimeError("a file could be written")
"""


class SandboxError(PipelineError):
    """Generated code cannot be run safely here."""


@functools.cache
def sandbox_problem() -> str | None:
    """Why generated code cannot be run safely on this machine, or None; found out by running a program."""
    if sys.platform != "linux":
        return f"seccomp filters are Linux's, and this is {sys.platform}"
    if platform.machine() not in MACHINES or struct.calcsize("P") != 8:
        return f"no filter is written for {platform.machine()} with {8 * struct.calcsize('P')}-bit addresses"
    try:
        outcome = _run(_PROBE, Limits())
    except SandboxError as error:
        return error.problem.removeprefix(f"{_NOT_SAFE}: ").removesuffix(".")
    except OSError as error:
        return f"a program could not be started ({error})"
    return None if outcome.passed else f"the probe ended with {outcome.verdict}: {outcome.detail}"


def reading_is_confined() -> bool:
    """Whether a program can read no file but those of Python and the system's libraries."""
    return landlock.landlock_version() > 0


def run_program(source: str, limits: Limits | None = None) -> Outcome:
    """Run one program to its end or to its limits.

    Raises:
        SandboxError: this machine cannot shut it in (see `sandbox_problem`); it is not run.
    """
    _require_sandbox()
    return _run(source, limits or Limits())


def run_programs(sources: Iterable[str], limits: Limits | None = None, workers: int | None = None) -> Iterator[Outcome]:
    """Run programs, `workers` of them side by side (by default one for each core); outcomes in their order.

    Raises:
        SandboxError: as `run_program`.
    """
    _require_sandbox()
    # The threads only wait, but each must outlive its program: the kernel's death signal follows the thread.
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)), thread_name_prefix="sandbox") as pool:
        yield from pool.map(functools.partial(run_program, limits=limits), sources)


def _require_sandbox() -> None:
    problem = sandbox_problem()
    if problem is not None:
        raise SandboxError(f"{_NOT_SAFE}: {problem}.", _FIX)


@dataclass
class _Observed:
    """What a program did, as far as it can be seen from outside."""

    report: bytearray = field(default_factory=bytearray)
    output_end: bytes = b""
    output_bytes: int = 0
    stopped: tuple[Verdict, str] | None = None  # by us, and why
    exit_status: int = 0  # negative: the signal
    cpu_seconds: float = 0.0


def _run(source: str, limits: Limits) -> Outcome:
    token = secrets.token_hex(16)
    started = time.monotonic()
    observed = _Observed()
    with tempfile.TemporaryDirectory(prefix="sam2-program-") as empty_directory, tempfile.TemporaryFile() as job:
        job.write(_job(source, token, limits))
        job.seek(0)
        child, output, report = _start(job.fileno(), empty_directory)
        try:
            _watch(child.pid, output, report, limits, observed)
        finally:
            _end(child, observed)
            os.close(output)
            os.close(report)
    verdict, detail = _judge(observed, token, limits)
    return Outcome(verdict, detail[:DETAIL_CHARACTERS], time.monotonic() - started)


def _job(source: str, token: str, limits: Limits) -> bytes:
    """What the wrapper needs, one setting a line, then the program."""
    settings = [
        ("token", token),
        ("parent", str(os.getpid())),
        ("cpu_seconds", str(limits.cpu_seconds)),
        ("memory_bytes", str(limits.memory_bytes)),
        ("filter", filter_program(MACHINES[platform.machine()]).hex()),
    ]
    version = landlock.landlock_version()
    if version:
        settings.append(("landlock", landlock.ruleset(version).hex()))
        settings += [("readable", f"{access}:{path}") for path, access in landlock.readable().items()]
    header = "\n".join(f"{name}={value}" for name, value in settings)
    return os.fsencode(header) + b"\n\n" + source.encode("utf-8", "surrogatepass")


def _start(job: int, directory: str) -> tuple[subprocess.Popen[bytes], int, int]:
    """The child, and our ends of the pipes of its output and of its report."""
    output, output_end = os.pipe()
    report, report_end = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, *_INTERPRETER_OPTIONS, str(_WRAPPER), str(job), str(report_end)],
            stdin=subprocess.DEVNULL,
            stdout=output_end,
            stderr=output_end,
            pass_fds=(job, report_end),
            env=_ENVIRONMENT,
            cwd=directory,
            start_new_session=True,
        )
    except BaseException:
        os.close(output)
        os.close(report)
        raise
    finally:
        os.close(output_end)
        os.close(report_end)
    return child, output, report


def _process_handle(pid: int) -> int:
    """A descriptor that is readable once the process has ended: pidfd_open(2), which not every Python wraps."""
    handle = int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(_PIDFD_OPEN), pid, 0))
    if handle < 0:
        raise OSError(ctypes.get_errno(), "pidfd_open")
    return handle


def _watch(pid: int, output: int, report: int, limits: Limits, observed: _Observed) -> None:
    """Read both pipes until the child has ended, or until there is a reason to end it: `observed.stopped`.

    The program's time begins when its process is shut in: a busy machine's slow start is not its fault.
    """
    process = _process_handle(pid)
    with os.fdopen(process, "rb", buffering=0), selectors.DefaultSelector() as selector:
        for descriptor in (process, output, report):
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        begun, ended = False, False
        allowed, deadline = _START_SECONDS, time.monotonic() + _START_SECONDS
        while not ended and observed.stopped is None:
            ready = {key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
            ended = process in ready
            for pipe, take in ((output, _take_output), (report, _take_report)):
                if pipe in ready and not take(pipe, limits, observed):
                    selector.unregister(pipe)  # closed by the program, which may go on
            if not begun and observed.report.startswith(_READY):
                begun, allowed, deadline = True, limits.seconds, time.monotonic() + limits.seconds
            elif not ended and time.monotonic() >= deadline:
                observed.stopped = (Verdict.TIMED_OUT, f"still running after {allowed:g} seconds")
    if observed.stopped is None:
        _read_rest(output, report, limits, observed)


def _read_rest(output: int, report: int, limits: Limits, observed: _Observed) -> None:
    """What an ended child had still in its pipes, at most their capacity.

    A child that another thread is just starting may hold a copy of the other end: nothing is left all the same.
    """
    for pipe, take in ((output, _take_output), (report, _take_report)):
        with contextlib.suppress(BlockingIOError):
            while observed.stopped is None and take(pipe, limits, observed):
                pass


def _take_output(pipe: int, limits: Limits, observed: _Observed) -> bool:
    data = os.read(pipe, 65536)
    observed.output_bytes += len(data)
    observed.output_end = (observed.output_end + data)[-_KEPT_OUTPUT_BYTES:]
    if observed.output_bytes > limits.output_bytes:
        observed.stopped = (Verdict.TOO_MUCH_OUTPUT, f"printed more than {limits.output_bytes} bytes")
    return bool(data)


def _take_report(pipe: int, limits: Limits, observed: _Observed) -> bool:
    data = os.read(pipe, _REPORT_BYTES)
    observed.report += data
    if len(observed.report) > _REPORT_BYTES:
        observed.stopped = (Verdict.FAILED, "wrote to the pipe of its wrapper")
    return bool(data)


def _end(child: subprocess.Popen[bytes], observed: _Observed) -> None:
    """Kill whatever is left of the child's group and reap it.

    The child is ours to reap, so its id cannot have passed to another process before that.
    """
    os.killpg(child.pid, signal.SIGKILL)
    _, status, usage = os.wait4(child.pid, 0)
    observed.exit_status = child.returncode = os.waitstatus_to_exitcode(status)
    observed.cpu_seconds = usage.ru_utime + usage.ru_stime


def _judge(observed: _Observed, token: str, limits: Limits) -> tuple[Verdict, str]:
    """Verdict and detail.

    Raises:
        SandboxError: the process was not shut in, or ended before it was; the program was not read.
    """
    ready, _, report = observed.report.decode(errors="replace").partition("\n")
    if ready != "ready":
        ending = f"ended with status {observed.exit_status}: {_last_line(observed)}"
        problem = ready or f"its interpreter {observed.stopped[1] if observed.stopped else ending}"
        raise SandboxError(f"{_NOT_SAFE}: a program could not be shut in ({problem}).", _FIX)
    if observed.stopped is not None:
        return observed.stopped
    verdict, _, detail = report.partition(" ")
    if verdict == Verdict.PASSED and secrets.compare_digest(detail.encode(), token.encode()):
        if observed.exit_status == 0:
            return Verdict.PASSED, ""
        return Verdict.FAILED, f"ended with status {observed.exit_status} after its last statement"
    if observed.exit_status < 0:
        return _judge_signal(-observed.exit_status, observed.cpu_seconds, limits)
    if verdict in (Verdict.FAILED, Verdict.BLOCKED, Verdict.OUT_OF_MEMORY):
        return Verdict(verdict), detail
    if report:
        return Verdict.FAILED, "wrote to the pipe of its wrapper"
    last_line = _last_line(observed)
    ending = f"ended with status {observed.exit_status} before its last statement"
    return Verdict.FAILED, f"{ending}: {last_line}" if last_line else ending


def _judge_signal(number: int, cpu_seconds: float, limits: Limits) -> tuple[Verdict, str]:
    if number == signal.SIGXCPU or (number == signal.SIGKILL and cpu_seconds >= limits.cpu_seconds):
        return Verdict.TIMED_OUT, f"used its {limits.cpu_seconds} seconds of processor time"
    if number == signal.SIGKILL:  # not by us: nobody else but the system does this, and only for this reason
        return Verdict.OUT_OF_MEMORY, "killed from outside, as the system does when it runs out of memory"
    if number == signal.SIGSYS:
        return Verdict.BLOCKED, "made a system call by another architecture's convention"
    return Verdict.CRASHED, f"ended by {signal.Signals(number).name}"


def _last_line(observed: _Observed) -> str:
    lines = observed.output_end.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
