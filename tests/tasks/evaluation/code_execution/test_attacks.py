"""Each attack ends as a counted failure and harms nothing outside; unprotected, it would have."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tasks.evaluation.code_execution import Limits, Verdict, landlock, reading_is_confined, run_program
from tests.tasks.evaluation.code_execution.attacks import HARMFUL
from tests.tasks.evaluation.code_execution.outside import Outside, wait_until

pytestmark = pytest.mark.usefixtures("sandboxed")

SHORT = Limits(seconds=0.5, cpu_seconds=5)
GIVEN_UP = 60 * 2**20  # bytes by which this process may grow while a program does its worst


@pytest.fixture(params=["system calls and Landlock", "system calls alone"])
def _kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter must hold by itself: Landlock is not everywhere."""
    if request.param == "system calls alone":
        monkeypatch.setattr(landlock, "landlock_version", lambda: 0)
    elif not reading_is_confined():
        pytest.skip("this kernel has no Landlock")


def told(source: str, outside: Outside) -> str:
    names = "".join(f"{name} = {value!r}\n" for name, value in outside.names.items())
    return names + source


@pytest.mark.parametrize("attack", HARMFUL)
def test_the_attack_works_where_nothing_keeps_it_from_it(attack: str, outside: Outside) -> None:
    assert outside.harm() == []
    subprocess.run([sys.executable, "-S", "-c", told(HARMFUL[attack][0], outside)], check=True, timeout=60)
    assert wait_until(outside.harm)


@pytest.mark.usefixtures("_kernel")
@pytest.mark.parametrize("attack", HARMFUL)
def test_the_attack_fails_in_the_sandbox(attack: str, outside: Outside) -> None:
    source, verdict = HARMFUL[attack]
    outcome = run_program(told(source, outside))
    assert outcome.verdict is verdict, outcome.detail
    assert outside.harm() == []


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("while True: pass", Verdict.TIMED_OUT),
        ("import time; time.sleep(600)", Verdict.TIMED_OUT),
        ("import os, time\nfor number in (0, 1, 2): os.close(number)\ntime.sleep(600)", Verdict.TIMED_OUT),
        ("import os, time\nos.closerange(0, 9999)\ntime.sleep(600)", Verdict.TIMED_OUT),
        ("import os\nreader, writer = os.pipe()\nwhile True: os.write(writer, bytes(4096))", Verdict.TIMED_OUT),
        ("import os\nwhile True: os.fork()", Verdict.BLOCKED),
        ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", Verdict.TIMED_OUT),
        (
            "import signal\n"
            "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
            "    signal.signal(number, signal.SIG_IGN)\n"
            "while True: pass",
            Verdict.TIMED_OUT,
        ),
        ("import atexit\natexit.register(lambda: [None for _ in iter(int, 1)])", Verdict.TIMED_OUT),
    ],
)
def test_what_does_not_end_is_ended(source: str, verdict: Verdict, outside: Outside) -> None:
    outcome = run_program(source, SHORT)
    assert outcome.verdict is verdict, outcome.detail
    assert outside.harm() == []


def test_a_loop_is_ended_by_its_processor_time_though_it_ignores_the_signal(outside: Outside) -> None:
    limits = Limits(seconds=120.0, cpu_seconds=1)
    for preparation in ("", "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"):
        outcome = run_program(f"{preparation}while True: pass", limits)
        assert (outcome.verdict, outcome.detail) == (Verdict.TIMED_OUT, "used its 1 seconds of processor time")
    assert outside.harm() == []


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("data = bytearray(10 * 10**9)", Verdict.OUT_OF_MEMORY),
        ("data = []\nwhile True: data.append(bytearray(2**20))", Verdict.OUT_OF_MEMORY),
        ("data = [0]\nwhile True: data = data + data", Verdict.OUT_OF_MEMORY),
        ("import mmap; mmap.mmap(-1, 10 * 10**9)", Verdict.FAILED),  # an OSError, and no memory
        ("while True: print('x' * 10**6)", Verdict.TOO_MUCH_OUTPUT),
        ("import os\nwhile True: os.write(2, bytes(10**6))", Verdict.TOO_MUCH_OUTPUT),
        (
            "import os\nfor number in range(3, 9999):\n    try:\n        while True: os.write(number, bytes(10**6))\n"
            "    except OSError: pass",
            Verdict.FAILED,
        ),
        ("raise ValueError('x' * 10**8)", Verdict.FAILED),
    ],
)
def test_what_is_too_large_ends_and_this_process_does_not_grow(source: str, verdict: Verdict, outside: Outside) -> None:
    before = psutil.Process().memory_info().rss
    outcome = run_program(source, Limits(memory_bytes=2**29))
    assert outcome.verdict is verdict, outcome.detail
    assert len(outcome.detail) <= 300
    assert psutil.Process().memory_info().rss - before < GIVEN_UP
    assert outside.harm() == []


@pytest.mark.usefixtures("_kernel")
@pytest.mark.parametrize(
    "call",
    [
        "ptrace(16, victim, None, None)",
        "process_vm_readv(victim, None, 0, None, 0, 0)",
        "unshare(0x10000000)",  # CLONE_NEWUSER
        "mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "memfd_create(b'x', 0)",
        "setsid()",
        "prctl(1, 0, 0, 0, 0)",  # no longer to die with the parent
        "shmget(0, 4096, 0o1600)",  # memory that outlives the process
        "personality(0x40000)",
        "flock(pipe, 2)",
        "ioctl(pipe, 0x40086602, b'\\0' * 8)",  # FS_IOC_SETFLAGS needs no file open for writing
        "setpriority(0, 0, 5)",
    ],
)
def test_other_doors_are_closed_to_native_calls(call: str, outside: Outside) -> None:
    source = (
        "import ctypes, errno, os\n"
        "library = ctypes.CDLL(None, use_errno=True)\npipe = os.pipe()[0]\n"
        f"assert library.{call} == -1\n"
        "raise OSError(ctypes.get_errno(), 'refused')\n"
    )
    outcome = run_program(told(source, outside))
    assert outcome.verdict is Verdict.BLOCKED, outcome.detail
    assert outside.harm() == []


def test_other_processes_limits_are_out_of_reach(outside: Outside) -> None:
    before = psutil.Process().rlimit(psutil.RLIMIT_NOFILE)
    source = "import os, resource; resource.prlimit({}, resource.RLIMIT_NOFILE{})"
    assert run_program(source.format(0, "")).passed
    for process, new in ((os.getpid(), ", (9, 9)"), (os.getpid(), ""), (0, ", (9, 9)")):
        assert run_program(source.format(process, new)).verdict is Verdict.BLOCKED
    assert psutil.Process().rlimit(psutil.RLIMIT_NOFILE) == before


@pytest.mark.skipif(not reading_is_confined(), reason="this kernel has no Landlock")
@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "/proc/1/cmdline", "precious", __file__])
def test_files_that_python_does_not_need_are_not_read(path: str, outside: Outside) -> None:
    path = str(outside.precious) if path == "precious" else path
    assert Path(path).read_bytes()  # there is something to read
    outcome = run_program(f"open({path!r}).read()")
    assert outcome.verdict is Verdict.BLOCKED, outcome.detail
    assert run_program(f"import os; os.listdir({str(outside.directory)!r})").verdict is Verdict.BLOCKED


@pytest.mark.usefixtures("_kernel")
def test_a_file_that_this_process_has_open_is_not_inherited(outside: Outside) -> None:
    with outside.precious.open("a") as file:
        os.set_inheritable(file.fileno(), True)
        source = "import os\nfor number in range(3, 9999):\n    try: os.write(number, b'x')\n    except OSError: pass\n"
        outcome = run_program(source)
    assert (outcome.verdict, outcome.detail) == (Verdict.FAILED, "wrote to the pipe of its wrapper")
    os.utime(outside.precious, (0, 0))
    assert outside.harm() == []


def test_a_program_dies_with_the_process_that_runs_it(
    outside: Outside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # its directory is left: nobody is there to remove it
    runner = multiprocessing.get_context("fork").Process(
        target=run_program, args=("import time; time.sleep(600)", Limits(seconds=600))
    )
    runner.start()
    assert runner.pid is not None
    started = psutil.Process(runner.pid)
    # A program that sleeps has its filter: the process still starting would die with its parent only after that.
    assert wait_until(lambda: any(_is_filtered(child) for child in started.children()))
    runner.kill()
    runner.join()
    assert wait_until(lambda: all(process.status() == psutil.STATUS_ZOMBIE for process in outside.left_over()))


def _is_filtered(process: psutil.Process) -> bool:
    try:
        return "Seccomp:\t2" in Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        return False
